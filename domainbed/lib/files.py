"""Files by their content."""

from __future__ import annotations

import hashlib
from pathlib import Path

_CHUNK = 2**20


def sha256_of(path: Path) -> str:
    """The sha256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
