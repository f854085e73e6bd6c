"""One job at a time on each GPU."""

from __future__ import annotations

import os

from domainbed.command_launchers.local import run_all
from domainbed.registry import InputError


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None and torch.cuda.is_available():
        return [name for name in named.split(",") if name]
    return [str(i) for i in range(torch.cuda.device_count())]


def multi_gpu_launcher(commands: list[str]) -> None:
    """Run the commands, as many at once as there are GPUs; raises `InputError` without any."""
    names = visible_gpus()
    if not names:
        raise InputError(
            "--command_launcher multi_gpu found no GPU; use --command_launcher workers, "
            "or check CUDA_VISIBLE_DEVICES and the driver"
        )
    run_all(commands, [{"CUDA_VISIBLE_DEVICES": name} for name in names])
