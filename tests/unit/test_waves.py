"""As many networks at a time as memory holds, each with its own mixture."""

from types import SimpleNamespace

import pytest
import torch

from domainbed.lib import weights as files
from ratatouille_algorithms.waves import Waves


@pytest.mark.parametrize(("memory", "size"), [(0, 1), (159, 1), (240, 3), (10**6, 12500)])
def test_waves_are_as_large_as_memory_allows(memory, size, tmp_path):
    run = SimpleNamespace(build=lambda: torch.nn.Linear(4, 4), memory=memory)  # 80 bytes each
    paths = [tmp_path / f"{i}.safetensors" for i in range(7)]
    for i, path in enumerate(paths):
        files.save(path, {"weight": torch.full((4, 4), float(i)), "bias": torch.zeros(4)}, {})
    mixtures = [([paths[0], path], [1.0, 3.0]) for path in paths]
    waves = Waves(run)
    assert waves.size == size
    seen = [[network.weight[0, 0].item() for network in wave] for wave in waves.of(mixtures)]
    assert [len(wave) for wave in seen][:-1] == [size] * (len(seen) - 1)
    assert [value for wave in seen for value in wave] == [0.75 * i for i in range(7)]
    again = [network.weight[0, 0].item() for wave in waves.of(mixtures[1:3]) for network in wave]
    assert again == [0.75, 1.5]
