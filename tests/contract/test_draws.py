"""Losses, logits and weights of every algorithm are those of public DomainBed.

They are computed in float64, where processors and numbers of threads agree to rounding.
"""

import json

import pytest
import torch
from conftest import GOLDEN
from public_updates import difference, run

DEFAULTS, DRAWS = (
    json.loads((GOLDEN / f"public_{name}.json").read_text()) for name in ("defaults", "draws")
)
SETTINGS = ("algorithm", "draw_for", "draw_seed", "input_shape", "hparams")


def row_name(row):
    return f"{row['algorithm']}-{row['draw_seed']}"


def assert_same(row):
    actual = run(row)
    expected = {key: value for key, value in row.items() if key not in SETTINGS}
    assert difference(actual, expected) < 1e-6


@pytest.mark.parametrize("row", DEFAULTS, ids=row_name)
def test_updates_with_defaults(row):
    assert_same(row)


@pytest.mark.parametrize("row", DRAWS, ids=row_name)
def test_updates_with_drawn_hparams(row):
    assert_same(row)


@pytest.mark.parametrize("n_threads", [1, 2])
def test_threads_do_not_matter(n_threads):
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        assert_same(DEFAULTS[0])
    finally:
        torch.set_num_threads(before)


def test_a_row_is_told_from_one_that_is_slightly_off():
    row = {**DEFAULTS[0], "hparams": {**DEFAULTS[0]["hparams"], "lr": 1.00001e-3}}
    with pytest.raises(AssertionError):
        assert_same(row)
