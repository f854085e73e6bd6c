"""Foundations: the weights that a featurizer starts from.

`hparams["foundation"]` is None for the backbone's own pretrained weights (where it has none, a
draw from the caller's generator), "random" for weights of chance that are the same for everyone,
"letters" for a network trained on printed letters, or the path of a file.
"""

from __future__ import annotations

import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from domainbed.lib import weights
from domainbed.networks import lite, timm_backbone
from domainbed.networks.backbones import adapt_channels
from domainbed.registry import InputError

LETTERS = Path(__file__).with_name("letters.safetensors")
RANDOM_SEED = 0

Build = Callable[[tuple[int, ...], dict[str, Any]], nn.Module]

_HEADS = ("fc.", "classifier.", "head.", "network.1.")


def build(
    name: str, build_it: Build, input_shape: tuple[int, ...], hparams: dict[str, Any]
) -> nn.Module:
    """Build a backbone with the foundation that `hparams` name, and note it as `foundation`."""
    wanted = hparams.get("foundation")
    if wanted == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(RANDOM_SEED)
            featurizer = build_it(input_shape, hparams)
        label = "random"
    else:
        featurizer = build_it(input_shape, hparams)
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
    state, _ = weights.read(path)
    state = featurizer_state(state)
    if not set(state) & set(weights.tensors(featurizer)):
        state = {f"network.{key}": value for key, value in state.items()}
    load_foreign(featurizer, state, f"--foundation {wanted!r}")
    return "letters" if wanted == "letters" else f"file:{path.name}"


def featurizer_state(state: weights.State) -> weights.State:
    """The featurizer's tensors of a file, by the names that they have in the featurizer itself.

    A whole algorithm stands under `featurizer.*`, or `network.0.*`; a bare backbone under its own
    names; heads are left out.
    """
    state = {key.removeprefix("module."): value for key, value in state.items()}
    for prefix in ("featurizer.", "network.0."):
        found = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
        if found:
            return found
    return {key: value for key, value in state.items() if not key.startswith(_HEADS)}


def load_foreign(featurizer: nn.Module, state: weights.State, what: str) -> None:
    """Load strictly, but that counters of BatchNorm may be missing in files of other programs."""
    own = weights.tensors(featurizer)
    counters = {k: v for k, v in own.items() if k.endswith("num_batches_tracked")}
    weights.load_matching(featurizer, {**counters, **state}, what)


def default_shared(input_shape: tuple[int, ...], hparams: dict[str, Any]) -> str | None:
    """The foundation that runs share which are to be averaged, where none is named.

    None for a backbone that has pretrained weights of its own.
    """
    from domainbed.networks import backbone_name

    name = backbone_name(input_shape, hparams)
    if name not in ("mlp", "mnist_cnn", "wide_resnet"):
        return None
    return "letters" if name == "mnist_cnn" and input_shape[0] == 1 else "random"


def _load_own(
    featurizer: nn.Module, name: str, input_shape: tuple[int, ...], hparams: dict[str, Any]
) -> str:
    """Load a backbone's own pretrained weights; raises `InputError` where they cannot be had."""
    if name in ("mlp", "mnist_cnn", "wide_resnet") or not hasattr(featurizer, "network"):
        return ""
    label, state_of = _own(name, input_shape, hparams)
    try:
        state = state_of()
    except InputError:
        raise
    except (OSError, RuntimeError, ValueError, urllib.error.URLError) as error:
        reason = str(error).strip().split("\n")[0][:120]
        raise InputError(
            f"The weights {label} cannot be had ({type(error).__name__}: {reason}); "
            "give a file with --foundation FILE, or ask for --foundation random"
        ) from error
    own = weights.tensors(featurizer)
    for key, tensor in state.items():
        if f"network.{key}" in own and own[f"network.{key}"].shape != tensor.shape:
            state[key] = _adapted(tensor, input_shape[0])
    load_foreign(featurizer, {f"network.{key}": value for key, value in state.items()}, label)
    return label


def _own(
    name: str, input_shape: tuple[int, ...], hparams: dict[str, Any]
) -> tuple[str, Callable[[], weights.State]]:
    """What a backbone's own weights are called, and how to get them."""
    if name == "resnet50" and hparams.get("resnet50_augmix"):
        return "timm/resnet50.ram_in1k", lambda: _headless(
            timm_backbone.pretrained_state("resnet50.ram_in1k", (3, *input_shape[1:]))
        )
    if name in ("resnet18", "resnet50"):
        return f"torchvision/{name}.IMAGENET1K_V1", lambda: _headless(_torchvision_state(name))
    if name == "efficientnet_lite0":
        return "efficientnet_lite0", lambda: _headless(lite.imagenet_state())
    model = {"vit": timm_backbone.VIT, "dinov2": timm_backbone.DINOV2}.get(name, name)
    return f"timm/{model}", lambda: timm_backbone.pretrained_state(model, input_shape)


def _torchvision_state(name: str) -> weights.State:
    from torchvision.models import get_model_weights

    return get_model_weights(name)["IMAGENET1K_V1"].get_state_dict(progress=False)


def _headless(state: weights.State) -> weights.State:
    return {key: value for key, value in state.items() if not key.startswith(_HEADS)}


def _adapted(weight: torch.Tensor, channels: int) -> torch.Tensor:
    """A first convolution's filters for another number of channels."""
    n_out, n_in, *size = weight.shape
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        first = nn.Conv2d(n_in, n_out, tuple(size), bias=False)
        first.weight.copy_(weight)
        return adapt_channels(first, channels).weight.detach()
