"""Random images for tests."""

from __future__ import annotations

from domainbed.datasets.base import MultipleDomainDataset


class Debug(MultipleDomainDataset):
    """Three environments of 16 images of noise in 4 classes, from torch's global generator."""

    ENVIRONMENTS = ("0", "1", "2")
    KIND = "debug"
    INPUT_SHAPE: tuple[int, ...]

    def __init__(self, root, test_envs, hparams) -> None:
        import torch
        from torch.utils.data import TensorDataset

        self.input_shape, self.num_classes = self.INPUT_SHAPE, 4
        self.datasets = [
            TensorDataset(
                torch.randn(16, *self.input_shape), torch.randint(0, self.num_classes, (16,))
            )
            for _ in self.ENVIRONMENTS
        ]


class Debug28(Debug):
    """Noise of the size of MNIST, in three channels."""

    INPUT_SHAPE = (3, 28, 28)
    SMALL_IMAGES = True


class Debug224(Debug):
    """Noise of the size of photos."""

    INPUT_SHAPE = (3, 224, 224)
