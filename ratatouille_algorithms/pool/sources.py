"""Making ingredients: of finished runs, of others' weights, of auxiliary runs of ModelRatatouille.

Whatever a source says of itself is checked like anyone's card, and arguments add to it what it
does not say, but cannot contradict its provenance. Pickles are read by the weights-only loader.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PureWindowsPath
from typing import Any

from safetensors import SafetensorError

from domainbed import datasets, networks
from domainbed.lib import reporting, stored, weights
from domainbed.networks import foundations
from domainbed.registry import InputError
from domainbed.runs import LAST, RunFolder
from ratatouille_algorithms import inventory
from ratatouille_algorithms.inventory import number, table
from ratatouille_algorithms.pool import cards, network, pool, verify
from ratatouille_algorithms.pool.cards import CARD, Card
from ratatouille_algorithms.pool.network import PREFIX, Architecture
from ratatouille_algorithms.pool.pool import Ingredient

Given = Mapping[str, Any]
"""A card's fields that the user gave, and "foundation" as a name or a file."""

PICKLES = ("featurizer_last.pkl", "model.pkl", "network_best.pkl", "model_best.pkl")
"""Weights in folders of public code: the last featurizer is what the paper recycles."""

_NOT_TOLD = {"output_dir", "data_dir", "aux_dir", "output_dir_lp", "path_init"}


def find(source: str) -> list[Path]:
    """What to add from a path: a file, a run folder, an ingredient, or every one of a folder.

    Of a folder of run folders linear probes are left out: their featurizer is the foundation.
    """
    path = Path(source)
    if path.is_file() or _is_one(path):
        return [path]
    if not path.is_dir():
        raise InputError(f"{source} is neither a file nor a folder; give weights or a run folder")
    found = [one for one in sorted(path.iterdir()) if one.is_dir() and _is_one(one)]
    found = [one for one in found if not _is_probe(RunFolder(one).description())]
    if not found:
        raise InputError(
            f"{source} holds no run folder but linear probes, no ingredient and none of "
            f"{', '.join(PICKLES)}"
        )
    return found


def _is_one(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("run.json", CARD, *PICKLES))


def _is_probe(header: Any) -> bool:
    said = table(header, "args") if isinstance(header, dict) else {}
    return said.get("what_is_trainable") == "classifier"


def add(to: str | Path, source: Path, given: Given) -> Ingredient:
    """Put one source into a pool; raises `InputError` that says what is wrong or lacks."""
    if (source / CARD).is_file():
        return _copy(to, source, given)
    with pool.staging(to) as scratch:
        state, values = _read(source, given)
        state = {PREFIX + name: tensor for name, tensor in state.items()}
        draft = _draft(values, source)
        verify.check_layout({n: network.describe(t) for n, t in state.items()}, draft, source)
        for name, tensor in state.items():
            verify.check_finite(tensor, name, source)
        pool.check_room(sum(t.numel() * t.element_size() for t in state.values()), scratch)
        file = scratch / draft.name / LAST
        file.parent.mkdir()
        weights.save(file, state, {"provenance": draft.provenance()})
        card = replace(draft, sha256=pool.sha256_of(file), size=file.stat().st_size)
        file.with_name(CARD).write_text(cards.render(card), encoding="utf-8")
        verify.check(pool.open_one(file.parent))
        return pool.settle(file.parent, to)


def _draft(values: Mapping[str, Any], source: Path) -> Card:
    """A card of all but what the file is going to be."""
    said = {key: value for key, value in values.items() if value is not None}
    if "name" not in said:
        raise InputError(f"{source} does not say what to call it; give --name")
    if isinstance(said.get("datasets_seen"), list):
        said["datasets_seen"] = [_as_registered(name) for name in said["datasets_seen"]]
    return cards.check({**said, "sha256": "0" * 64, "size": 0}, str(source))


def _as_registered(name: Any) -> Any:
    same = [known for known in datasets.REGISTRY if cards.is_same_dataset(known, str(name))]
    return same[0] if same else name


def _copy(to: str | Path, source: Path, given: Given) -> Ingredient:
    """An ingredient of another pool, as it is."""
    if given:
        raise InputError(f"{source} has a card; edit it instead of giving --{next(iter(given))}")
    one = pool.open_one(source)
    verify.check(one)
    with pool.staging(to) as scratch:
        pool.check_room(one.card.size, scratch)
        pool.copy([one], scratch)
        return pool.settle(scratch / one.name, to)


def _read(source: Path, given: Given) -> tuple[weights.State, dict[str, Any]]:
    """The featurizer's tensors, and the values of its card that do not depend on the file."""
    if (source / "run.json").is_file():
        if not RunFolder(source).is_done:
            raise InputError(f"{source} is not done; finish the run before recycling it")
        return _of_run(source / LAST, given)
    if source.is_dir():
        file = next(source / name for name in PICKLES if (source / name).is_file())
        return _foreign(file, given, _told_by_public_code(source))
    if _is_safetensors(source) and table(stored.read_header(source), "provenance"):
        return _of_run(source, given)
    return _foreign(source, given, {})


