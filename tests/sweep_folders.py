"""Sweep folders written by hand, with known accuracies, for whatever reads results."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MARKUP = (
    "\"'><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'></script>"
    "&amp;${x} javascript:window.hacked=1"
)
"""A text that would do something in a page that does not escape it."""

FILE_MARKUP = "\"'><img src=x onerror=window.hacked=1>&amp;"
"""The same as a file's name, which can't hold a slash."""


def record(step: int, accs: Sequence[tuple[float, float]], **args: Any) -> dict[str, Any]:
    """A record with the accuracies of each domain's in and out split."""
    base = {"dataset": "RotatedDigits", "algorithm": "ERM", "test_envs": [0], "trial_seed": 0}
    args = {**base, "hparams_seed": 0, "holdout_fraction": 0.2, "protocol": "default", **args}
    values: dict[str, Any] = {"step": step, "args": args, "hparams": {"lr": 0.001}, "loss": 0.5}
    for env, (in_acc, out_acc) in enumerate(accs):
        values.update({f"env{env}_in_acc": in_acc, f"env{env}_out_acc": out_acc})
    return {**values, "step_time": 0.1}


def write_run(folder: Path, records: Sequence[dict], done: bool = True, **description: Any) -> Path:
    """A run folder of records, with a run.json if anything is to be described."""
    folder.mkdir(parents=True)
    (folder / "results.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    if description:
        args = records[-1]["args"] if records else {}
        (folder / "run.json").write_text(json.dumps({"args": args, **description}))
    if done:
        (folder / "done").write_text("done")
    return folder


def write_trials(root: Path, algorithm: str, accs: Sequence[float], **args: Any) -> None:
    """A run of each trial on each domain of a dataset of four, all with the same accuracy."""
    for trial, acc in enumerate(accs):
        for env in range(4):
            records = [
                record(
                    step,
                    [(acc if i == env else 0.9, 0.8) for i in range(4)],
                    algorithm=algorithm,
                    test_envs=[env],
                    trial_seed=trial,
                    **args,
                )
                for step in (0, 100)
            ]
            write_run(root / f"{algorithm}-{trial}-{env}-{args.get('dataset', '')}", records)


def write_hostile(root: Path) -> None:
    """A sweep of which every string is `MARKUP`."""
    args = {key: MARKUP for key in ("dataset", "algorithm", "protocol", "hparams", "foundation")}
    records = [record(s, [(0.5, 0.5)] * 3, **args) for s in (0, 10)]
    for one in records:
        one["environments"] = [f"{MARKUP}{env}" for env in range(3)]
        one["hparams"] = {MARKUP: MARKUP}
    description = {
        "environments": [MARKUP] * 3,
        "code_version": MARKUP,
        "provenance": {
            "foundation": {"name": MARKUP, "sha256": MARKUP},
            "initial": [{"role": MARKUP, "run": MARKUP}],
        },
    }
    write_run(root / "javascript:window.hacked=1", records, **description)
    other = [
        {**r, "args": {**r["args"], "hparams_seed": 1}, "hparams": {MARKUP: 1}} for r in records
    ]
    failed = write_run(root / FILE_MARKUP, other, done=False, **description)
    (failed / "failed").write_text(MARKUP)
    with open(failed / "results.jsonl", "a") as file:
        file.write(f"{MARKUP}\n")
    (root / "damaged").mkdir()
    (root / "damaged" / "run.json").write_text(f'{{"args": "{MARKUP}')
    odd = {"args": MARKUP, "provenance": [MARKUP], "environments": 3, "hparams": MARKUP}
    (root / "odd").mkdir()
    (root / "odd" / "run.json").write_text(json.dumps(odd))
    (root / "analysis").mkdir()
    (root / "analysis" / f"{FILE_MARKUP}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (root / "analysis" / f"{FILE_MARKUP}.txt").write_text(MARKUP)
