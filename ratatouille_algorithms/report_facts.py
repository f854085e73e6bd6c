"""What was run, how, at which cost and from which ingredients: facts of a report as sheets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from domainbed.runs import DONE, FAILED
from domainbed.tables import Cell
from ratatouille_algorithms import inventory
from ratatouille_algorithms.deviations import holdout
from ratatouille_algorithms.inventory import AUXILIARY, AVERAGE, KINDS, PROBE, RUN, Run
from ratatouille_algorithms.report_runs import algorithm_names, dataset_names, made_from
from ratatouille_algorithms.sheets import MEASURED, Item, Sheet


def by_dataset(runs: list[Run]) -> Sheet:
    """What was run of each dataset, and how."""
    header = "Dataset,Test domains,Algorithms,Trials,Hparam draws,Steps,Protocol,Held out,Code"
    rows = []
    board = [run for run in runs if run.kind in (RUN, AVERAGE)]
    for name in dataset_names(board):
        some = [r for r in sorted(board, key=lambda r: r.test_envs) if r.dataset == name]
        values = [
            listed(run.test_domains for run in some),
            listed(algorithm_names(some)),
            str(len({str(run.args.get("trial_seed")) for run in some})),
            str(len({str(run.args.get("hparams_seed")) for run in some})),
            listed(f"{run.n_steps:,}" for run in some if run.n_steps),
            listed(str(run.args.get("protocol", "not recorded")) for run in some),
            listed(f"{holdout(run.args):.0%}" for run in some),
            listed(str(run.description.get("code_version", "not recorded")) for run in some),
        ]
        rows.append([Item(name), *map(Item, values)])
    return Sheet(MEASURED, "Datasets and protocol", "", header.split(","), rows)


def cost(runs: list[Run]) -> Sheet:
    """Jobs, updates and seconds by kind of job."""
    header = ["Kind of job", "Jobs", "Done", "Failed", "Other", "Updates", "Seconds"]
    rows = []
    for kind in (*KINDS, "all"):
        some = [run for run in runs if kind in (run.kind, "all")]
        states = Counter(run.state for run in some)
        n_other = len(some) - states[DONE] - states[FAILED]
        counts = (len(some), states[DONE], states[FAILED], n_other, sum(r.n_steps for r in some))
        seconds = sum(run.seconds for run in some)
        if some:
            rows.append([Item(kind), *map(_number, counts), _number(seconds, ".0f")])
    return Sheet(MEASURED, "Jobs and cost", "", header, rows)


def _number(value: float, form: str = ",") -> Item:
    return Item(format(value, form), Cell(value))


def ingredients(runs: list[Run]) -> Sheet:
    """Foundations, probes and auxiliary runs, and how many runs start from each."""
    by_name = {run.path.name: run for run in runs}
    used: Counter[tuple[str, str]] = Counter()
    for run in runs:
        for start in made_from(run):
            source = by_name.get(start)
            if source:
                used[source.kind, source.dataset] += 1
    rows = []
    foundations = Counter(_foundation(run) for run in runs if _foundation(run))
    for name, n in foundations.items():
        rows.append([Item("foundation"), Item(name), Item(""), _number(n)])
    for kind in (PROBE, AUXILIARY):
        there = Counter(run.dataset for run in runs if run.kind == kind)
        for dataset in dataset_names(run for run in runs if run.kind == kind):
            counts = there[dataset], used[kind, dataset]
            rows.append([Item(kind), Item(dataset), *map(_number, counts)])
    header = ["Ingredient", "Of", "Runs of it", "Runs that start from it"]
    return Sheet(MEASURED, "Foundation and ingredients", "", header, rows)


def _foundation(run: Run) -> str:
    """The name and the hash of the weights that a run descends from."""
    foundation = inventory.table(run.provenance, "foundation")
    if not foundation:
        return ""
    return f"{foundation.get('name')}, sha256 {str(foundation.get('sha256'))[:12]}"


def leakage(runs: list[Run]) -> str:
    """Whether any run started from auxiliary weights that had seen its own target."""
    by_name = {run.path.name: run for run in runs if run.kind == AUXILIARY}
    starts = [(r, by_name[name]) for r in runs for name in made_from(r) if name in by_name]
    starts = [(run, source) for run, source in starts if run.kind != AUXILIARY]
    wrong = sorted({r.path.name for r, source in starts if r.dataset == source.dataset})
    if wrong:
        return f"Started from weights that had seen their own target dataset: {', '.join(wrong)}."
    if not starts:
        return "No run records that it started from an auxiliary run."
    return (
        f"{count(len(starts), 'start')} from auxiliary weights: none of these had seen the target "
        "dataset, as their own records say."
    )


def listed(names: Iterable[str]) -> str:
    """Names each once, with commas."""
    return ", ".join(dict.fromkeys(names))


def count(n: int, what: str) -> str:
    """A number of things."""
    return f"{n:,} {what}{'s' * (n != 1)}"


def duration(seconds: float) -> str:
    """Seconds as a reader says them."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"
