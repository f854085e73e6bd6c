"""Launchers: each takes shell commands that may run at once, and returns when they ended.

What became of a job is read from its run folder, never from the launcher. One that runs nothing
has the attribute `only_prints`, and its jobs' data need not be there. One that takes jobs one by
one, each as soon as it can start, has `launch_queue(queue, options)`. One that takes a whole sweep
at once has `launch_graph(waves, options, root)`, which tells whether all jobs have ended, and
`check_options(options)`; see `slurm`.
"""

from __future__ import annotations

from collections.abc import Callable

from domainbed.registry import Registry

REGISTRY: Registry[Callable[[list[str]], object]] = Registry(
    "command launcher", home="domainbed.command_launchers"
)

REGISTRY["local"] = "domainbed.command_launchers.local:local_launcher"
REGISTRY["dummy"] = "domainbed.command_launchers.local:dummy_launcher"
REGISTRY["multi_gpu"] = "domainbed.command_launchers.multi_gpu:multi_gpu_launcher"
REGISTRY["workers"] = "domainbed.command_launchers.workers:workers_launcher"
REGISTRY["slurm"] = "domainbed.command_launchers.slurm:slurm_launcher"
REGISTRY["ray"] = "domainbed.command_launchers.ray:ray_launcher"
