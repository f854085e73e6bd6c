"""Foundations: the weights that a featurizer starts from.

`hparams["foundation"]` is None for the backbone's own pretrained weights (where it has none, a
draw from the caller's generator), "random" for weights of chance that are the same for everyone,
"letters" for a network trained on printed letters, or the path of a file.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from domainbed.lib import weights
from domainbed.networks import lite, timm_backbone
from domainbed.networks.backbones import Features, adapt_filters
from domainbed.registry import InputError

LETTERS = Path(__file__).with_name("letters.safetensors")
RANDOM_SEED = 0

Build = Callable[[tuple[int, ...], dict[str, Any]], nn.Module]  # with `n_outputs`

_HEADS = ("fc.", "classifier.", "head.")


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
    path = LETTERS if wanted == "letters" else Path(wanted)
    if not path.is_file():
        raise InputError(
            f"--foundation was given {wanted!r}, which is neither a file nor 'letters' nor "
            "'random'; expected one of these"
        )
    own = weights.tensors(featurizer)
    state = _inside_or_outside(featurizer_state(weights.read(path)[0], own), own)
    load_foreign(featurizer, state, f"--foundation {wanted!r}")
    return "letters" if wanted == "letters" else f"file:{path.name}"


def featurizer_state(state: weights.State, own: Collection[str] = ()) -> weights.State:
    """The featurizer's tensors of a file, by the names that they have in the featurizer itself.

    A whole algorithm stands under `featurizer.*`, or `network.0.*`; a bare backbone under its own
    names; heads are left out, but for tensors that the featurizer has itself (`own`).
    """
    state = {key.removeprefix("module."): value for key, value in state.items()}
    for prefix in ("featurizer.", "network.0."):
        found = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
        if found:
            return found
    kept = {*own, *(name.removeprefix("network.") for name in own)}
    return {key: value for key, value in state.items() if key in kept or not _is_head(key)}


def _is_head(name: str) -> bool:
    return name.startswith("network.1.") or name.removeprefix("network.").startswith(_HEADS)


def _inside_or_outside(state: weights.State, own: Collection[str]) -> weights.State:
    """The names inside of a wrapper `network`, or outside, whichever are more like `own`."""
    inside = {f"network.{key}": value for key, value in state.items()}
    outside = {key.removeprefix("network."): value for key, value in state.items()}
    return max((state, inside, outside), key=lambda named: len(set(own) & set(named)))


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
