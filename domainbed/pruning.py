"""Which weights a sweep keeps, once no job that is left needs them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from domainbed import algorithms
from domainbed.jobs import Job
from domainbed.runs import BEST, LAST

KEEP = {
    "all": "every file",
    "best": "of each run one file: best by ID validation, or what was made from finished runs",
    "members": "the same, but none of runs that no other is made of or starts from",
    "none": "none",
}
"""Name -> which weights are kept. Runs without a test domain stay whole: others start from them."""


def prune(graph: Sequence[Job], root: str, keep: str) -> int:
    """Remove weights of finished runs under `root` that are not kept; return the bytes freed.

    What a job of the graph that is not done needs is left, and so is all that lies elsewhere.
    """
    if keep == "all":
        return 0
    needed = {need.job.output_dir for job in graph for need in job.needs}
    waited_for = {
        need.job.output_dir for job in graph if not job.folder.is_done for need in job.needs
    }
    freed = 0
    for job in graph:
        is_ours = Path(job.output_dir).is_relative_to(root)
        if is_ours and job.folder.is_done and job.output_dir not in waited_for:
            freed += job.folder.drop_weights(_kept(job, keep, job.output_dir in needed))
    return freed


def _kept(job: Job, keep: str, is_needed: bool) -> set[str]:
    """Names of the files that a run keeps."""
    if keep == "none":
        return set()
    if job.train_args["test_envs"] == [-1]:
        return {path.name for path in job.folder.path.glob("*.safetensors")}
    if not algorithms.get_method(job.train_args["algorithm"]).trains:
        return {LAST}
    return {BEST} if keep == "best" or is_needed else set()
