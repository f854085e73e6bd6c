"""Weight files: read safely, written atomically, named by their content.

A file is safetensors, or a pickle of which only the tensors are read (`domainbed.lib.pickles`);
nothing in it is executed.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from domainbed.lib import kinds, pickles, stored
from domainbed.lib.files import replacing
from domainbed.lib.kinds import shown
from domainbed.registry import InputError

State = dict[str, torch.Tensor]

Place = tuple[str, ...]
"""The keys that lead to a dictionary in a file; () is the file itself."""

USUAL: list[Place] = [("model_dict",), ("state_dict",), ("model_state_dict",), ("model",), ()]
"""Where pickles hold the weights of a network."""

_MAX_DEPTH = 3
_MAX_TENSORS = 100_000


def save(path: str | Path, state: Mapping[str, torch.Tensor], header: Mapping[str, Any]) -> None:
    """Write tensors and a header of JSON values; the file appears whole or not at all.

    A tensor that stands under several names (DomainBed's `featurizer.*` is also `network.0.*`) is
    stored under the first one; `read` gives all names back.
    """
    path = Path(path)
    kept: State = {}
    aliases: dict[str, str] = {}
    first: dict[tuple, str] = {}
    for name, tensor in state.items():
        place = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        owner = first.setdefault(place, name) if tensor.numel() else name
        if owner == name:
            kept[name] = tensor.detach().to("cpu", copy=False).contiguous()
        else:
            aliases[name] = owner
    metadata = stored.metadata_of(header, aliases)
    with replacing(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # save_file would hide the file from other users
        save_file(kept, temporary, metadata=metadata)
        stored.sort_metadata(temporary)
        temporary.chmod(mode)


class Contents:
    """The tensors that a weight file holds, before they are read.

    entries: name -> shape of each tensor, for each dictionary of the file that holds tensors, by
    its place there, such as ("teacher", "backbone"); () is the file itself. Segments
    `_orig_mod`, which torch.compile puts into names, are left out. header: what `save` wrote, {}
    for other programs' files. Raises `InputError` for a file that is missing or damaged, holds no
    tensors, or, unless keeps_all, what weights do not need.
    """

    entries: dict[Place, dict[str, tuple[int, ...]]]
    header: dict[str, Any]

    def __init__(self, path: str | Path, keeps_all: bool = False) -> None:
        self.path = Path(path)
        self._pickle: pickles.Pickle | None = None
        if self.path.is_dir():
            raise InputError(f"{path} is a folder; give the file of weights in it")
        if not self.path.is_file():
            raise InputError(f"{path} is not a file; expected weights as safetensors or a pickle")
        kind = kinds.kind(self.path)
        is_named_so = self.path.suffix == ".safetensors"
        if kind == kinds.SAFETENSORS or (is_named_so and kind not in (kinds.ZIP, kinds.PICKLE)):
            self._open_safetensors()
        elif is_named_so and not keeps_all:
            raise InputError(stored.refusal(self.path))
        elif kind in (kinds.ZIP, kinds.PICKLE):
            self._pickle = pickles.opened(self.path, keeps_all)
            self._described = _dictionaries(self._pickle)
            self.header = {}
            self.entries = {
                place: {name: tensor.shape for name, tensor in _tensors_of(values).items()}
                for place, values in self._described.items()
            }
        else:
            raise InputError(f"{path} {kind}")

    def _open_safetensors(self) -> None:
        with opened(self.path) as file:
            self.header = stored.parse_header(file.metadata(), self.path)
            aliases = self.header.pop(stored.ALIASES, {})
            self._plain = stored.plain_names([*file.keys(), *aliases])
        self._aliases = {self._plain[name]: self._plain.get(o, o) for name, o in aliases.items()}
        shapes = {name: tensor.shape for name, tensor in stored.tensors(self.path).items()}
        for name, owner in self._aliases.items():
            if owner not in shapes:
                raise InputError(
                    f"{self.path} says that {shown(name)} is {shown(owner)}, which it does not hold"
                )
            shapes[name] = shapes[owner]
        self.entries = {(): shapes}

    def place(self, entry: Place, name: str) -> Any:
        """What is equal for two names of one tensor; None for a name that is not there."""
        if self._pickle is not None:
            return self._described[entry].get(name)
        return self._aliases.get(name, name if name in self.entries[entry] else None)

    def load(self, entry: Place) -> State:
        """All tensors of an entry by name, on the CPU; of two names of one tensor both."""
        if self._pickle is not None:
            return _materialised(self._pickle, self._described[entry])
        with opened(self.path) as file:
            try:
                state = {self._plain[name]: file.get_tensor(name) for name in file.keys()}
            except (SafetensorError, OSError) as error:
                raise InputError(f"{self.path} is damaged: {error}") from error
        for name, owner in self._aliases.items():
            state[name] = state[owner]
        return state

    @property
    def foreign(self) -> set[str]:
        """The classes that were left out, with keeps_all."""
        return self._pickle.foreign if self._pickle else set()

    @property
    def main(self) -> Place:
        """The entry that holds the weights where nobody knows what of: by its name, or the largest.

        Optimisers keep as many tensors as networks have, under names of their own.
        """
        named = [entry for entry in USUAL if entry in self.entries]
        return named[0] if named else max(self.entries, key=lambda e: len(self.entries[e]))


def read(path: str | Path) -> tuple[State, dict[str, Any]]:
    """All tensors by name, on the CPU, and the header ({} for a pickle).

    Of a pickle that holds several state dicts, the one that is named as usual, or else the largest.
    Raises `InputError` for a file that is missing, damaged, or holds anything but tensors.
    """
    contents = Contents(path)
    return contents.load(contents.main), contents.header


def content_hash(state: Mapping[str, torch.Tensor]) -> str:
    """sha256 over names, dtypes, shapes and bytes in order of names: the identity of weights."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        if tensor.numel():
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def tensors(module: torch.nn.Module) -> State:
    """The state dict without what is no tensor, such as the state of optimisers."""
    return {k: v for k, v in module.state_dict().items() if isinstance(v, torch.Tensor)}


def load_matching(module: torch.nn.Module, state: Mapping[str, torch.Tensor], what: str) -> None:
    """Load `state` into `module` by name, strictly.

    Raises `InputError` that counts and names what is missing, left over or of another shape; no
    weight is ever skipped in silence.
    """
    own = tensors(module)
    missing = sorted(set(own) - set(state))
    extra = sorted(set(state) - set(own))
    shapes = [n for n in own if n in state and own[n].shape != state[n].shape]
    faults = [
        f"{len(names)} {word} ({', '.join(map(shown, names[:3]))}{', ...' if names[3:] else ''})"
        for names, word in ((missing, "missing"), (extra, "unexpected"), (shapes, "of other shape"))
        if names
    ]
    if faults:
        raise InputError(
            f"{what} does not fit {type(module).__name__}: tensors {'; '.join(faults)}. "
            "Expected weights of the same architecture; check the backbone and the file"
        )
    module.load_state_dict(dict(state), strict=False)  # names were compared above


def layout(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor of a module by name."""
    return {name: tuple(tensor.shape) for name, tensor in tensors(module).items()}


def opened(path: str | Path) -> Any:
    """A memory-mapped safetensors file as a context manager; `InputError` for any other file."""
    return stored.opened(path, "pt")


def _dictionaries(pickle: pickles.Pickle) -> dict[Place, dict[str, Any]]:
    """The dictionaries of a pickle that hold tensors, by their place in it.

    Raises `InputError` if there are none.
    """
    found: dict[Place, dict[str, Any]] = {}
    seen: set[int] = set()
    waiting: deque[tuple[Place, Any]] = deque([((), pickle.content)])
    while waiting:
        place, value = waiting.popleft()
        if not isinstance(value, dict) or id(value) in seen:
            continue
        seen.add(id(value))
        if any(isinstance(v, pickles.Tensor) for v in value.values()):
            plain = stored.plain_names(value)
            found[place] = {plain[key]: v for key, v in value.items()}
        if len(place) < _MAX_DEPTH:
            waiting += (((*place, key), v) for key, v in value.items())
    if not found:
        what = type(pickle.content).__name__
        raise InputError(
            f"{pickle.path} holds {'no tensors' if what == 'dict' else what}, expected a state "
            "dict: the tensors of a network by name, as torch.save(net.state_dict(), FILE) writes"
        )
    return found


def _tensors_of(values: Mapping[str, Any]) -> dict[str, pickles.Tensor]:
    return {name: v for name, v in values.items() if isinstance(v, pickles.Tensor)}


def _materialised(pickle: pickles.Pickle, values: Mapping[str, Any]) -> State:
    """The tensors of a dictionary; those that share numbers in the file share them here.

    Numbers, texts and dictionaries beside them are no weights. Raises `InputError` for anything
    else, and for tensors that are more than what the file holds.
    """
    tensors = _tensors_of(values)
    if len(tensors) > _MAX_TENSORS:
        raise InputError(f"{pickle.path} holds {len(tensors):,} tensors, more than any network has")
    beside = int | float | str | dict | None
    for name, value in values.items():
        if name not in tensors and not isinstance(value, beside):
            raise InputError(f"{pickle.path} holds {shown(name)!r}, which is not a tensor")
    for name, tensor in tensors.items():
        if fault := pickle.check(tensor):
            raise InputError(f"{pickle.path} says that {shown(name)!r} {fault}")
        if not isinstance(getattr(torch, tensor.dtype, None), torch.dtype):
            raise InputError(f"{pickle.path} holds {tensor.dtype}, which torch here does not know")
    storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    held = sum(pickles.n_bytes(storage) for storage in storages.values())
    if _n_bytes(set(tensors.values())) > 2 * held:
        raise InputError(f"{pickle.path} says that its tensors are larger than what it holds")
    numbers = {
        key: torch.empty(pickles.n_bytes(one), dtype=torch.uint8) for key, one in storages.items()
    }
    try:
        with pickle.reading() as fill:
            for key, buffer in numbers.items():
                fill(storages[key], memoryview(buffer.numpy()))
        return {
            name: numbers[t.storage.key]
            .view(getattr(torch, t.dtype))
            .as_strided(t.shape, t.stride, t.offset)
            for name, t in tensors.items()
        }
    except Exception as error:  # of zipfile, zlib, torch: bytes that are damaged
        raise InputError(f"{pickle.path} is damaged ({type(error).__name__}: {error})") from error


def _n_bytes(tensors: Iterable[pickles.Tensor]) -> int:
    return sum(math.prod(t.shape) * pickles.ITEM_SIZES[t.dtype] for t in tensors)
