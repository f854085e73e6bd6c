"""A picture of each domain: some of its images, and below them as training sees them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from domainbed import datasets
from domainbed.datasets.base import evaluation_view
from domainbed.datasets.images import IMAGENET_MEAN, IMAGENET_STD, ImageEnvironment

if TYPE_CHECKING:
    import torch

CELL = 128
LABEL = 16
_GAP = 4


def save(name: str, data_dir: str | Path | None, output_dir: Path, n: int) -> list[Path]:
    """Write `<name>_env<i>_<environment>.png` for each environment; n images, evenly picked.

    Only the images shown are read. Augmentation draws from torch's global generator.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    files = []
    for env, (label, environment) in enumerate(_environments(name, data_dir, n)):
        safe = "".join(c if c.isalnum() or c in "-_" else "_" for c in label)
        files.append(output_dir / f"{name}_env{env}_{safe}.png")
        sheet(environment, n).save(files[-1])
    return files


def _environments(name: str, data_dir: str | Path | None, n: int) -> list[tuple[str, Any]]:
    names = datasets.environments(name, data_dir)
    cls = datasets.find(name, data_dir)
    if not hasattr(cls, "listing"):
        return list(zip(names, datasets.make(name, data_dir, [], {}).datasets))
    datasets.check(name, data_dir)
    found = cls.listing(data_dir)
    picked = [[samples[i] for i in _spread(len(samples), n)] for samples in found.samples]
    return [
        (label, ImageEnvironment(samples, found.classes, 224, augment=True))
        for label, samples in zip(names, picked)
    ]


def sheet(environment: Any, n: int) -> Any:
    """A PIL image: class names, images, and, if the environment augments, augmented images."""
    from PIL import Image, ImageDraw

    plain = evaluation_view(environment)
    rows = [plain] if plain is environment else [plain, environment]
    indices = _spread(len(environment), n)
    step = CELL + _GAP
    canvas = Image.new("RGB", (len(indices) * step, LABEL + len(rows) * step), "white")
    draw = ImageDraw.Draw(canvas)
    classes = getattr(environment, "classes", None)
    for column, index in enumerate(indices):
        for row, source in enumerate(rows):
            x, y = source[index]
            picture = to_picture(x, normalised=classes is not None)
            picture = picture.resize((CELL, CELL))
            canvas.paste(picture, (column * step, LABEL + row * step))
        label = classes[y] if classes is not None else str(int(y))
        draw.text((column * step, 1), label[:20].encode("ascii", "replace").decode(), "black")
    return canvas


def to_picture(x: torch.Tensor, normalised: bool) -> Any:
    """A tensor (channels, height, width) as RGB; up to three channels, a missing one is black.

    normalised: with ImageNet's mean and deviation, which is undone; else in [0, 1].
    """
    from PIL import Image

    pixels = x.numpy().transpose(1, 2, 0)
    if normalised:
        pixels = pixels * IMAGENET_STD + IMAGENET_MEAN
    if pixels.shape[2] == 1:
        pixels = pixels.repeat(3, axis=2)
    pixels = np.pad(pixels, ((0, 0), (0, 0), (0, 3 - pixels.shape[2])))
    return Image.fromarray((pixels.clip(0, 1) * 255).round().astype(np.uint8))


def _spread(length: int, n: int) -> Sequence[int]:
    """At most n indices below `length`, evenly spread."""
    n = min(n, length)
    return [i * length // n for i in range(n)]
