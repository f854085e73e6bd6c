"""One job at a time on each GPU."""

from __future__ import annotations

import os
from collections.abc import Mapping

from domainbed.command_launchers.local import Commands, Queue, run_queue
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
    launch_queue(Commands(commands), {})


def launch_queue(queue: Queue, _: Mapping[str, str]) -> None:
    """The same with commands of a queue."""
    names = visible_gpus()
    if not names:
        raise InputError(
            "--command_launcher multi_gpu found no GPU; use --command_launcher workers, "
            "or check CUDA_VISIBLE_DEVICES and the driver"
        )
    run_queue(queue, [{"CUDA_VISIBLE_DEVICES": name} for name in names])


multi_gpu_launcher.launch_queue = launch_queue  # type: ignore[attr-defined]
