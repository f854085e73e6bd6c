"""The card of an ingredient: what its weights are, where they come from, what they have seen.

A card is a small TOML file that people read and edit. It may be anyone's, so whatever is in it is
checked: types, lengths, ranges, and that it prints as it is. What is left out is unknown.
"""

from __future__ import annotations

import json
import math
import re
import stat
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from domainbed.registry import InputError, nearest
from domainbed.runs import LAST

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CARD = "card.toml"
FILES = (LAST, CARD)
"""What an ingredient consists of."""

FORMAT = 1
MAX_BYTES = 2**14
"""The largest card that is read: TOML of nested keys takes time that grows with its square."""

_COMMENT = (
    "# What these weights are and what they have seen. `pool verify` compares it with them.\n"
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_RESERVED = {"pool.lock"}


class Wrong(Exception):
    """A value that is not what it should be; says what is expected."""


@dataclass(frozen=True)
class Foundation:
    """What weights descend from: a name to show, and the content hash that decides."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Card:
    """A checked card; `datasets_seen` is None where the past is unknown."""

    name: str
    sha256: str
    size: int
    foundation: Foundation
    backbone: str
    input_shape: tuple[int, ...]
    datasets_seen: tuple[str, ...] | None = None
    task: str = ""
    licence: str = ""
    how: str = ""
    code_version: str = ""
    steps: int | None = None
    id_acc: float | None = None
    hparams: Mapping[str, Any] = field(default_factory=dict)

    def provenance(self) -> dict[str, Any]:
        """What the header of the weights says too, as in any run's weights."""
        values: dict[str, Any] = {"foundation": vars(self.foundation).copy()}
        if self.datasets_seen is not None:
            values["datasets_seen"] = list(self.datasets_seen)
        return values

    def has_seen(self, dataset: str) -> bool:
        """Whether the card names a dataset, however it is spelt."""
        return any(is_same_dataset(dataset, seen) for seen in self.datasets_seen or ())


def is_same_dataset(a: str, b: str) -> bool:
    """Whether two names differ in case and punctuation only: "Office-Home", "office_home"."""
    return _letters(a) == _letters(b)


def _letters(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())


def check_name(name: str) -> str:
    """Return the name of an ingredient, which is that of a folder; `InputError` for another."""
    try:
        return _name(name)
    except Wrong as error:
        raise InputError(f"{name!r} names no ingredient; expected {error}") from None


def _name(value: Any) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value) or value in _RESERVED:
        raise Wrong("a folder's name of up to 100 letters, digits, '.', '_' and '-'")
    return value


def _text(most: int, least: int = 0) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        is_text = isinstance(value, str) and least <= len(value) <= most
        if not is_text or not value.isprintable() or least > len(value.strip()):
            raise Wrong(f"one line of {least} to {most} printable characters")
        return value

    return check


