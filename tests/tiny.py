"""Datasets that train in no time: three domains of thirty images, three classes, two labellings.

And what a run of them ended with.
"""

from __future__ import annotations

import json

import torch
from torch.utils.data import TensorDataset

from domainbed.datasets.base import MultipleDomainDataset


class TinyStripes(MultipleDomainDataset):
    """Bright stripes whose place is the class, under noise that grows from domain to domain."""

    ENVIRONMENTS = ("calm", "noisy", "noisier")
    INPUT_SHAPE = (1, 28, 28)
    SMALL_IMAGES = True
    KIND = "tiny"
    AXIS = 2

    def __init__(self, root, test_envs, hparams):
        self.input_shape, self.num_classes = self.INPUT_SHAPE, 3
        self.datasets = [self._domain(env) for env in range(len(self.ENVIRONMENTS))]

    def _domain(self, env):
        generator = torch.Generator().manual_seed(env)
        y = torch.arange(30) % self.num_classes
        x = (1 + env) * torch.randn(30, *self.input_shape, generator=generator)
        for image, label in zip(x, y):
            image.narrow(self.AXIS, 8 * int(label) + 2, 6).add_(1)
        return TensorDataset(x, y)


class TinyColumns(TinyStripes):
    """The same, upright."""

    AXIS = 1


TIMES = ("step_time", "update_time", "mem_gb")


def outcome(folder):
    """Bytes of the weights, and the records but for times."""
    weights = {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}
    lines = (folder / "results.jsonl").read_text().splitlines()
    records = [{k: v for k, v in json.loads(x).items() if k not in TIMES} for x in lines]
    return weights, records