def _is_safetensors(path: Path) -> bool:
    return path.suffix == ".safetensors"


def _of_run(path: Path, given: Given) -> tuple[weights.State, dict[str, Any]]:
    if not path.is_file():
        raise InputError(f"{path} is missing; run it again without --skip_model_save")
    for key in ("foundation", "datasets_seen", "backbone", "input_shape", "hparams"):
        if key in given:
            raise InputError(f"{path} says itself what its {key} is; leave --{key} out")
    try:
        state, header = weights.read(path)
    except SafetensorError as error:
        raise InputError(f"{path} cannot be read as safetensors: {error}") from error
    if _is_probe(header):
        raise InputError(f"{path} is a linear probe: its featurizer is still the foundation's")
    provenance, hparams = table(header, "provenance"), table(header, "hparams")
    shape = tuple(inventory.rows(header, "input_shape", int))
    values = {
        **_told(header),
        "foundation": provenance.get("foundation"),
        "datasets_seen": provenance.get("datasets_seen"),
        "input_shape": list(shape),
        "backbone": networks.backbone_name(shape, hparams) if shape else "",
        "hparams": _plain(hparams),
        "code_version": header.get("code_version"),
        "steps": header["step"] + 1 if type(header.get("step")) is int else None,
        "id_acc": _acc(header.get("id_acc")),
    }
    return foundations.featurizer_state(state), {**values, **given}


def _plain(hparams: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in hparams.items() if isinstance(value, (int, float, str))}


def _told(header: dict[str, Any]) -> dict[str, Any]:
    """Name and origin, from the arguments of a run."""
    args = table(header, "args")
    if not isinstance(args.get("dataset"), str):
        return {}
    return {"name": f"{args['dataset']}_{args.get('hparams_seed', 0)}", "how": command(args)}


def command(args: Mapping[str, Any]) -> str:
    """A train command of recorded arguments, without the folders of whoever ran it."""
    words = ["python", "-m", "domainbed.scripts.train"]
    for key, value in sorted(args.items()):
        if key in _NOT_TOLD or value in (None, False, [], ""):
            continue
        if key == "foundation":
            value = PureWindowsPath(str(value)).name
        values = value if isinstance(value, list) else [value]
        words += [f"--{key}", *([] if value is True else map(str, values))]
    return shlex.join(words)


def _acc(value: Any) -> float | None:
    acc = number(value)
    return None if acc is None else min(acc, 1.0)


def _told_by_public_code(folder: Path) -> dict[str, Any]:
    """What the last record of results.jsonl says of a run of the public code.

    A run that held a domain out may itself have started from other fine-tuned weights, so only an
    auxiliary one, without a test domain, tells all that it has seen.
    """
    records = inventory.by_step(reporting.read_run(folder)[0] or ())
    if not records:
        return {}
    last, args = records[-1], records[-1]["args"]
    n = len([key for key in last if key.endswith("_out_acc")])
    keys = [f"env{env}_out_acc" for env in range(n) if env not in args["test_envs"]]
    accs = [last[key] for key in keys if key in last]
    is_auxiliary = not any(env >= 0 for env in args["test_envs"])
    hparams = _plain(table(last, "hparams"))
    dataset = datasets.REGISTRY[args["dataset"]] if args["dataset"] in datasets.REGISTRY else None
    shape = getattr(dataset, "INPUT_SHAPE", None) or (3, 224, 224)
    return {
        **_told(last),
        "datasets_seen": [args["dataset"]] if is_auxiliary else None,
        "input_shape": list(shape),
        "backbone": networks.backbone_name(shape, hparams),
        "hparams": hparams,
        "steps": last["step"] + 1,
        "id_acc": _acc(sum(accs) / len(accs)) if accs else None,
    }


def _foreign(path: Path, given: Given, told: Given) -> tuple[weights.State, dict[str, Any]]:
    """Weights without our header, loaded into their backbone by name, strictly."""
    for key in ("datasets_seen", "backbone"):
        if told.get(key) is not None and key in given:
            raise InputError(f"{path.parent} says itself what its {key} is; leave --{key} out")
    values = {"input_shape": [3, 224, 224], **told, **given}
    if not values.get("backbone"):
        raise InputError(f"{path} does not say its backbone; give --backbone")
    unknown = {"foundation": {"name": "", "sha256": "0" * 64}}
    architecture = Architecture.of_card(_draft({**values, **unknown}, path))
    origin = architecture.build(given.get("foundation"))
    if not origin.foundation:
        raise InputError(f"{values['backbone']} has no weights of its own; give --foundation")
    sha256 = weights.content_hash(weights.tensors(origin))
    state = weights.tensors(_loaded(architecture, path))
    return state, {**values, "foundation": {"name": origin.foundation, "sha256": sha256}}


def _loaded(architecture: Architecture, path: Path) -> Any:
    try:
        return architecture.build(str(path))
    except (InputError, SafetensorError) as error:
        raise InputError(str(error).replace(f"--foundation {str(path)!r}", str(path))) from error
