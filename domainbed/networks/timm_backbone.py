"""Any image model of timm as a featurizer; timm is imported when one is asked for."""

from __future__ import annotations

import contextlib
import difflib
import logging
import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import torch
from torch import nn

from domainbed.lib.kinds import shown
from domainbed.networks.backbones import Backbone, refuse_attention, require_image
from domainbed.registry import InputError, UnknownNameError

logger = logging.getLogger(__name__)

VIT = "vit_base_patch16_224"
DINOV2 = "vit_base_patch14_dinov2.lvd142m"
LITE = "tf_efficientnet_lite0"
NAMES = {"vit": VIT, "dinov2": DINOV2}
"""Backbones of DomainBed -> timm's models."""


def import_timm() -> Any:
    """Import timm, or raise `InputError` that says how to install it."""
    try:
        import timm
    except ImportError as error:
        raise InputError(
            f"This backbone needs timm, which cannot be imported ({error}); "
            'install it with pip install "domainbed-ratatouille[timm]"'
        ) from error
    return timm


def plain_name(name: str) -> str:
    """A model's name without `timm/` or `hf_hub:timm/`, as the hub and timm write it, too."""
    return re.sub(r"^(hf[-_]hub:)?timm/", "", name)


def builder(name: str, others: Iterable[str]) -> Any:
    """A builder of timm's model `name`; `UnknownNameError` offers names near to it."""
    timm = import_timm()
    if name.split(".")[0] not in timm.list_models():
        raise UnknownBackboneError(name, list(others), timm.list_models() + timm.list_pretrained())
    return lambda input_shape, hparams: create(name, input_shape, hparams)


class UnknownBackboneError(UnknownNameError):
    """A name that is neither a backbone's nor one of timm's thousand models."""

    def __init__(self, name: str, own: list[str], of_timm: list[str]) -> None:
        self.kind, self.name = "backbone", name
        near = nearest(name, [*own, *of_timm])
        guess = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
        Exception.__init__(
            self,
            f"Unknown backbone {shown(name)!r}. {guess}Known are {', '.join(own)}, and what "
            'python -c "import timm; print(*timm.list_models())" lists',
        )


_SIZES = {"t": "tiny", "s": "small", "b": "base", "l": "large", "h": "huge", "g": "giant"}


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Up to three names that are like one, or that have most of its words: ViT-B/16 has three."""
    known = list(dict.fromkeys(known))
    lower = {k.lower(): k for k in reversed(known)}
    close = difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.8)
    if close:
        return [lower[c] for c in close]
    asked = _words(name)
    shared = {k: sum(map(len, asked & _words(k))) for k in known}
    ranked = sorted(known, key=lambda k: (-shared[k], len(k)))
    return [k for k in ranked[:3] if shared[k]]


def _words(name: str) -> set[str]:
    """Words and numbers of a name, sizes written out."""
    spread = re.sub(r"vit([tsblhg])(?![a-z])", r"vit \1 ", name.lower().replace("dinov2", "dino 2"))
    return {_SIZES.get(word, word) for word in re.findall(r"[a-z]+|\d+", spread)}


class DINOv2(Backbone):
    """A ViT's class tokens of its last four blocks, and the mean patch token of the last.

    They are side by side in (batch, 5 * width), as in the linear evaluation of DINOv2 (Oquab et
    al. 2023, arXiv 2304.07193) and in DomainBed.
    """

    network: Any  # timm's VisionTransformer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features of shape (batch, n_outputs)."""
        blocks = self.network.get_intermediate_layers(x, n=4, return_prefix_tokens=True, norm=True)
        classes = [prefix[:, 0] for _, prefix in blocks]
        return self.dropout(torch.cat([*classes, blocks[-1][0].mean(1)], 1))


