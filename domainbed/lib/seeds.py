"""The seeds that make a benchmark repeatable."""

from __future__ import annotations

import hashlib


def seed_hash(*args: object) -> int:
    """Derive a seed below 2**31 from any plain values: the md5 of `str(args)`, as DomainBed does.

    Raises TypeError for a value that is not plain Python: numpy 2 prints its scalars unlike
    numpy 1, so a leaked one would silently change every split.
    """
    _require_plain(args)
    return int(hashlib.md5(str(args).encode("utf-8")).hexdigest(), 16) % 2**31


def _require_plain(value: object) -> None:
    if type(value) in (list, tuple):
        for item in value:  # type: ignore[attr-defined]
            _require_plain(item)
    elif value is not None and type(value) not in (bool, int, float, str):
        raise TypeError(
            f"seed_hash got {value!r} of type {type(value).__name__}; "
            "expected plain bool, int, float, str, None, list or tuple: convert it first"
        )
