"""Foundations: the weights that a featurizer starts from.

`hparams["foundation"]` is None for the backbone's own pretrained weights (where it has none, a
draw from the caller's generator), "random" for weights of chance that are the same for everyone,
"letters" for a network trained on printed letters, or the path of a file.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from domainbed.lib import naming, weights
from domainbed.lib.kinds import shown
from domainbed.networks import lite, timm_backbone
from domainbed.networks.backbones import Features, adapt_filters
from domainbed.registry import InputError

logger = logging.getLogger(__name__)

LETTERS = Path(__file__).with_name("letters.safetensors")
RANDOM_SEED = 0

Build = Callable[[tuple[int, ...], dict[str, Any]], nn.Module]  # with `n_outputs`

_HEADS = {
    "fc", "classifier", "head", "heads", "head_dist", "last_linear", "linear", "logits",
    "proj_head", "projection_head", "projector", "projection", "predictor", "prediction_head",
    "mlp_head", "aux_classifier", "AuxLogits", "contrastive_head",
}  # fmt: skip


def build(
    name: str, build_it: Build, input_shape: tuple[int, ...], hparams: dict[str, Any]
) -> Features:
    """Build a backbone with the foundation that `hparams` name, and note it as `foundation`."""
    wanted = hparams.get("foundation")
    if wanted == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(RANDOM_SEED)
            featurizer = cast(Features, build_it(input_shape, hparams))
        label = "random"
    else:
        featurizer = cast(Features, build_it(input_shape, hparams))
        label = _load(featurizer, name, wanted, input_shape, hparams)
    featurizer.foundation = label
    return featurizer


def _load(
    featurizer: nn.Module,
    name: str,
    wanted: str | None,
    input_shape: tuple[int, ...],
    hparams: dict[str, Any],
) -> str:
    """Load the weights that are `wanted`; return what to call them."""
    if wanted is None:
        return _load_own(featurizer, name, input_shape, hparams)
    path = file_of(wanted)
    load_file(featurizer, path, f"--foundation {wanted!r}")
    return "letters" if wanted == "letters" else f"file:{path.name}"


def file_of(wanted: str) -> Path:
    """The file of a foundation that is "letters" or a path; `InputError` where there is none."""
    path = LETTERS if wanted == "letters" else Path(wanted)
    if path.is_dir():
        raise InputError(f"--foundation was given {wanted!r}, a folder; give a file of weights")
    if not path.is_file():
        raise InputError(
            f"--foundation was given {wanted!r}, which is neither a file nor 'letters' nor "
            "'random'; expected one of these"
        )
    return path


def featurizer_state(state: weights.State) -> weights.State:
    """The featurizer's tensors of one of our runs, by the names that they have in it.

    A whole algorithm stands under `featurizer.*`, or `network.0.*`; a bare backbone under its own
    names; heads are left out.
    """
    for prefix in ("featurizer.", "network.0."):
        found = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
        if found:
            return found
    return {key: value for key, value in state.items() if not _is_head(key)}


def load_file(featurizer: nn.Module, path: Path, what: str) -> tuple[weights.State, dict[str, Any]]:
    """Load a featurizer from a file of any program; return what was read, and the file's header.

    Names may be nested and have any prefix (`domainbed.lib.naming`); heads are left out. What was
    taken and left is logged, unless it is as in our own files. Raises `InputError` as
    `load_foreign` does.
    """
    contents, own = weights.Contents(path), weights.layout(featurizer)
    fit, others = naming.best(contents, own)
    state = contents.load(fit.entry)
    names = naming.bare(own)
    taken, left = {}, []
    for key, tensor in state.items():
        name = key.removeprefix(fit.prefix)
        if key.startswith(fit.prefix) and (name in names or not (_is_head(key) or _is_head(name))):
            taken[names.get(name, name)] = tensor
        else:
            left.append(key)
    load_foreign(featurizer, taken, what)
    if fit.label not in ("featurizer", "network.0"):
        _tell(path, fit, left)
    if others:
        logger.warning(
            "%s: %s was taken; %s would fit as well", path, shown(fit.label),
            ", ".join(shown(other.label) for other in others[:5]),
        )  # fmt: skip
    return state, contents.header


def _tell(path: Path, fit: naming.Fit, left: list[str]) -> None:
    if not fit.label and not left:
        return
    logger.info(
        "%s: weights %s%s", path, f"under {shown(fit.label)}" if fit.label else "of its own names",
        f"; left out: {naming.summary(left)}" if left else "",
    )  # fmt: skip


def _is_head(name: str) -> bool:
    name = name.removeprefix("network.") if not name.startswith("network.1.") else "head."
    return name.split(".")[0] in _HEADS or name.startswith("decoder")


def load_foreign(featurizer: nn.Module, state: weights.State, what: str) -> None:
    """Load strictly, but for what files of other programs may lack or have beside the network.

    They may lack counters of BatchNorm; DINOv2's own have a mask token that only its pretraining
    used.
    """
    own = weights.tensors(featurizer)
    counters = {k: v for k, v in own.items() if k.endswith("num_batches_tracked")}
    state = {k: v for k, v in state.items() if k in own or not k.endswith("mask_token")}
    weights.load_matching(featurizer, {**counters, **state}, what)


def default_shared(input_shape: tuple[int, ...], hparams: dict[str, Any]) -> str | None:
    """The foundation that runs share which are to be averaged, where none is named.

    None for a backbone that has pretrained weights of its own.
    """
    from domainbed.networks import backbone_name

    name = backbone_name(input_shape, hparams)
    if _own(name, input_shape, hparams) is not None:
        return None
    return "letters" if name == "mnist_cnn" and input_shape[0] == 1 else "random"


def _load_own(
    featurizer: nn.Module, name: str, input_shape: tuple[int, ...], hparams: dict[str, Any]
) -> str:
    """Load a backbone's own pretrained weights; raises `InputError` where they cannot be had."""
    source = _own(name, input_shape, hparams)
    if source is None:
        return ""
    label, state_of = source
    try:
        state = state_of()
    except Exception as error:  # each source fails in ways of its own
        first_line = str(error).strip().split("\n")[0]
        reason = f"{type(error).__name__}: {first_line[:120]}"
        raise InputError(
            f"The weights {label} cannot be had "
            f"({first_line if isinstance(error, InputError) else reason}); "
            "give a file with --foundation FILE, or ask for --foundation random"
        ) from error
    state = {f"network.{key}": tensor for key, tensor in state.items()}
    for key, own in weights.tensors(featurizer).items():
        if own.ndim == 4 and key in state and state[key].shape != own.shape:
            state[key] = adapt_filters(state[key], input_shape[0])
    load_foreign(featurizer, state, label)
    return label


