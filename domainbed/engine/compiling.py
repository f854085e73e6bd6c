"""torch.compile where the work is: within featurizers."""

from __future__ import annotations

import torch

from domainbed.algorithms.base import Algorithm
from domainbed.engine.precision import image_featurizers
from domainbed.registry import InputError

BACKEND = "inductor"
N_GRAPHS = 64
"""Graphs that a run may make: of each featurizer for training and evaluation, frozen and not."""


def compile_featurizers(algorithm: Algorithm, device: torch.device) -> None:
    """Let every featurizer of images in an algorithm compute by kernels that are made for it.

    Weights keep their names; results differ by rounding, and are the same whatever this process did
    before. Raises `InputError` for an algorithm without a featurizer of images or that
    differentiates twice, and where nothing can be compiled.
    """
    check_class(type(algorithm))
    featurizers = image_featurizers(algorithm, "--compile")
    _configure()
    torch.compiler.reset()
    _check_compiler(device)
    for featurizer in featurizers:
        featurizer.__class__ = _compiled(type(featurizer))


def _compiled(kind: type[torch.nn.Module]) -> type[torch.nn.Module]:
    """A featurizer's class with a compiled `forward`: hooks stay around it, copies have it."""
    compiled = torch.compile(kind.forward, backend=BACKEND)

    def forward(self: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        # else the first size of a batch gets kernels of its own, and all later ones those for any
        torch._dynamo.maybe_mark_dynamic(x, 0)
        return compiled(self, x)

    return type(kind.__name__, (kind,), {"forward": forward})


def check_class(algorithm: type[Algorithm]) -> None:
    """Raise `InputError` for an algorithm that cannot train compiled featurizers."""
    if algorithm.differentiates_twice:
        raise InputError(
            f"--compile was given, but {algorithm.__name__} differentiates its featurizer twice, "
            "which compiled ones cannot; leave one of them out"
        )


def _configure() -> None:
    """Process-wide, by names that torch has had since 2.2; the last of them came later."""
    import torch._dynamo.config
    import torch._functorch.config

    torch._dynamo.config.cache_size_limit = N_GRAPHS
    if hasattr(torch._functorch.config, "donated_buffer"):
        torch._functorch.config.donated_buffer = False  # some pass back through a graph repeatedly


def _check_compiler(device: torch.device) -> None:
    """Compile something small; `InputError` where that fails."""
    try:
        torch.compile(_something_small, backend=BACKEND)(torch.ones(2, device=device))
    except Exception as error:  # of whatever kind a part of a compiler that is missing raises
        reason = str(getattr(error, "inner_exception", error)).strip().split("\n")[0]
        raise InputError(
            f"--compile was given, but nothing can be compiled here: {reason}; "
            "install a C++ compiler, and Triton for a GPU, or leave it out"
        ) from error


def _something_small(x: torch.Tensor) -> torch.Tensor:
    return x.sin() + 1
