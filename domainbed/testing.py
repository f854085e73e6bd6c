"""Checks that authors of plug-ins run on their own classes.

Each raises an AssertionError that names the promise which is broken. A test is one line::

    from domainbed import testing

    def test_mine():
        testing.check_algorithm(Mine, {"lr": 1e-3, "weight_decay": 0.0, "mine_lambda": 1.0})
        testing.check_dataset(MyDataset, data_dir="data")
        testing.check_launcher(my_launcher)
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math
import pickle
import shlex
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from domainbed.datasets.base import evaluation_view
from domainbed.datasets.checking import contradiction, sample_fault
from domainbed.engine import restoring, rng, state
from domainbed.engine.splits import labels

Minibatches = list[tuple[torch.Tensor, torch.Tensor]]


def minibatches(
    seed: int, input_shape: tuple[int, ...], num_classes: int, num_domains: int, size: int = 8
) -> Minibatches:
    """Random inputs (size, *input_shape) and labels (size,) for each domain, from a seed."""
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(size, *input_shape, generator=generator),
            torch.randint(0, num_classes, (size,), generator=generator),
        )
        for _ in range(num_domains)
    ]


def update(algorithm: Any, step: int, batches: Minibatches) -> dict[str, float]:
    """One update in the random state of this step."""
    rng.seed_all(1000 + step)
    values = algorithm.update(batches, None)
    for key, value in values.items():
        assert isinstance(value, float) and math.isfinite(value), (
            f"update returned {key}={value!r}; expected a finite float"
        )
    return values


def check_algorithm(
    cls: type,
    hparams: Mapping[str, Any],
    input_shape: tuple[int, ...] = (3, 28, 28),
    num_classes: int = 4,
    num_domains: int = 3,
) -> None:
    """Build an algorithm and train it for a few steps.

    Checks that its updates return finite floats, that two trainings from one seed are alike, that
    one saved after three updates and loaded into a fresh object goes on as if undisturbed, that
    predictions are logits of shape (batch, num_classes) and predicting leaves the state as it was.
    """

    def build(seed: int) -> Any:
        rng.seed_all(seed)
        return cls(input_shape, num_classes, num_domains, dict(hparams))

    def train(algorithm: Any, steps: range) -> list[dict[str, float]]:
        return [
            update(algorithm, step, minibatches(step, input_shape, num_classes, num_domains))
            for step in steps
        ]

    algorithm, twin = build(0), build(0)
    made = state.Made(algorithm)
    first, again = train(algorithm, range(3)), train(twin, range(3))
    assert first == again, f"two trainings from one seed differ: {first} and {again}"

    resumed = build(1)
    try:
        restoring.load(resumed, _through_a_file(state.saved(algorithm, made)))
    except state.CannotSave as error:
        raise AssertionError(str(error)) from error
    rest, resumed_rest = train(algorithm, range(3, 6)), train(resumed, range(3, 6))
    assert rest == resumed_rest, (
        "training that was saved and loaded goes on differently, so some state that update reads "
        f"is not saved with the algorithm: {rest} and {resumed_rest}"
    )
    _check_same(algorithm, _flat(resumed), "training was saved, loaded and gone on with")
    x = torch.cat([x for x, _ in minibatches(999, input_shape, num_classes, num_domains)])
    _check_predict(algorithm.eval(), x, num_classes)


def _through_a_file(saved: Any) -> Any:
    """What is read again of a saved state, as a run that goes on reads it."""
    file = io.BytesIO()
    torch.save(saved, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def _check_predict(algorithm: Any, x: torch.Tensor, num_classes: int) -> None:
    before = copy.deepcopy(_flat(algorithm))
    with torch.no_grad():
        logits = algorithm.predict(x)
    assert logits.shape == (len(x), num_classes), (
        f"predict returned shape {tuple(logits.shape)}; expected {(len(x), num_classes)}"
    )
    _check_same(algorithm, before, "predict in evaluation mode")


def _check_same(algorithm: Any, state: Mapping[str, torch.Tensor], after: str) -> None:
    for name, value in _flat(algorithm).items():
        assert torch.equal(value, state[name]), f"{name} is another after {after}"


def _flat(algorithm: Any) -> dict[str, torch.Tensor]:
    """The tensors of a state dict."""
    state = algorithm.state_dict()
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}


def check_dataset(
    cls: type[Any],
    data_dir: str | Path | None = None,
    hparams: Mapping[str, Any] | None = None,
    n_samples: int = 8,
) -> None:
    """Build a dataset, with its first environment as test domain, and read some samples of each.

    Checks the attributes that runs read, that inputs are finite float32 tensors of `input_shape`
    and labels whole numbers below `num_classes`, that what one random state yields is always the
    same, also from a pickled copy, as a worker process gets it, that samples for evaluation are the
    same in number and label, and do not depend on chance.
    """
    for name in ("N_STEPS", "CHECKPOINT_FREQ"):
        value = getattr(cls, name)
        assert type(value) is int and value > 0, f"{name} is {value!r}; expected an int above 0"
    names = list(cls.ENVIRONMENTS or ())
    assert names and len({*names}) == len(names) and all(type(name) is str for name in names), (
        f"ENVIRONMENTS is {cls.ENVIRONMENTS!r}; expected names, all different"
    )

    def build() -> Any:
        rng.seed_all(0)
        return cls(data_dir, [0], dict(hparams or {"data_augmentation": True}))

    dataset, twin = build(), build()
    fault = contradiction(dataset, names)
    assert fault is None, fault
    for env, name in enumerate(names):
        n = len(dataset[env])
        keys = sorted({i * (n - 1) // max(n_samples - 1, 1) for i in range(n_samples)})
        samples = _samples(dataset[env], keys, seed=0)
        for key, (x, y) in zip(keys, samples):
            _check_sample(x, y, dataset, f"sample {key} of environment {name!r}")
        sent = pickle.loads(pickle.dumps(dataset[env]))
        for other, what in ((twin[env], "built again from its seed"), (sent, "pickled")):
            _check_alike(samples, _samples(other, keys, 0), f"environment {name!r} {what}")
        _check_view(dataset[env], keys, f"evaluation view of {name!r}")


def _samples(environment: Any, keys: Sequence[int], seed: int) -> list[tuple[torch.Tensor, int]]:
    rng.seed_all(seed)
    return [environment[key] for key in keys]


def _check_sample(x: Any, y: Any, dataset: Any, what: str) -> None:
    fault = sample_fault(x, y, dataset)
    assert fault is None, f"in {what}, {fault}"
    assert x.isfinite().all(), f"x of {what} has entries that are not finite"


def _check_alike(samples: Sequence, others: Sequence, what: str) -> None:
    for (x, y), (other_x, other_y) in zip(samples, others):
        assert torch.equal(x, other_x) and int(y) == int(other_y), (
            f"{what} yields other samples from the same random state"
        )


def _check_view(environment: Any, keys: Sequence[int], what: str) -> None:
    view = evaluation_view(environment)
    assert len(view) == len(environment), f"{what} has {len(view)} samples, not {len(environment)}"
    plain = _samples(view, keys, seed=0)
    if hasattr(environment, "evaluation"):
        _check_alike(plain, _samples(view, keys, seed=1), what)
    assert [int(y) for _, y in plain] == [int(environment[key][1]) for key in keys], (
        f"{what} has other labels"
    )
    every = labels(environment)
    assert [every[key] for key in keys] == [int(y) for _, y in plain], (
        f"targets of {what} are not the labels of its samples"
    )


ODD = ["two words", "it's", '"quoted"', "$HOME", "; exit 1", "`exit 1`", "&&", "*", ""]
_WRITE = """
import json, sys, time
time.sleep(0.2)
open(sys.argv[1], "w").write(json.dumps(sys.argv[3:]))
sys.exit(int(sys.argv[2]))
"""


def check_launcher(launcher: Callable[[list[str]], object]) -> None:
    """Give four commands to a launcher; each writes a file with its arguments, the second fails.

    Checks that all are run, though one fails, that they have ended when the launcher returns, that
    odd arguments arrive as they are, and that the list given is left alone. A launcher that only
    prints must print all commands and run none.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, str(i)) for i in range(4)]
        commands = [
            shlex.join(["python", "-c", _WRITE, str(file), str(int(i == 1)), *ODD])
            for i, file in enumerate(files)
        ]
        given, printed = list(commands), io.StringIO()
        with contextlib.redirect_stdout(printed):
            launcher(given)
            launcher([])
        assert given == commands, "the launcher changed the list of commands"
        ran = [file.name for file in files if file.is_file()]
        if getattr(launcher, "only_prints", False):
            assert not ran, f"the launcher only prints, but ran commands {', '.join(ran)}"
            missing = [c for c in commands if c not in printed.getvalue()]
            assert not missing, f"the launcher did not print {missing[0]!r}"
            return
        assert len(ran) == len(files), (
            f"of commands 0 to 3, of which 1 fails, only {', '.join(ran) or 'none'} had run when "
            "the launcher returned"
        )
        for file in files:
            arrived = json.loads(file.read_text())
            assert arrived == ODD, f"arguments {ODD} arrived as {arrived}"
