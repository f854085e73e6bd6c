import numpy as np
import pytest

from domainbed.lib.seeds import seed_hash


def test_golden_seeds(golden):
    for args, expected in golden["seed_hash"]:
        assert seed_hash(*args) == expected


@pytest.mark.parametrize("leaked", [np.int64(3), np.float64(0.5), [np.int64(1)], object()])
def test_values_that_print_unlike_plain_python_are_refused(leaked):
    with pytest.raises(TypeError, match="plain"):
        seed_hash("PACS", leaked)
