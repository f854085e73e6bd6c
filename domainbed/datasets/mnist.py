"""MNIST turned into domains; reads the files that torchvision stores."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from domainbed.datasets.base import MultipleDomainDataset, require_data_dir
from domainbed.registry import InputError

if TYPE_CHECKING:
    import torch
    from torch.utils.data import TensorDataset


PARTS = ("train", "t10k")
DIMENSIONS = {"images": 3, "labels": 1}


def file_of(root: str | Path, part: str, what: str) -> Path:
    """Where torchvision stores the images or labels of a part of MNIST."""
    return Path(root, "MNIST", "raw", f"{part}-{what}-idx{DIMENSIONS[what]}-ubyte")


def read_idx(path: Path) -> torch.Tensor:
    """The bytes of a file of MNIST's format, in its shape; ValueError for a damaged one.

    torchvision reads it too, but takes longer to import than everything else that digits need.
    """
    import torch

    content = path.read_bytes()
    n_dimensions = content[3] if content[:3] == b"\0\0\x08" and len(content) > 3 else 0
    start = 4 + 4 * n_dimensions
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4)]
    if not n_dimensions or len(content) != start + math.prod(shape):
        raise ValueError(f"{path.name} is not of MNIST's format, or is cut")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=start).view(shape)


class MultipleEnvironmentMNIST(MultipleDomainDataset):
    """All 70,000 digits, shuffled by torch's global generator and dealt out to the domains.

    The caller seeds the generator, so that it decides what the partition depends on.
    """

    SMALL_IMAGES = True
    KIND = "mnist"
    NEEDS_FILES = True

    def __init__(self, root: str, test_envs: list[int], hparams: dict[str, Any]) -> None:
        import torch

        assert self.ENVIRONMENTS is not None
        try:
            images, labels = (
                torch.cat([read_idx(file_of(root, part, what)) for part in PARTS])
                for what in DIMENSIONS
            )
            if len(images) != len(labels):
                raise ValueError(f"{len(images)} images have {len(labels)} labels")
        except (ValueError, OSError) as error:
            raise InputError(
                f"The files of MNIST in {root!r} cannot be read ({error}); fetch them again"
            ) from error
        shuffled = torch.randperm(len(images))
        images, labels = images[shuffled], labels[shuffled]
        n = len(self.ENVIRONMENTS)
        self.datasets = [self.domain(i, images[i::n], labels[i::n]) for i in range(n)]
        self.input_shape = tuple(self.datasets[0].tensors[0].shape[1:])

    def domain(self, env: int, images: torch.Tensor, labels: torch.Tensor) -> TensorDataset:
        """Make a domain of images (n, 28, 28) uint8 and digits (n,)."""
        raise NotImplementedError(f"{type(self).__name__} must define domain")

    @classmethod
    def check(cls, data_dir: str | Path | None) -> None:
        """Look for MNIST's four files."""
        raw = require_data_dir(cls.__name__, data_dir) / "MNIST" / "raw"
        files = [file_of(raw.parents[1], part, what) for part in PARTS for what in DIMENSIONS]
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise InputError(
                f"{cls.__name__} needs the files of MNIST in {str(raw)!r}, where "
                f"{', '.join(missing)} are missing; let torchvision.datasets.MNIST(data_dir, "
                "download=True) fetch them, or copy them there"
            )


class ColoredMNIST(MultipleEnvironmentMNIST):
    """Is the digit below 5? Labels are wrong by chance 0.25; colour agrees with them more often
    than shape does in two domains, and misleads in the third (Arjovsky et al. 2019, arXiv
    1907.02893). Inputs (2, 28, 28), a channel a colour; 2 classes.
    """

    ENVIRONMENTS = ("+90%", "+80%", "-90%")
    COLOUR_FLIPS = (0.1, 0.2, 0.9)
    LABEL_FLIPS = 0.25

    def __init__(self, root: str, test_envs: list[int], hparams: dict[str, Any]) -> None:
        super().__init__(root, test_envs, hparams)
        self.num_classes = 2

    def domain(self, env: int, images: torch.Tensor, labels: torch.Tensor) -> TensorDataset:
        """Colour a domain."""
        import torch
        from torch.utils.data import TensorDataset

        y = (labels < 5).long()
        y = y ^ (torch.rand(len(y)) < self.LABEL_FLIPS).long()
        colour = y ^ (torch.rand(len(y)) < self.COLOUR_FLIPS[env]).long()
        x = torch.stack([images, images], dim=1)
        x[torch.arange(len(x)), 1 - colour] = 0
        return TensorDataset(x.float().div_(255), y)


class RotatedMNIST(MultipleEnvironmentMNIST):
    """Ten digits, each domain rotated by its own angle (Ghifary et al. 2015, arXiv 1508.07680).

    Inputs (1, 28, 28).
    """

    ENVIRONMENTS = ("0", "15", "30", "45", "60", "75")

    def __init__(self, root: str, test_envs: list[int], hparams: dict[str, Any]) -> None:
        super().__init__(root, test_envs, hparams)
        self.num_classes = 10

    def domain(self, env: int, images: torch.Tensor, labels: torch.Tensor) -> TensorDataset:
        """Rotate a domain."""
        import numpy as np
        import torch
        from PIL import Image
        from torch.utils.data import TensorDataset

        angle = int(self.ENVIRONMENTS[env])
        turned = [
            np.asarray(Image.fromarray(image).rotate(angle, Image.Resampling.BILINEAR))
            for image in images.numpy()
        ]
        x = torch.from_numpy(np.stack(turned)).unsqueeze(1).float().div_(255)
        return TensorDataset(x, labels.long())
