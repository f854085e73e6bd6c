"""What is made from finished runs: one network whose weights are an average of theirs.

Uniform: all members (DiWA, arXiv 2205.09739). Greedy: best first, each kept if the ID validation
accuracy of the average does not drop (model soups, Wortsman et al. 2022, arXiv 2203.05482).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from domainbed.engine.evaluator import acc_key
from domainbed.engine.initial_weights import needed_weights
from domainbed.engine.run import Run
from domainbed.lib import weights as weight_files
from domainbed.runs import BEST, LAST
from ratatouille_algorithms import weights

logger = logging.getLogger(__name__)


def uniform(run: Run) -> None:
    """Average all members of a run with equal weights."""
    _average(run, lambda algorithm, paths, id_accs: paths)


def greedy(run: Run) -> None:
    """Average the members that a greedy search by ID validation accuracy keeps."""
    _average(run, lambda algorithm, paths, id_accs: select_greedily(run, algorithm, paths, id_accs))


def _average(run: Run, select: Callable[[Any, list[Path], list[float]], list[Path]]) -> None:
    paths = [needed_weights(folder, BEST) for folder in run.needs.get("member", [])]
    headers = weights.check_members(paths)
    id_accs = [header["id_acc"] for header in headers]
    algorithm = run.build()
    chosen = select(algorithm, paths, id_accs)
    weights.uniform(chosen, weights.places(algorithm, chosen[0]))
    run.provenance = _provenance(headers, paths, id_accs, chosen)
    run.folder.describe(run.description())
    accs = run.evaluator.evaluate(algorithm)
    for env in run.test_envs:
        accs[acc_key(env, "all")] = run.whole_domain_acc(accs, env)
    run.record(run.n_steps - 1, {"n_members": len(chosen)}, accs)
    run.save(LAST, algorithm, id_acc=run.id_score(accs))


def select_greedily(
    run: Run, algorithm: Any, paths: list[Path], id_accs: list[float]
) -> list[Path]:
    """The members that the greedy search keeps, best first.

    Each is read once or twice: the average so far is kept in a file beside the result.
    """
    order = sorted(range(len(paths)), key=lambda i: -id_accs[i])
    chosen, best = [paths[order[0]]], id_accs[order[0]]
    into = weights.places(algorithm, chosen[0])
    so_far = Path(run.folder / ".greedy.safetensors")
    try:
        for i in order[1:]:
            n = len(chosen)
            mean = so_far if n > 1 else chosen[0]
            weights.combine([mean, paths[i]], [n, 1], into)
            score = run.id_score(run.evaluator.evaluate(algorithm, run.train_envs, ("out",)))
            logger.info("with %s: ID validation accuracy %.4f", paths[i].parent.name, score)
            if score >= best:
                chosen.append(paths[i])
                best = score
                weight_files.save(so_far, into, {})
    finally:
        so_far.unlink(missing_ok=True)
    logger.info("kept %d of %d members", len(chosen), len(paths))
    return chosen


def _provenance(
    headers: list[dict[str, Any]], paths: list[Path], id_accs: list[float], chosen: list[Path]
) -> dict[str, Any]:
    origins = [header.get("provenance", {}) for header in headers]
    seen = dict.fromkeys(name for origin in origins for name in origin.get("datasets_seen", []))
    return {
        "foundation": origins[0].get("foundation"),
        "head": origins[0].get("head"),
        "datasets_seen": list(seen),
        "members": [
            {"run": path.parent.name, "id_acc": acc, "is_kept": path in chosen}
            for path, acc in zip(paths, id_accs)
        ],
    }
