"""Whatever is in records, cards and TOML files, they are read, or refused in one line."""

import json
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domainbed.lib import reporting
from domainbed.registry import InputError
from domainbed.runs import RunFolder
from domainbed.scripts import collect_results
from domainbed.scripts import sweep as sweep_script
from domainbed.sweep import read_config
from ratatouille_algorithms import inventory
from ratatouille_algorithms.pool import cards

RECORD = {
    "args": {
        "dataset": "RotatedDigits",
        "algorithm": "ERM",
        "test_envs": [0],
        "trial_seed": 0,
        "hparams_seed": 3,
        "holdout_fraction": 0.2,
        "steps": None,
    },
    "hparams": {"lr": 0.001, "batch_size": 64},
    "environments": ["0", "15"],
    "env0_in_acc": 0.5,
    "env0_out_acc": 0.25,
    "env1_in_acc": 1.0,
    "env1_out_acc": 0.75,
    "step": 100,
    "step_time": 0.01,
    "mem_gb": 0.5,
    "loss": 0.3,
}
CARD = cards.render(
    cards.Card(
        name="ink",
        sha256="0" * 64,
        size=3,
        foundation=cards.Foundation("letters", "1" * 64),
        backbone="mnist_cnn",
        input_shape=(1, 28, 28),
        datasets_seen=("InkDigits",),
        hparams={"lr": 1e-5, "freeze_bn": True},
    )
)
CONFIG = """datasets = ["RotatedDigits"]
algorithms = ["ERM", "DiWA"]
n_hparams = 2
n_trials = 1
steps = 20
single_test_envs = true
command_launcher = "dummy"
precision = "float32"

[hparams]
lr = 0.001
"""

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=5,
)


def changed(text):
    """The text with parts cut out, doubled, moved, or replaced by odd ones."""
    odd = ["", '"', "\\", "[", "]", "{", "}", "=", "\n", "\0", "-1", "1e999", "nan", "'''", "é"]
    odd += ["[[", "0x", "2000-01-01", "true", "null", "\ud800", "." * 30, "[" * 3000, "\u202e"]
    place = st.integers(0, len(text))
    edits = st.lists(st.tuples(place, place, st.sampled_from(odd)), min_size=1, max_size=4)

    def apply(some):
        result = text
        for start, end, new in some:
            result = result[:start] + new + result[max(start, end) if len(new) % 2 else start :]
        return result.encode("utf-8", "surrogatepass")

    return edits.map(apply)


def with_odd_values(record):
    """The record with values of other types in some places."""

    def put(seed_and_values):
        seed, values = seed_and_values
        choose, made = random.Random(seed), json.loads(json.dumps(record))
        for value in values:
            table = choose.choice([made, made["args"]]) if isinstance(made["args"], dict) else made
            table[choose.choice([*table, "extra"])] = value
        return json.dumps(made).encode()

    return st.tuples(st.integers(0, 10**6), st.lists(json_values, max_size=3)).map(put)


lines = st.lists(
    st.binary(max_size=60) | changed(json.dumps(RECORD)) | with_odd_values(RECORD), max_size=4
).map(b"\n".join)
NUMBERS = [pytest.param(200, id="few"), pytest.param(10_000, id="many", marks=pytest.mark.slow)]
fuzzed = pytest.mark.parametrize("n", NUMBERS)


def fuzz(n, strategy, check):
    """Check n examples of a strategy; the same ones each time."""
    quiet = settings(
        max_examples=n,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    quiet(given(strategy)(check))()


@fuzzed
def test_records(tmp_path, n, capsys):
    run = RunFolder(tmp_path / "run")
    run.create()
    n_read = 0

    def check(content):
        nonlocal n_read
        (run / "results.jsonl").write_bytes(content)
        records, problems = reporting.read_records(tmp_path)
        written = [line for line in content.splitlines() if line.strip()]
        whole = [line for line in written if reporting.parse_record(line) is not None]
        assert len(records) <= len(whole)
        assert any("damaged" in problem for problem in problems) == (len(whole) < len(written))
        (found,) = inventory.read(tmp_path)
        assert found.n_steps >= 0 and found.seconds is not None
        assert collect_results.main(["--input_dir", str(tmp_path)]) in (0, 2)
        capsys.readouterr()
        n_read += len(records)

    fuzz(n, lines, check)
    assert n_read > n / 20


@fuzzed
def test_cards(tmp_path, n):
    path, n_read = tmp_path / cards.CARD, 0

    def check(content):
        nonlocal n_read
        path.write_bytes(content)
        try:
            card = cards.read(path)
        except InputError as error:
            assert "\n" not in str(error)
        else:
            assert cards.parse(cards.render(card), "again") == card
            n_read += 1

    fuzz(n, st.binary(max_size=60) | changed(CARD), check)
    assert n_read > n / 100


toml_values = st.sampled_from(
    '-1 0 3 1e9 0.5 inf nan "" "ERM" "x" [] [1] ["ERM"] [["ERM"]] {} {lr=1} true 07:32:00'.split()
)


def configs(parser):
    """Damaged files, and files that give known arguments values of any type."""
    names = st.sampled_from([a.dest for a in parser._actions if a.dest != "output_dir"])
    tables = st.dictionaries(names, toml_values, max_size=4)
    said = tables.map(lambda t: "\n".join(f"{k} = {v}" for k, v in t.items()).encode())
    return st.binary(max_size=60) | changed(CONFIG) | said


@fuzzed
def test_configs(tmp_path, n):
    parser, path, n_read = sweep_script.build_parser(), tmp_path / "c.toml", 0

    def check(content):
        nonlocal n_read
        path.write_bytes(content)
        try:
            values = read_config(str(path), parser)
        except InputError as error:
            assert str(path) in str(error)
        else:
            assert values.keys() <= {action.dest for action in parser._actions}
            n_read += bool(values)

    fuzz(n, configs(parser), check)
    assert n_read > n / 50


def test_configs_of_sweeps(tmp_path, capsys):
    path, seen = tmp_path / "c.toml", set()
    argv = ["plan", "--count_only", "--output_dir", str(tmp_path / "out"), "--config", str(path)]
    few = b'datasets = ["RotatedDigits"]\nalgorithms = ["ERM"]\nn_hparams = 1\n'

    def check(content):
        path.write_bytes(content if b"datasets" in content else content + b"\n" + few)
        try:
            code = sweep_script.main(argv)
        except SystemExit as error:
            code = error.code
        seen.add(code)
        assert code in (0, 2) and "Traceback" not in capsys.readouterr().err

    fuzz(300, configs(sweep_script.build_parser()), check)
    assert seen == {0, 2}


def test_a_config_may_begin_with_a_mark_of_byte_order(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text("n_hparams = 3\n", encoding="utf-8-sig")
    assert read_config(str(path), sweep_script.build_parser()) == {"n_hparams": 3}
