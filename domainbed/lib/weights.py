"""Weight files: read safely, written atomically, named by their content.

A file is safetensors, or a pickle read by torch's weights-only loader; nothing in it is executed.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from domainbed.lib import stored
from domainbed.lib.files import replacing
from domainbed.registry import InputError

State = dict[str, torch.Tensor]


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


def read(path: str | Path) -> tuple[State, dict[str, Any]]:
    """All tensors by name, on the CPU, and the header ({} for a pickle).

    Raises `InputError` for a file that is missing, damaged, or holds anything but tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} is not a file; expected weights as safetensors or a state dict")
    if _is_safetensors(path):
        with opened(path) as file:
            header = stored.parse_header(file.metadata(), path)
            try:
                state = {name: file.get_tensor(name) for name in file.keys()}
            except (SafetensorError, OSError) as error:
                raise InputError(f"{path} is damaged: {error}") from error
        for name, owner in header.pop(stored.ALIASES, {}).items():
            if owner not in state:
                raise InputError(f"{path} says that {name} is {owner}, which it does not hold")
            state[name] = state[owner]
        return state, header
    return _read_pickle(path), {}


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
        f"{len(names)} {word} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for names, word in ((missing, "missing"), (extra, "unexpected"), (shapes, "of other shape"))
        if names
    ]
    if faults:
        raise InputError(
            f"{what} does not fit {type(module).__name__}: tensors {'; '.join(faults)}. "
            "Expected weights of the same architecture; check the backbone and the file"
        )
    module.load_state_dict(dict(state), strict=False)  # names were compared above


def _is_safetensors(path: Path) -> bool:
    """Eight bytes of length, then a JSON object."""
    with open(path, "rb") as file:
        start = file.read(9)
    return path.suffix == ".safetensors" or (len(start) == 9 and start[8:] == b"{")


def opened(path: str | Path) -> Any:
    """A memory-mapped safetensors file as a context manager; `InputError` for any other file."""
    return stored.opened(path, "pt")


def _check_unpacked(path: Path) -> None:
    """Raise `InputError` for a pickle that is much larger unpacked: torch does not compress."""
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                total = sum(info.file_size for info in archive.infolist())
        except (zipfile.BadZipFile, OSError) as error:
            raise InputError(f"{path} cannot be read as weights: {error}") from error
        if total > path.stat().st_size:
            raise InputError(f"{path} would unpack to {total} bytes; torch writes no such file")


def unpickled(path: Path) -> Any:
    """What a pickle holds: tensors, numbers and texts, or `InputError`; nothing is executed."""
    _check_unpacked(path)
    numpy_scalars: list[Any] = [
        np.dtype,
        *{type(np.dtype(t)) for t in (np.int64, np.float64, np.bool_)},
    ]
    numpy_scalars.append(np.float64(0).__reduce__()[0])  # numpy's scalar constructor
    try:
        with torch.serialization.safe_globals(numpy_scalars):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).split("\n")[0]
        raise InputError(
            f"{path} cannot be read as weights ({type(error).__name__}: {reason}); expected "
            "safetensors or a pickled state dict of tensors, which is all that is ever unpickled"
        ) from error


def _read_pickle(path: Path) -> State:
    content = unpickled(path)
    for key in ("model_dict", "state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not content:
        raise InputError(f"{path} holds {type(content).__name__}, expected a state dict")
    foreign = [k for k, v in content.items() if not isinstance(v, torch.Tensor)]
    if foreign:
        raise InputError(f"{path} holds {foreign[0]!r}, which is not a tensor")
    bloated = [k for k, v in content.items() if _would_grow(v)]
    if bloated:
        raise InputError(f"{path} says that {bloated[0]!r} is larger than what it holds of it")
    return content


def _would_grow(tensor: torch.Tensor) -> bool:
    """Whether a copy would take more memory than a tensor has: strides can repeat numbers."""
    return tensor.layout != torch.strided or tensor.nbytes > tensor.untyped_storage().nbytes()
