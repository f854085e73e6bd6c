"""What is typed is checked before work is spent: numbers, paths and names of every command."""

import argparse
import importlib
import json
import math
import pkgutil
import re
import sys

import pytest

import domainbed.scripts
import ratatouille_algorithms.scripts
from domainbed import algorithms, datasets, hparams_registry, sweep
from domainbed.command_launchers import slurm, workers
from domainbed.datasets import doctor
from domainbed.hparams_registry import HParam, check_overrides, parse_overrides
from domainbed.lib import arguments
from domainbed.lib.bounds import Within
from domainbed.lib.machine import cores
from domainbed.registry import InputError
from domainbed.scripts import ask, one_line
from domainbed.scripts import sweep as sweep_script
from domainbed.scripts import train as train_script

NOT_FINITE = ["nan", "inf", "-inf", "1e999", "", " ", "x", "9" * 400]


def parsers():
    """Every parser of every command, those of subcommands included."""
    for package in (domainbed.scripts, ratatouille_algorithms.scripts):
        for info in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            module = importlib.import_module(info.name)
            if hasattr(module, "build_parser"):
                yield from with_subparsers(info.name, module.build_parser())


def with_subparsers(name, parser):
    yield name, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command, sub in action.choices.items():
                yield from with_subparsers(f"{name} {command}", sub)


def options():
    for name, parser in parsers():
        for action in parser._actions:
            if action.nargs != 0 and not isinstance(action, argparse._SubParsersAction):
                yield pytest.param(parser, action, id=f"{name} {action.dest}")


def converted(parser, action, text):
    """What the command line makes of one text."""
    value = parser._get_value(action, text)
    parser._check_value(action, value)
    return value


def test_every_command_has_a_parser_that_tells_errors_in_one_line(capsys):
    for name, parser in parsers():
        assert isinstance(parser, arguments.Parser), name
        assert one_line(parser.parse_args)(["--no_such_argument", "a\x1bb"]) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ") and said.count("\n") == 1 and "\x1b" not in said


def test_every_command_tells_a_wrong_argument_in_one_line(capsys):
    modules = [doctor]
    for package in (domainbed.scripts, ratatouille_algorithms.scripts):
        infos = pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
        modules += [importlib.import_module(info.name) for info in infos]
    for module in modules:
        assert module.main(["--no_such_argument"]) == 2, module
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1, module


def test_bounds_say_what_they_hold():
    said = {str(Within(*ends)) for ends in ((), (1,), (-math.inf, 5), (0, 0.5), (-1, 2**20))}
    assert said == {"that is finite", "of at least 1", "of at most 5", "from 0 to 0.5",
                    "from -1 to 1,048,576"}  # fmt: skip
    assert str(Within(0, above=True)) == "above 0"
    assert str(Within(-math.inf, 1, below=True)) == "below 1"


@pytest.mark.parametrize(("parser", "action"), list(options()))
def test_no_argument_is_empty_and_numbers_are_finite(parser, action):
    if action.dest == "message":  # of a commit, which may have none
        return
    with pytest.raises(argparse.ArgumentError):
        converted(parser, action, "")
    is_number = isinstance(action.type, arguments.Number) or action.type in (int, float)
    for text in NOT_FINITE if is_number else ():
        with pytest.raises(argparse.ArgumentError):
            converted(parser, action, text)
    if is_number and action.choices is None:
        assert isinstance(action.type, arguments.Number), "an argument without a range"
        lowest = action.type.bounds.least
        assert lowest > -1000
        with pytest.raises(argparse.ArgumentError):
            converted(parser, action, f"{lowest - 1:g}")


@pytest.mark.parametrize(("parser", "action"), list(options()))
def test_defaults_are_what_may_be_given(parser, action):
    values = action.default if isinstance(action.default, list) else [action.default]
    if isinstance(action.type, arguments.Number):
        for value in values:
            assert value is None or action.type.check(value) == value


PATHS = "data_dir output_dir input_dir path_init foundation image_cache aux_dir output_dir_lp"
PATHS += " output config pool analysis compare sources members archive file"


