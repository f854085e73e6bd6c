"""What is looked at before work is spent on a dataset: does it agree with itself, is it all there.

Plug-ins are classes of other people, and copies of built-in datasets may be partial.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from domainbed.datasets.folders import abridged
from domainbed.datasets.published import class_fault, count_fault, missing_classes
from domainbed.registry import InputError

logger = logging.getLogger(__name__)


def check_before_training(name: str, dataset: Any, environments: Sequence[str]) -> None:
    """Raise `InputError` for a dataset that contradicts itself or lacks classes; else warn.

    Of a plug-in's dataset the first sample of each environment is read, which may draw from the
    global generators.
    """
    is_ours = type(dataset).__module__.startswith("domainbed.")
    fault = None if is_ours else contradiction(dataset, environments)
    if fault:
        raise InputError(f"Dataset {name} contradicts itself: {fault}; correct its class")
    empty = [env for env, part in zip(environments, dataset) if len(part) == 0]
    if empty:
        raise InputError(f"{name} has no sample of {abridged(empty)}; add some, or take it out")
    classes = getattr(dataset, "classes", None)
    if classes is not None:
        _compare_with_published(name, classes, environments, [len(each) for each in dataset])
    if dataset.num_classes == 1:
        logger.warning("%s has one class, so that every prediction is right", name)


def _compare_with_published(
    name: str, classes: Sequence[str], environments: Sequence[str], counts: Sequence[int]
) -> None:
    fault, missing = class_fault(name, classes), missing_classes(name, classes)
    lacking = f"; not {abridged(missing)}" if missing else ""
    if fault:
        raise InputError(
            f"{name} has {fault}{lacking}. Complete it with domainbed.scripts.download; or, to "
            "train on this part on purpose, rename its folder and give that name with --dataset, "
            f"such as My{name}"
        )
    if missing:
        logger.warning("%s has other classes than published%s", name, lacking)
    fault = count_fault(name, environments, counts)
    if fault:
        logger.warning(
            "%s has %s: accuracies on it do not compare with published ones", name, fault
        )


def contradiction(dataset: Any, environments: Sequence[str]) -> str | None:
    """The first thing that a dataset says of itself and does not keep, naming the attribute."""
    for field in ("datasets", "input_shape", "num_classes"):
        if not hasattr(dataset, field):
            return f"it has no {field}"
    classes, shape = dataset.num_classes, dataset.input_shape
    if type(classes) is not int or classes < 1:
        return f"num_classes is {classes!r}, expected an int above 0"
    if not isinstance(shape, (tuple, list)) or not all(isinstance(side, int) for side in shape):
        return f"input_shape is {shape!r}, expected a tuple of ints"
    if len(dataset) != len(environments):
        return (
            f"datasets has {len(dataset)} environments, but {len(environments)} names are in "
            f"ENVIRONMENTS ({abridged(environments)})"
        )
    for env, name in enumerate(environments):
        fault = _contradiction_of(dataset[env], dataset)
        if fault:
            return f"in environment {name!r}, {fault}"
    return None


def _contradiction_of(environment: Any, dataset: Any) -> str | None:
    if len(environment) == 0:
        return "datasets has no sample"
    sample = environment[0]
    if not isinstance(sample, (tuple, list)) or len(sample) != 2:
        n = f"{len(sample)} items" if isinstance(sample, (tuple, list)) else _kind(sample)
        return f"a sample of datasets is {n}, expected (x, y)"
    x, y = sample
    if isinstance(x, np.ndarray):
        import torch

        x = torch.as_tensor(x)
    return sample_fault(x, y, dataset) or _label_fault(environment, dataset.num_classes)


def sample_fault(x: Any, y: Any, dataset: Any) -> str | None:
    """What is wrong with a sample: its tensor, the tensor's shape, or its label."""
    import torch

    shape = tuple(dataset.input_shape)
    if not isinstance(x, torch.Tensor):
        return f"x is a {_kind(x)}; expected a tensor of float32 and of input_shape {shape}"
    if x.dtype != torch.float32:
        return f"x is {x.dtype}; expected torch.float32"
    if tuple(x.shape) != shape:
        return f"x is of shape {tuple(x.shape)}; expected input_shape, which is {shape}"
    if not _is_whole(y) or not 0 <= int(y) < dataset.num_classes:
        return _wrong_label(y, dataset.num_classes)
    return None


def _wrong_label(y: Any, num_classes: int) -> str:
    import torch

    if isinstance(y, (torch.Tensor, np.ndarray)):
        value = f"{y.item()!r} of" if y.ndim == 0 else f"of shape {tuple(y.shape)} and"
        shown = f"{value} {str(y.dtype).removeprefix('torch.')}"
    else:
        shown = " ".join(repr(y).split())[:60]
    return (
        f"y is {shown}; expected an int from 0 to {num_classes - 1}: num_classes is {num_classes}"
    )


def _is_whole(y: Any) -> bool:
    import torch

    if isinstance(y, (torch.Tensor, np.ndarray)):
        return y.ndim == 0 and y.dtype in (torch.int64, np.dtype("int64"))
    return isinstance(y, (int, np.int64)) and not isinstance(y, bool)


def _label_fault(environment: Any, num_classes: int) -> str | None:
    """A label out of range, where labels can be had without reading samples."""
    import torch

    ys = getattr(environment, "targets", None)
    if ys is None and getattr(environment, "tensors", None):
        ys = environment.tensors[-1]
    if ys is None:
        return None
    ys = torch.as_tensor(ys)
    if len(ys) != len(environment):
        return f"targets has {len(ys)} labels for {len(environment)} samples"
    if ys.ndim != 1 or ys.dtype != torch.int64:
        return (
            f"targets are of {ys.dtype} and shape {tuple(ys.shape)}; expected torch.int64 and (n,)"
        )
    wrong = ys[(ys < 0) | (ys >= num_classes)]
    return _wrong_label(wrong[0].item(), num_classes) if len(wrong) else None


def _kind(value: Any) -> str:
    return type(value).__name__