def create(
    name: str,
    input_shape: tuple[int, ...],
    hparams: dict[str, Any],
    wrapper: type[Backbone] = Backbone,
) -> nn.Module:
    """timm's model without its head and with weights of chance.

    Raises `InputError` for an input that the model cannot take, found by showing it one.
    """
    require_image(name, input_shape)
    timm = import_timm()
    if input_shape[0] == 3 and hparams.get("foundation") != "random":
        _warn_of_statistics(name)
    is_vit = False
    try:
        network = _model(name, input_shape, pretrained=False)
        is_vit = isinstance(network, timm.models.VisionTransformer)
        dropout = hparams["vit_dropout" if is_vit else "resnet_dropout"]
        backbone = wrapper(network, 0, dropout, hparams["freeze_bn"])
        with torch.no_grad():
            backbone.n_outputs = backbone.eval()(torch.zeros(1, *input_shape)).shape[1]
    except (TypeError, AssertionError, ValueError, RuntimeError, IndexError) as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(
            f"backbone {name!r} cannot be built for inputs of shape {tuple(input_shape)} "
            f"({reason}); choose another backbone or image_size"
        ) from error
    if not is_vit:
        refuse_attention(name, hparams)
    elif hparams.get("vit_attn_tune"):
        for parameter_name, parameter in network.named_parameters():
            parameter.requires_grad_(".attn." in parameter_name)
    return backbone.train()


IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and deviation of a photo's channels as datasets normalise them, public DomainBed's too."""


@cache
def _warn_of_statistics(name: str) -> None:
    """Say once that pretrained weights expect inputs of another mean or deviation."""
    config = import_timm().get_pretrained_cfg(name)
    if config and (tuple(config.mean), tuple(config.std)) != IMAGENET:
        logger.warning(
            "timm/%s was trained on inputs of mean %s and deviation %s, but photos come with "
            "ImageNet's %s and %s, as in public DomainBed: pretrained features may be worse",
            name,
            *map(_listed, (config.mean, config.std, *IMAGENET)),
        )


def _listed(numbers: Iterable[float]) -> str:
    return ", ".join(f"{number:.3g}" for number in numbers)


def _model(name: str, input_shape: tuple[int, ...], pretrained: bool) -> nn.Module:
    """timm's model without its head; one of a fixed size is built for the input's.

    DINOv2 keeps its positions, 37 x 37, and resamples them to each input, as its authors' does.
    """
    timm = import_timm()
    config = timm.get_pretrained_cfg(name)
    sized: dict[str, Any] = {}
    if name == DINOV2:
        sized = {"dynamic_img_size": True}
    elif config and config.fixed_input_size:
        sized = {"img_size": tuple(input_shape[1:])}
    return timm.create_model(
        name, pretrained=pretrained, num_classes=0, in_chans=input_shape[0], **sized
    )


def vit(input_shape: tuple[int, ...], hparams: dict[str, Any]) -> nn.Module:
    """DomainBed's `vit`."""
    return create(VIT, input_shape, hparams)


def dinov2(input_shape: tuple[int, ...], hparams: dict[str, Any]) -> nn.Module:
    """DomainBed's `dinov2`."""
    return create(DINOV2, input_shape, hparams, DINOv2)


def efficientnet_lite0(input_shape: tuple[int, ...], hparams: dict[str, Any]) -> nn.Module:
    """EfficientNet-Lite0 (arXiv 1905.11946 without squeeze-and-excitation and swish)."""
    return create(LITE, input_shape, hparams)


def has_pretrained(name: str) -> bool:
    """Whether timm knows pretrained weights for its model `name`."""
    return import_timm().is_model_pretrained(name)


def pretrained_state(name: str, input_shape: tuple[int, ...]) -> dict[str, Any]:
    """The pretrained weights of timm's model `name`, resampled to the input by timm itself."""
    import_timm()  # it imports huggingface_hub, which sets up its logging then
    with _impatient_hub():
        return _model(name, input_shape, pretrained=True).state_dict()


@contextlib.contextmanager
def _impatient_hub() -> Iterator[None]:
    """Have huggingface_hub use its cache alone if the hub does not answer, and be silent.

    It would otherwise try for a minute and tell of every try; the caller tells of the failure.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    logger = logging.getLogger("huggingface_hub")
    level, is_offline = logger.level, constants.HF_HUB_OFFLINE
    logger.setLevel(logging.ERROR)
    try:
        get_session().head(constants.ENDPOINT, timeout=10)
    except Exception:  # of requests or of httpx, by the version
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = is_offline
        logger.setLevel(level)
