"""What is made from finished runs, each in a run folder of its own.

uniform, dagger  the mean of all members' weights (DiWA, Rame et al. 2022, arXiv 2205.09739);
                 of one trial, of all
greedy           best first, each kept if the ID validation accuracy of the average does not
                 drop (model soups, Wortsman et al. 2022, arXiv 2203.05482)
moving_average,  the means along one run that it kept while it trained
swad
wise             between the probed foundation and a fine-tuning (Wortsman et al. 2021,
                 arXiv 2109.01903)
ensemble         the mean of the members' probabilities, at the cost of all of them
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from domainbed.engine.evaluator import Evaluator, acc_key, is_right
from domainbed.engine.initial_weights import needed_weights
from domainbed.engine.run import Run
from domainbed.lib import weights as weight_files
from domainbed.runs import BEST, LAST
from ratatouille_algorithms import means, weights
from ratatouille_algorithms.algorithms import MOVING_AVERAGE, SWAD
from ratatouille_algorithms.greedy import Validation, exact_id_score
from ratatouille_algorithms.waves import Waves

logger = logging.getLogger(__name__)

Select = Callable[[Run, Any, list[Path], list[float]], list[Path]]
"""Chooses members of a run's average, by their weights and ID validation accuracies."""

ALPHAS = [i / 10 for i in range(11)]
"""Coefficients that WiSE tries."""

N_BN_STEPS = 100
"""Training batches that statistics of BatchNorm are estimated on."""


def uniform(run: Run) -> None:
    """Average all members of a run with equal weights."""
    _average(run, "uniform")


dagger = uniform
"""The same over the members of all trials: a run's needs tell which."""


def greedy(run: Run) -> None:
    """Average the members that a greedy search by ID validation accuracy keeps."""
    _average(run, "greedy")


def _average(run: Run, selection: str) -> None:
    paths = [needed_weights(folder, BEST) for folder in run.needs.get("member", [])]
    algorithm = run.build()
    headers = check(algorithm, paths)
    id_accs = [header["id_acc"] for header in headers]
    is_kept = combine(run, algorithm, paths, id_accs, SELECTIONS[selection])
    members = rows([path.parent.name for path in paths], id_accs, is_kept)
    about: dict[str, Any] = {"members": members}
    if selection == "greedy":
        about["score"] = score_name(run)
    finish(run, algorithm, headers, {"n_members": sum(is_kept)}, **about)


def score_name(run: Run) -> str:
    """What the greedy search goes by."""
    return "validation samples" if run.protocol.pooled_validation else "mean over domains"


def check(algorithm: Any, paths: Sequence[Path]) -> list[dict[str, Any]]:
    """The headers of members, or `InputError` unless they fit each other and share their origin."""
    headers = means.check_members(paths)
    if not trains_batch_norms(algorithm):
        means.check_same_buffers(paths)
    return headers


def combine(
    run: Run, algorithm: Any, paths: list[Path], id_accs: list[float], select: Select
) -> list[bool]:
    """Put the mean of the members that `select` chooses into a network; return which those are."""
    chosen = select(run, algorithm, paths, id_accs)
    weights.uniform(chosen, weights.places(algorithm, chosen[0]))
    settle_batch_norms(run, algorithm)
    return [path in chosen for path in paths]


def rows(names: list[str], id_accs: list[float], is_kept: list[bool]) -> list[dict[str, Any]]:
    """What provenance tells of members."""
    keys = ("run", "id_acc", "is_kept")
    return [dict(zip(keys, row)) for row in zip(names, id_accs, is_kept)]


def select_greedily(
    run: Run,
    algorithm: Any,
    paths: list[Path],
    id_accs: list[float],
    is_pooled: bool | None = None,
) -> list[Path]:
    """The members that the greedy search keeps, best first.

    is_pooled: whether all validation samples count alike, not all domains; None: as the protocol
    says. Each is read once or twice: the average so far is kept in a file beside the result.
    """
    order = sorted(range(len(paths)), key=lambda i: -round(id_accs[i], 9))  # equal: as given
    chosen: list[Path] = []
    pooled = run.protocol.pooled_validation if is_pooled is None else is_pooled
    validation = Validation(run, pooled)
    best, into = Fraction(0), weights.places(algorithm, paths[order[0]])
    so_far = Path(run.folder / ".greedy.safetensors")
    try:
        for i in order:  # the first one's accuracy may have been measured on augmented images
            n = len(chosen)
            before = [so_far if n > 1 else chosen[0]] if chosen else []
            weights.combine([*before, paths[i]], [n, 1] if chosen else [1], into)
            mean_of_all = {n: t.clone() for n, t in into.items()} if _reestimates(run) else into
            settle_batch_norms(run, algorithm)
            score = validation.score(algorithm, best)
            said = f"below {float(best):.4f}" if score is None else f"{float(score):.4f}"
            logger.info("with %s: ID validation accuracy %s", paths[i].parent.name, said)
            if score is not None:
                chosen.append(paths[i])
                best = score
                if len(chosen) > 1:
                    weight_files.save(so_far, mean_of_all, {})
    finally:
        so_far.unlink(missing_ok=True)
    logger.info("kept %d of %d members", len(chosen), len(paths))
    return chosen


SELECTIONS: dict[str, Select] = {
    "uniform": lambda run, algorithm, paths, id_accs: paths,
    "greedy": select_greedily,
}