@pytest.mark.parametrize(("parser", "action"), list(options()))
def test_paths_start_at_home_wherever_one_is_taken(parser, action, monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere/anna")
    if action.dest in PATHS.split():
        assert converted(parser, action, "~/data") == "/somewhere/anna/data"
        assert converted(parser, action, "a~b") == "a~b"
        with pytest.raises(argparse.ArgumentError, match="no user 'nosuchuser'"):
            converted(parser, action, "~nosuchuser/data")


def test_paths_between_commas_start_at_home_each(monkeypatch):
    monkeypatch.setenv("HOME", "/h")
    assert arguments.paths("~/a,b,~/c") == "/h/a,b,/h/c"
    with pytest.raises(argparse.ArgumentTypeError, match="empty"):
        arguments.paths("a,,b")


def test_a_file_of_arguments_is_checked_as_the_command_line_is(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/h")
    file = tmp_path / "sweep.toml"
    file.write_text('output_dir = "~/runs"\ndata_dir = "~/data"\nmemory = 2\n')
    args = sweep_script.parse(["plan", "--config", str(file)])
    assert (args.output_dir, args.data_dir, args.memory) == ("/h/runs", "/h/data", 2)
    for line, said in {
        "n_trials = 0": "n_trials was given 0; expected an integer from 1",
        "steps = -3": "steps was given -3; expected an integer of at least 1",
        "memory = inf": "memory was given inf",
        "memory = nan": "memory was given nan",
        "holdout_fraction = 1.5": "from 0 to below 1",
        "steps = true": "steps was given True; expected an integer",
        'data_dir = ""': "data_dir was given '', which is empty",
        'data_dir = "a\\u0000b"': "null character",
        'datasets = ["PACS", ""]': "datasets was given ''",
        "[hparams]\nlr = inf": "hparam 'lr' was given inf",
        "[hparams]\nbatch_size = 0": "hparam 'batch_size' was given 0",
    }.items():
        file.write_text(f"{line}\n")
        with pytest.raises(InputError, match=re.escape(said)):
            args = ["plan", "--config", str(file), "--output_dir", str(tmp_path / "o")]
            args += ["--algorithms", "ERM"]
            if "datasets" not in line:
                args += ["--datasets", "RotatedDigits"]
            sweep.plan(sweep_script.parse(args))


def test_the_shell_or_the_command_expands_home_to_the_same_jobs(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    common = "plan --datasets RotatedDigits --algorithms ERM --n_hparams 1 --n_trials 1".split()

    def ids(home):
        args = ["--output_dir", f"{home}/runs", "--data_dir", f"{home}/data"]
        return [job.output_dir for job in sweep.plan(sweep_script.parse([*common, *args]))[0]]

    assert ids("~") == ids(str(tmp_path))


def every_hparam():
    for algorithm in algorithms.REGISTRY:
        for dataset in (*datasets.REGISTRY, "my_own_folder"):
            yield from hparams_registry.space(algorithm, dataset).values()
    yield from hparams_registry.OPTIONAL


def test_defaults_and_draws_of_every_hparam_are_in_its_range():
    seen = set()
    for hparam in every_hparam():
        key = (hparam.name, hparam.default, hparam.bounds, getattr(hparam.draw, "__code__", None))
        if key in seen:
            continue
        seen.add(key)
        if isinstance(hparam.default, bool):
            continue
        if hparam.name != "backbone":
            assert hparam.bounds is not None, hparam
            for value in (hparam.default, *(hparam.sample(seed) for seed in range(1, 201))):
                assert value in hparam.bounds, (hparam, value)
        kind = type(hparam.default)
        wrong = [True, None, [], {}, float("nan"), float("inf"), 10**400]
        wrong += ["", "no such text"] if hparam.name != "backbone" else [""]
        for value in wrong if kind is not str else wrong[-1:]:
            with pytest.raises(InputError, match=f"hparam {hparam.name!r} was given"):
                check_overrides({hparam.name: value}, [hparam])


@pytest.mark.parametrize(
    ("algorithm", "text", "said"),
    [
        ("ERM", '{"batch_size": 0}', "'batch_size' was given 0; expected an integer of at least 1"),
        ("ERM", '{"lr": 0}', "'lr' was given 0; expected a number above 0"),
        ("ERM", '{"lr": -Infinity}', "'lr' was given -inf"),
        ("ERM", '{"weight_decay": -1e-9}', "'weight_decay' was given -1e-09"),
        ("ERM", '{"vit_dropout": 1.0001}', "expected a number from 0 to 1"),
        ("ERM", '{"mlp_depth": 1}', "'mlp_depth' was given 1"),
        ("ERM", '{"image_size": 0}', "'image_size' was given 0"),
        ("DANN", '{"beta1": 1.0}', "expected a number from 0 to below 1"),
        ("DANN", '{"lr_d": NaN}', "'lr_d' was given nan"),
        ("MTL", '{"mtl_ema": 1.01}', "'mtl_ema'"),
        ("EQRM", '{"eqrm_quantile": -0.1}', "'eqrm_quantile'"),
        ("CAD", '{"temperature": 0}', "'temperature' was given 0; expected a number above 0"),
        ("Mixup", '{"mixup_alpha": 0.0}', "'mixup_alpha'"),
        ("Transfer", '{"d_steps_per_g": 0}', "'d_steps_per_g'"),
        ("URM", '{"urm_discriminator_optimizer": "lion"}', "one of 'adam', 'sgd'"),
        ("URM", '{"urm_generator_output": "gelu"}', "one of 'tanh', 'relu'"),
        ("MovingAverage", '{"ma_start": -1}', "'ma_start'"),
        ("SWAD", '{"swad_n_converge": 0}', "'swad_n_converge'"),
        ("InterTraining", '{"lp_steps": -1}', "'lp_steps'"),
    ],
)
def test_hparams_out_of_range_end_a_run_before_its_folder_is_made(
    algorithm, text, said, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    argv = ["--dataset", "RotatedDigits", "--algorithm", algorithm, "--hparams", text]
    assert train_script.main(argv) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())
    argv = ["plan", "--datasets", "RotatedDigits", "--algorithms", algorithm, "--output_dir", "o"]
    assert sweep_script.main([*argv, "--single_test_envs", "--hparams", text]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"lr": 1, "batch_size": 2, "lr": 3}', "gives 'lr' twice"),
        ('{"lr": 1', "line 1 column 9"),
        ("", "not JSON"),
        ("null", "expected a JSON object"),
        ('"lr"', "expected a JSON object"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_hparams_that_are_no_object_are_told_with_the_place(text, said):
    with pytest.raises(InputError, match=re.escape(said)) as error:
        parse_overrides(text)
    assert len(str(error.value)) < 400


def test_hparams_of_plugins_have_no_range_unless_they_say_so(monkeypatch):
    own = [HParam("mine", 1.0), HParam("batch_size", 16), HParam("part", 0.5, None, Within(0, 1))]
    monkeypatch.setitem(hparams_registry.SPACES._items, "Mine", own)
    known = hparams_registry.space("Mine", "PACS").values()
    check_overrides({"mine": -1e300, "part": 1, "batch_size": 1}, known)
    for name, value in (("mine", float("inf")), ("part", 1.1), ("batch_size", 0)):
        with pytest.raises(InputError, match=name):
            check_overrides({name: value}, known)


def test_counts_of_processes_are_bounded_by_the_machine():
    most = arguments.MOST_PER_CORE * cores()
    assert arguments.processes()(str(most)) == most
    with pytest.raises(argparse.ArgumentTypeError, match="since this machine has"):
        arguments.processes()(str(most + 1))
    for name in ("workers", "threads", "per_gpu"):
        assert getattr(workers.read({name: str(most)}), name) == most
        with pytest.raises(InputError, match=f"{name}=.*at most .*since this machine has"):
            workers.read({name: str(most + 1)})
    for name in ("jobs_per_task", "parallel", "cpus", "gpus", "time", "throttle"):
        with pytest.raises(InputError, match=f"{name}=.*expected at most"):
            slurm.read({name: str(10**12)})


@pytest.mark.parametrize("stdin", [None, "closed", "at its end"])
def test_nobody_to_ask_is_one_line_that_names_the_option(stdin, monkeypatch):
    stream = open("/dev/null")
    if stdin == "closed":
        stream.close()
    monkeypatch.setattr(sys, "stdin", stream if stdin else None)
    with pytest.raises(InputError, match="give --yes"):
        ask("Sure?", "--yes")


@pytest.mark.parametrize("command", ["launch", "delete_incomplete"])
def test_an_empty_input_launches_and_deletes_nothing(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", open("/dev/null"))
    argv = "--datasets RotatedDigits --algorithms ERM --n_hparams 1 --n_trials 1".split()
    argv = [command, *argv, "--single_test_envs", "--output_dir", str(tmp_path)]
    job = sweep.plan(sweep_script.parse(argv))[0][0]
    job.folder.path.mkdir()
    job.folder.__truediv__("results.jsonl").write_text("")
    assert sweep_script.main(argv) == 2
    error = capsys.readouterr().err
    assert "--skip_confirmation" in error and error.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == [job.folder.path.name]


def domains(root, name, n):
    for i in range(n):
        for label in ("cat", "dog"):
            folder = root / name / f"d{i}" / label
            folder.mkdir(parents=True)
            (folder / "0.png").write_bytes(b"")


def plan_of(root, name, *more):
    argv = ["plan", "--data_dir", str(root), "--datasets", name, "--algorithms", "ERM", *more]
    argv += ["--n_hparams", "1", "--n_trials", "2", "--output_dir", str(root / "o")]
    return [job.train_args["test_envs"] for job in sweep.plan(sweep_script.parse(argv))[0]]


def test_pairs_that_leave_nothing_to_train_on_are_left_out_and_said_once(tmp_path, capsys):
    domains(tmp_path, "Two", 2)
    domains(tmp_path, "Three", 3)
    assert plan_of(tmp_path, "Two") == [[0], [1]] * 2
    assert capsys.readouterr().err.count("two domains") == 1
    assert plan_of(tmp_path, "Two", "--single_test_envs") == [[0], [1]] * 2
    assert capsys.readouterr().err == ""
    assert plan_of(tmp_path, "Three") == [[0], [0, 1], [0, 2], [1], [1, 2], [2]] * 2
    with pytest.raises(InputError, match="needs runs with two test domains"):
        plan_of(tmp_path, "Two", "--for_selection", "loo")


@pytest.mark.parametrize("more", [(), ("--single_test_envs",)])
def test_one_domain_is_none_to_sweep_over(tmp_path, more):
    domains(tmp_path, "One", 1)
    with pytest.raises(InputError, match="has one domain") as error:
        plan_of(tmp_path, "One", *more)
    assert "\n" not in str(error.value) and not (tmp_path / "o").exists()


def test_ranges_read_as_words():
    assert json.dumps([str(Within(*ends)) for ends in ((), (0, 1), (1,), (0.5, 2))]) == json.dumps(
        ["that is finite", "from 0 to 1", "of at least 1", "from 0.5 to 2"]
    )
    assert str(Within(0, above=True)) == "above 0"
    assert str(Within(0, 1, below=True)) == "from 0 to below 1"
