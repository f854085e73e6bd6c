"""What runs cost on this machine, measured: a few updates and one evaluated batch of each kind."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import torch
from tqdm import tqdm

from domainbed import planning
from domainbed.engine import initial_weights, rng
from domainbed.engine.evaluator import BATCH_OF_FILES
from domainbed.engine.options import Options
from domainbed.engine.run import Run
from domainbed.jobs import Job
from domainbed.lib import weights
from domainbed.lib.machine import cores
from domainbed.planning import Cost

N_UPDATES = 3


def measure(job: Job) -> Cost:
    """Do the first updates of a job and evaluate some samples, without writing anything.

    Auxiliary and other finished runs that it starts from need not be there: its weights start
    from the foundation.
    """
    run = Run(Options.of_args(job.args), {})
    algorithm = run.build()
    initial_weights.start(run, algorithm)
    algorithm.train()
    step_seconds = 0.0
    if run.method.trains:
        step_seconds = median(_seconds_of_updates(run, algorithm)[1:])
    distinct = {tensor.data_ptr(): tensor for tensor in weights.tensors(algorithm).values()}
    n_files = algorithm.n_weight_files if run.method.trains else 1
    return Cost(
        n_steps=run.n_steps,
        step_seconds=step_seconds,
        n_evaluations=(run.n_steps - 1) // run.checkpoint_freq + 2,
        evaluation_seconds=_seconds_of_evaluation(run, algorithm),
        n_bytes=n_files * sum(tensor.nbytes for tensor in distinct.values()),
    )


def _seconds_of_updates(run: Run, algorithm: Any) -> list[float]:
    """Seconds of each of the first updates, its batches included."""
    n, seconds, started = len(run.train_envs), [], time.perf_counter()
    for minibatches in run.stream().steps(0, 1 + N_UPDATES, 0):
        on_device = [(x.to(run.device), y.to(run.device)) for x, y in minibatches]
        algorithm.update(on_device[:n], [x for x, _ in on_device[n:]] or None)
        seconds.append(time.perf_counter() - started)
        started = time.perf_counter()
    return seconds


def _seconds_of_evaluation(run: Run, algorithm: torch.nn.Module) -> float:
    """Seconds of evaluating all samples, from those of one batch of the first domain."""
    evaluator, n_samples = run.evaluator, sum(map(len, run.environments))
    keys = list(range(min(BATCH_OF_FILES, len(run.environments[0]))))
    evaluator.splits = {0: {"in": keys}}
    evaluator.num_workers = 0
    started = time.perf_counter()
    evaluator.evaluate(algorithm, splits=("in",))
    return (time.perf_counter() - started) / len(keys) * n_samples


def estimate(graph: Sequence[Job], root: str) -> str:
    """Disk and time that the jobs left take, from measurements of one job of each kind."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as a worker has
    left = [job for job in graph if not job.folder.is_done]
    kinds = {planning.kind_of(job, root): job for job in left}
    with rng.preserved():
        progress = tqdm(kinds.items(), desc="measuring", unit="kind", disable=None)
        costs = {kind: measure(job) for kind, job in progress}
    torch.set_num_threads(threads)
    seconds = {j.output_dir: costs[planning.kind_of(j, root)].seconds(j) for j in left}
    n_bytes = sum(costs[planning.kind_of(job, root)].n_bytes for job in left)
    n_workers = torch.cuda.device_count() or cores()
    total, wall = sum(seconds.values()), planning.sweep_seconds(graph, seconds, n_workers)
    return (
        f"disk: {planning.readable_size(planning.disk_bytes(graph))} now, about "
        f"{planning.readable_size(n_bytes)} more\n"
        f"time: about {planning.readable_time(total)} on one worker, "
        f"{planning.readable_time(wall)} on the {n_workers} of this machine, "
        f"by {N_UPDATES} updates of each kind measured here"
    )