def _own(
    name: str, input_shape: tuple[int, ...], hparams: dict[str, Any]
) -> tuple[str, Callable[[], weights.State]] | None:
    """What a backbone's own weights are called, and how to get them; None if it has none."""
    from domainbed.networks import BACKBONES

    if name == "resnet50" and hparams.get("resnet50_augmix"):
        return "timm/resnet50.ram_in1k", lambda: timm_backbone.pretrained_state(
            "resnet50.ram_in1k", (3, *input_shape[1:])
        )
    if name in ("resnet18", "resnet50"):
        return f"torchvision/{name}.IMAGENET1K_V1", lambda: _headless(_torchvision_state(name))
    if name == "efficientnet_lite0":
        return "efficientnet_lite0", lambda: _headless(lite.imagenet_state())
    model = timm_backbone.NAMES.get(name, None if name in BACKBONES else name)
    if model is None or not timm_backbone.has_pretrained(model):
        return None
    return f"timm/{model}", lambda: timm_backbone.pretrained_state(model, input_shape)


def _torchvision_state(name: str) -> weights.State:
    from torchvision.models import get_model_weights

    source = get_model_weights(name)["IMAGENET1K_V1"]
    with _patience(seconds=30):
        return source.get_state_dict(progress=False, check_hash=True, weights_only=True)


@contextlib.contextmanager
def _patience(seconds: float) -> Iterator[None]:
    """Let no new connection wait for longer: torch.hub sets no limit of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _headless(state: weights.State) -> weights.State:
    return {key: value for key, value in state.items() if not _is_head(key)}