def moving_average(run: Run) -> None:
    """Take the mean of the weights from update `ma_start` of a fine-tuning to its last."""
    _along_run(run, MOVING_AVERAGE)


def swad(run: Run) -> None:
    """Take the mean of the weights between the start and the end that SWAD found."""
    _along_run(run, SWAD)


def _along_run(run: Run, name: str) -> None:
    (folder,) = run.needs["member"]
    path = needed_weights(folder, name)
    headers, algorithm = means.check_members([path]), run.build()
    weights.uniform([path], weights.places(algorithm, path))
    settle_batch_norms(run, algorithm)
    finish(run, algorithm, headers, {"n_iterates": headers[0]["n_iterates"]})


def wise(run: Run) -> None:
    """Interpolate between the probed foundation and a fine-tuning.

    The share of the latter is --wise_alpha, or that of `ALPHAS` with the best ID validation
    accuracy, the largest on ties.
    """
    folders = [*run.needs["probe"], *run.needs["member"]]
    paths = [needed_weights(folder, BEST) for folder in folders]
    headers, algorithm = means.check_layouts(paths), run.build()
    given = run.options.further.get("wise_alpha")
    best, chosen = Fraction(-1), ALPHAS[0] if given is None else given
    alphas = iter(ALPHAS)
    mixtures = [(paths, [1 - alpha, alpha]) for alpha in ALPHAS if given is None]
    for networks in Waves(run).of(mixtures):
        for network in networks:
            settle_batch_norms(run, network)
        for accs, _ in run.evaluator.measure_each(networks, run.train_envs, ("out",)):
            alpha, score = next(alphas), exact_id_score(run, accs)
            logger.info("alpha %.1f: ID validation accuracy %.4f", alpha, float(score))
            if score >= best:
                best, chosen = score, alpha
    weights.combine(paths, [1 - chosen, chosen], weights.places(algorithm, paths[0]))
    settle_batch_norms(run, algorithm)
    finish(run, algorithm, headers[1:], {"wise_alpha": chosen})


def ensemble(run: Run) -> None:
    """Measure all members together; they are no single network, so no weights are written."""
    paths = [needed_weights(folder, BEST) for folder in run.needs.get("member", [])]
    headers, accs = means.check_layouts(paths), {}
    waves, evaluator = Waves(run), run.evaluator
    for env in evaluator.splits:
        keys, rows = evaluator.keys(env)
        right = torch.cat([torch.empty(0), *_right_together(evaluator, waves, paths, env, keys)])
        for name, some in rows.items():
            accs[acc_key(env, name)] = right[some].sum().item() / len(some)
    _record(run, accs, {"n_members": len(paths)})
    _describe(run, headers, members=[{"run": path.parent.name} for path in paths])


def _right_together(
    evaluator: Evaluator, waves: Waves, paths: Sequence[Path], env: int, keys: Sequence[int]
) -> list[torch.Tensor]:
    """Whether the sum of all members' probabilities classifies samples rightly, by batch."""
    totals: list[torch.Tensor] = []
    labels: list[torch.Tensor] = []
    for networks in waves.of([([path], [1.0]) for path in paths]):
        batches = evaluator.outputs(networks, env, keys)
        for i, (every, y) in enumerate(batches):
            probabilities = torch.stack([logits.softmax(1) for logits in every]).sum(0)
            if i == len(totals):
                totals.append(probabilities)
                labels.append(y)
            else:
                totals[i] += probabilities
    return [is_right(total, y).float().cpu() for total, y in zip(totals, labels)]


def settle_batch_norms(run: Run, algorithm: Any) -> None:
    """With --bn reestimate, estimate moving statistics on training batches instead."""
    if _reestimates(run) and trains_batch_norms(algorithm):
        update_bn(_training_images(run), algorithm)


def trains_batch_norms(algorithm: torch.nn.Module) -> bool:
    """Whether training moves the statistics of any BatchNorm: none, or frozen ones, do not."""
    norms = [m for m in algorithm.train().modules() if isinstance(m, _BatchNorm)]
    return any(norm.training for norm in norms)


def _reestimates(run: Run) -> bool:
    return run.options.further.get("bn") == "reestimate"


def _training_images(run: Run) -> Iterator[torch.Tensor]:
    for minibatches in islice(run.stream().steps(0, N_BN_STEPS, run.num_workers), N_BN_STEPS):
        yield torch.cat([x for x, _ in minibatches]).to(run.device)


def finish(
    run: Run,
    algorithm: Any,
    headers: Sequence[Mapping[str, Any]],
    values: Mapping[str, float],
    **provenance: Any,
) -> dict[str, float]:
    """Measure a network, and write what it is, its record and its weights; return accuracies."""
    _describe(run, headers, **provenance)
    accs = _record(run, run.evaluator.evaluate(algorithm), values)
    run.save(LAST, algorithm, id_acc=run.id_score(accs))
    return accs


def _record(run: Run, accs: dict[str, float], values: Mapping[str, float]) -> dict[str, float]:
    for env in run.test_envs:
        accs[acc_key(env, "all")] = run.whole_domain_acc(accs, env)
    run.record(run.n_steps - 1, values, accs)
    return accs


def _describe(run: Run, headers: Sequence[Mapping[str, Any]], **further: Any) -> None:
    """Write run.json, with the common origin of all members."""
    run.provenance = {**means.common_origin(headers), **further}
    run.folder.describe(run.description())
