"""Embedded digits: four multi-domain datasets that need no download.

They are made from scikit-learn's 1,797 scans of handwritten digits (UCI Optical Recognition of
Handwritten Digits, Alpaydin & Kaynak 1998, test part, 8 x 8), shown at 28 x 28. No scan is in two
datasets or in two domains, so an auxiliary task never saw a scan of the target.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from domainbed.datasets.base import MultipleDomainDataset
from domainbed.lib.seeds import seed_hash

if TYPE_CHECKING:
    from domainbed.hparams_registry import HParam

SIZE, MARGIN = 28, 4
_SHARES = ("RotatedDigits", "InkDigits", "NoisyDigits", "PlacedDigits")
_PERMUTATION_SEED = 1797

Image = np.ndarray
"""One digit: (28, 28) floats in [0, 1], ink 1 on ground 0."""


@lru_cache(maxsize=1)
def scans() -> tuple[np.ndarray, np.ndarray]:
    """All scans as (1797, 28, 28) floats in [0, 1] and their digits (1797,)."""
    from PIL import Image as pil
    from sklearn.datasets import load_digits

    digits = load_digits()
    small = np.round(digits.images * (255 / 16)).astype(np.uint8)
    side = SIZE - 2 * MARGIN
    large = [pil.fromarray(x).resize((side, side), pil.Resampling.BICUBIC) for x in small]
    images = np.stack([np.asarray(x) for x in large]) / 255.0
    return np.pad(images, ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN))), digits.target


class EmbeddedDigits(MultipleDomainDataset):
    """A quarter of the scans, dealt out to four domains, each shown in its own way.

    Inputs (1, 28, 28) in [0, 1]. `look(env, image, rng)` shows a digit; LABELS maps the ten digits
    to classes.
    """

    N_STEPS = 301
    CHECKPOINT_FREQ = 50
    INPUT_SHAPE = (1, SIZE, SIZE)
    SMALL_IMAGES = True
    KIND = "digits"
    NEEDS_FILES = False
    LABELS = tuple(range(10))

    def __init__(self, root: str | None, test_envs: list[int], hparams: dict[str, Any]) -> None:
        import torch
        from torch.utils.data import TensorDataset

        images, digits = scans()
        names = self.ENVIRONMENTS or ()
        mine = keys(type(self).__name__)
        self.datasets = []
        for env in range(len(names)):
            rng = np.random.RandomState(seed_hash(type(self).__name__, env))
            shown = [self.look(env, images[key], rng) for key in mine[env :: len(names)]]
            x = torch.from_numpy(np.stack(shown)).float().clamp_(0, 1).unsqueeze(1)
            y = torch.tensor([self.LABELS[digits[key]] for key in mine[env :: len(names)]])
            self.datasets.append(TensorDataset(x, y))
        self.input_shape, self.num_classes = self.INPUT_SHAPE, max(self.LABELS) + 1

    def look(self, env: int, image: Image, rng: np.random.RandomState) -> Image:
        """Show a digit as domain `env` does."""
        raise NotImplementedError(f"{type(self).__name__} must define look")

    @staticmethod
    def hparam_space() -> list[HParam]:
        """Rates of small images; small batches, since a domain has about ninety samples."""
        from domainbed.hparams_registry import choice

        return [choice("batch_size", 8, [8, 16])]


def keys(name: str) -> np.ndarray:
    """The scans of one dataset."""
    order = np.random.RandomState(_PERMUTATION_SEED).permutation(len(scans()[0]))
    return order[_SHARES.index(name) :: len(_SHARES)]


def affine(image: Image, angle: float = 0.0, scale: float = 1.0, shear: float = 0.0,
           shift: tuple[float, float] = (0.0, 0.0)) -> Image:  # fmt: skip
    """Rotate (degrees, counter-clockwise), scale, shear and shift (pixels right and down)."""
    from PIL import Image as pil

    turn = np.deg2rad(angle)
    forward = scale * np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    back = np.linalg.inv(forward @ np.array([[1, shear], [0, 1]]))
    centre = np.full(2, (SIZE - 1) / 2)
    offset = centre - back @ (centre + np.array(shift)) + (0.5 - back @ np.full(2, 0.5))
    matrix = (*back[0], offset[0], *back[1], offset[1])
    picture = pil.fromarray(image.astype(np.float32))
    return np.asarray(
        picture.transform((SIZE, SIZE), pil.Transform.AFFINE, matrix, pil.Resampling.BILINEAR)
    )


class RotatedDigits(EmbeddedDigits):
    """Which digit? Domains differ in rotation."""

    ENVIRONMENTS = ("0", "20", "40", "60")

    def look(self, env: int, image: Image, rng: np.random.RandomState) -> Image:
        """Rotate."""
        return affine(image, angle=float(self.ENVIRONMENTS[env]))


class InkDigits(EmbeddedDigits):
    """Odd or even? Domains differ in ink and ground."""

    ENVIRONMENTS = ("chalk", "pen", "faint", "paper")
    LABELS = tuple(digit % 2 for digit in range(10))

    def look(self, env: int, image: Image, rng: np.random.RandomState) -> Image:
        """White on black, black on white, weak ink on a slope of grey, ink on coarse paper."""
        if env == 0:
            return image
        if env == 1:
            return 1 - image
        if env == 2:
            ramp = np.linspace(0, 0.3, SIZE)
            return ramp[None, :] + ramp[:, None] + 0.4 * image
        grain = np.kron(rng.uniform(0.4, 0.9, (7, 7)), np.ones((4, 4)))
        return grain * (1 - image)


class NoisyDigits(EmbeddedDigits):
    """Which of the pairs 01, 23, 45, 67, 89? Domains differ in noise and occlusion."""

    ENVIRONMENTS = ("clean", "gaussian", "pepper", "bar")
    LABELS = tuple(digit // 2 for digit in range(10))

    def look(self, env: int, image: Image, rng: np.random.RandomState) -> Image:
        """Nothing, Gaussian noise, pixels black or white by chance, a grey bar over the digit."""
        if env == 1:
            return image + rng.normal(0, 0.3, image.shape)
        if env == 2:
            hit = rng.uniform(size=image.shape)
            return np.where(hit < 0.08, 0.0, np.where(hit > 0.92, 1.0, image))
        if env == 3:
            image = image.copy()
            start = rng.randint(6, 19)
            rows = (slice(start, start + 4), slice(None))
            image[rows if rng.randint(2) else rows[::-1]] = 0.5
        return image


class PlacedDigits(EmbeddedDigits):
    """Small (0 to 4) or large (5 to 9)? Domains differ in place, scale and slant."""

    ENVIRONMENTS = ("centre", "shifted", "shrunk", "slanted")
    LABELS = tuple(int(digit > 4) for digit in range(10))

    def look(self, env: int, image: Image, rng: np.random.RandomState) -> Image:
        """Leave, shift by up to 5 pixels, shrink to about a half, shear."""
        if env == 1:
            return affine(image, shift=tuple(rng.uniform(-5, 5, 2)))
        if env == 2:
            return affine(image, scale=rng.uniform(0.5, 0.7), shift=tuple(rng.uniform(-3, 3, 2)))
        if env == 3:
            return affine(image, shear=rng.choice([-0.5, 0.5]), scale=0.95)
        return image
