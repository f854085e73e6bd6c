"""Images as networks take them: resized or augmented, normalised; on tensors, one image a time.

Augmentation is DomainBed's: torchvision's own functions draw its parameters, and brightness,
contrast, saturation and grey cut to whole levels as PIL does. The crop differs from PIL's by at
most one level of 255, in few pixels; a turned hue differs where PIL rounds hue and saturation to
8 bits. Tensors are several times faster than PIL images here, above all for the hue.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from domainbed.datasets.images import IMAGENET_MEAN, IMAGENET_STD

SCALE, RATIO = (0.7, 1.0), (3 / 4, 4 / 3)
"""Area and proportions of a crop, relative to the image."""
JITTER = 0.3
"""Brightness, contrast and saturation vary by this, relatively; hue, in turns of its circle."""
GREY_CHANCE = 0.1

_MEAN, _STD = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
_LUMA = torch.tensor([0.299, 0.587, 0.114])


def to_input(planes: np.ndarray) -> torch.Tensor:
    """Planes (3, height, width) of uint8 as normalised float32."""
    return _normalised(torch.from_numpy(planes).to(torch.float32))


def _normalised(x: torch.Tensor) -> torch.Tensor:
    return x.mul_(1 / 255).sub_(_MEAN).div_(_STD)


def augmented(pixels: np.ndarray, size: int) -> torch.Tensor:
    """Pixels (height, width, 3) of uint8, augmented, as normalised float32 (3, size, size).

    A random crop, resized; flipped in half of the cases; its colours jittered, in random order;
    grey at times. Draws from torch's global generator.
    """
    from torchvision.transforms import ColorJitter, RandomResizedCrop

    image = torch.from_numpy(pixels).permute(2, 0, 1)
    top, left, height, width = RandomResizedCrop.get_params(image, list(SCALE), list(RATIO))
    x = crop(image[:, top : top + height, left : left + width], size, is_flipped=chance(0.5))
    factors, turns = [1 - JITTER, 1 + JITTER], [-JITTER, JITTER]
    order, *amounts = ColorJitter.get_params(factors, factors, factors, turns)
    for i in order.tolist():
        x = ADJUSTMENTS[i](x, amounts[i])
    if chance(GREY_CHANCE):
        x.copy_(luma(x))
    return _normalised(x)


def chance(p: float) -> bool:
    """Draw True with probability p."""
    return torch.rand(1).item() < p


def crop(image: torch.Tensor, size: int, is_flipped: bool) -> torch.Tensor:
    """Part of an image (3, h, w) of uint8 as float32 (3, size, size), its levels 0 to 255."""
    planes = F.interpolate(image[None], (size, size), mode="bilinear", antialias=True)[0]
    return (planes.flip(2) if is_flipped else planes).contiguous().to(torch.float32)


def adjust_brightness(x: torch.Tensor, factor: float) -> torch.Tensor:
    """Multiply levels x (3, h, w), in place, as all adjustments do."""
    return _away_from(0, x, factor)


def adjust_contrast(x: torch.Tensor, factor: float) -> torch.Tensor:
    """Multiply the distance of x (3, h, w) from its mean luma."""
    return _away_from(round(luma(x).mean().item()), x, factor)


def adjust_saturation(x: torch.Tensor, factor: float) -> torch.Tensor:
    """Multiply the distance of x (3, h, w) from its luma, pixel by pixel."""
    return _away_from(luma(x), x, factor)


def _away_from(origin: torch.Tensor | int, x: torch.Tensor, factor: float) -> torch.Tensor:
    return x.sub_(origin).mul_(factor).add_(origin).clamp_(0, 255).floor_()


def adjust_hue(x: torch.Tensor, turns: float) -> torch.Tensor:
    """Turn the hue of x (3, h, w) by -1/3 to 1/3 turns, keeping the greatest and least channel.

    With hue in sixths of a turn from red, counted from -3 to 3, and channels from 0 to 1, red falls
    off from 1 to 0 between a distance of 1 and 2, and rises again between 4 and 5; so do green
    around 2 and blue around -2. All is multiplied by the chroma, so that nothing is divided by it.
    """
    red, green, blue = x
    bottom = torch.minimum(torch.minimum(red, green), blue)
    chroma = torch.maximum(torch.maximum(red, green), blue).sub_(bottom)
    hue = (chroma - bottom).add_(green).add_(blue).sub_(red).copysign_(green - blue)
    hue.add_(chroma, alpha=6 * turns)
    slope = torch.empty_like(hue)
    for channel, centre in ((red, 0), (green, 2), (blue, -2)):
        torch.sub(hue, chroma, alpha=centre, out=slope).abs_()
        slope.sub_(chroma, alpha=3).abs_().sub_(chroma).clamp_min_(0)
        torch.add(bottom, torch.minimum(slope, chroma, out=slope), out=channel)
    return x


def luma(x: torch.Tensor) -> torch.Tensor:
    """Brightness of x (3, h, w) as the eye sees it, in whole levels (h, w)."""
    return (_LUMA @ x.view(3, -1)).add_(0.5).floor_().view(x.shape[1:])


ADJUSTMENTS = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
"""In the order of torchvision's `ColorJitter.get_params`."""
