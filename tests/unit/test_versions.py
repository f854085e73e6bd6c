"""What is claimed of versions is what .ci/oldest tests with."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
NOT_PINNED = {"ruff", "wilds", "ray"}
"""A formatter's version changes no test; tests pass over what is not installed."""


def test_the_oldest_versions_are_the_lower_bounds():
    bounds = dict(re.findall(r'"([\w-]+)>=([\d.]+)', (ROOT / "setup.py").read_text()))
    pinned = dict(
        re.findall(r"^([\w-]+)==([\d.]+)$", (ROOT / "tests/oldest.txt").read_text(), re.M)
    )
    bounds.pop("setuptools", None)
    assert pinned == {name: least for name, least in bounds.items() if name not in NOT_PINNED}