def _matching(pattern: str, what: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise Wrong(what)
        return value

    return check


def _integer(most: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if type(value) is not int or not 0 <= value <= most:
            raise Wrong(f"an integer from 0 to {most}")
        return value

    return check


def _fraction(value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value <= 1:
        raise Wrong("a number from 0 to 1")
    return float(value)


def _shape(value: Any) -> tuple[int, ...]:
    is_list = isinstance(value, list) and len(value) in (1, 3)
    if not is_list or not all(type(n) is int and 1 <= n <= 4096 for n in value):
        raise Wrong("one or three integers from 1 to 4096, such as [3, 224, 224]")
    return tuple(value)


def _datasets(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= 100:
        raise Wrong("a list of 1 to 100 datasets; leave it out if they are unknown")
    for name in value:
        if not _letters(_text(100, 1)(name)):
            raise Wrong("names of datasets, with letters or digits in them")
    return tuple(value)


def _foundation(value: Any) -> Foundation:
    if not isinstance(value, dict) or value.keys() != {"name", "sha256"}:
        raise Wrong("a table of name and sha256")
    return Foundation(_text(200)(value["name"]), _sha256(value["sha256"]))


def _hparams(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or len(value) > 200:
        raise Wrong("a table of at most 200 values")
    for key, one in value.items():
        _matching(r"[A-Za-z_][A-Za-z0-9_]{0,63}", "names of letters, digits and '_'")(key)
        if isinstance(one, str):
            _text(200)(one)
        elif type(one) is int and abs(one) >= 2**63:
            raise Wrong("integers of 64 bits")
        elif type(one) not in (bool, int, float) or not math.isfinite(one):
            raise Wrong("truth values, finite numbers and text")
    return value


_sha256 = _matching("[0-9a-f]{64}", "64 hexadecimal digits")

REQUIRED: dict[str, Callable[[Any], Any]] = {
    "name": _name,
    "sha256": _sha256,
    "size": _integer(2**50),
    "foundation": _foundation,
    "backbone": _matching(r"[A-Za-z0-9_.]{1,100}", "a backbone's name"),
    "input_shape": _shape,
}
OPTIONAL: dict[str, Callable[[Any], Any]] = {
    "task": _text(300),
    "datasets_seen": _datasets,
    "licence": _text(100),
    "how": _text(3000),
    "code_version": _text(100),
    "steps": _integer(2**40),
    "id_acc": _fraction,
    "hparams": _hparams,
}
_KEYS = {**REQUIRED, **OPTIONAL}
# fmt: off
_ORDER = (
    "name", "task", "datasets_seen", "licence", "backbone", "input_shape", "steps", "id_acc",
    "how", "code_version", "size", "sha256",
)
# fmt: on


def check(values: Mapping[str, Any], where: str) -> Card:
    """A card of these values; raises `InputError` that names `where` and the first wrong one."""
    for key in values:
        if key not in _KEYS:
            raise InputError(f"{where} has an unknown key {key!r}. {nearest(key, _KEYS)}")
    for key in REQUIRED:
        if key not in values:
            raise InputError(f"{where} does not say {key}; a card must")
    checked = {}
    for key, value in values.items():
        try:
            checked[key] = _KEYS[key](value)
        except Wrong as error:
            raise InputError(f"{where} has {key} = {short(value)}; expected {error}") from None
    return Card(**checked)


def short(value: Any) -> str:
    """A value as ASCII, cut at 80 characters."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def parse(text: str, where: str) -> Card:
    """Read a card; raises `InputError`, naming `where`, for whatever is not one."""
    text = text.replace("\r\n", "\n")
    odd = next((c for c in text if not c.isprintable() and c not in "\n\t"), None)
    if odd is not None:
        raise InputError(f"{where} holds the character {odd!a}, which does not print; remove it")
    if len(text.encode()) > MAX_BYTES:
        raise InputError(f"{where} is longer than a card may be, {MAX_BYTES} bytes")
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not TOML: {short(str(error))}") from error
    version = values.pop("format", FORMAT)
    if version != FORMAT or type(version) is not int:
        raise InputError(f"{where} has format = {short(version)}; this version reads {FORMAT}")
    return check(values, where)


def size_of(path: Path) -> int:
    """The size of a plain file in bytes; raises `InputError` for a link or anything else."""
    try:
        status = path.lstat()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path} is not a plain file; it must be one, and no link")
    return status.st_size


def read(path: Path) -> Card:
    """Read a card's file."""
    size = size_of(path)
    if size > MAX_BYTES:
        raise InputError(f"{path} has {size} bytes; a card has at most {MAX_BYTES}")
    try:
        return parse(path.read_bytes().decode("utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: {error.reason}") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def render(card: Card) -> str:
    """A card as TOML; `parse` gives it back."""
    said = {key: getattr(card, key) for key in _ORDER}
    lines = [f"format = {FORMAT}"]
    lines += [f"{key} = {_toml(value)}" for key, value in said.items() if value not in (None, "")]
    lines += ["", "[foundation]", *(f"{k} = {_toml(v)}" for k, v in vars(card.foundation).items())]
    if card.hparams:
        lines += [
            "",
            "[hparams]",
            *(f"{k} = {_toml(card.hparams[k])}" for k in sorted(card.hparams)),
        ]
    return _COMMENT + "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    """A value in TOML, whose text, numbers, truth values and lists are those of JSON."""
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
