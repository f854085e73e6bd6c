"""Weights of other programs are found in their files, whatever they are called and nested in."""

import logging

import pytest
import torch
from ingredients import DIGITS, letters, refusal
from ingredients import run as pool

from domainbed import hparams_registry, networks
from domainbed.lib import stored, weights
from domainbed.registry import InputError
from domainbed.runs import LAST
from domainbed.scripts import keep_tensors, train
from ratatouille_algorithms.scripts import average

HPARAMS = hparams_registry.default_hparams("ERM", "RotatedDigits")
SHAPE = (1, 28, 28)
NESTINGS = [
    (), ("model",), ("state_dict",), ("model_state_dict",), ("model_dict",), ("teacher",), ("net",),
    ("student",), ("network",), ("ema",), ("model_ema",), ("state_dict_ema",), ("module",),
    ("params",), ("weights",), ("whatever", "model"), ("checkpoint", "state_dict", "teacher"),
]  # fmt: skip
PREFIXES = [
    "", "_orig_mod.", "module.", "module._orig_mod.", "_orig_mod.module.", "model.", "net.",
    "backbone.", "encoder.", "encoder_q.", "module.base_encoder.", "featurizer.", "network.0.",
    "student.backbone.", "teacher.", "visual.trunk.", "model.model.backbone.",
    "_orig_mod.featurizer.", "featurizer._orig_mod.", "a.b.c.d.e.f.",
]  # fmt: skip


def featurizer(foundation, input_shape=SHAPE, **hparams):
    return networks.Featurizer(input_shape, {**HPARAMS, "foundation": foundation, **hparams})


@pytest.fixture(scope="module")
def source():
    """The weights of a digits' network that no foundation has."""
    return letters(0.5)


def digest(state):
    return weights.content_hash(getattr(state, "state_dict", lambda: state)())


def nested(state, nesting, beside=()):
    content = {**state}
    for name in reversed(nesting):
        content = {name: content, "epoch": 3, **dict(beside)}
    return content


def prefixed(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize("with_head", [True, False], ids=["head", "bare"])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_any_prefix_is_found(tmp_path, source, prefix, with_head):
    content = prefixed(source, prefix)
    if with_head:
        content[f"{prefix}fc.weight"] = content["head.bias"] = torch.ones(7, 128)
    torch.save({"state_dict": content}, tmp_path / "w.pth")
    assert digest(featurizer(str(tmp_path / "w.pth"))) == digest(source)
    weights.save(tmp_path / "w.safetensors", content, {})
    assert digest(featurizer(str(tmp_path / "w.safetensors"))) == digest(source)


@pytest.mark.parametrize("nesting", NESTINGS, ids="/".join)
def test_any_nesting_is_found_beside_the_state_of_an_optimiser(tmp_path, source, nesting):
    moments = {i: {"exp_avg": t.clone(), "step": 3} for i, t in enumerate(source.values())}
    by_name = {name: torch.zeros_like(t) for name, t in source.items()}
    beside = {"optimizer": {"state": moments, "exp_avg": by_name}} if nesting else {}
    torch.save(nested(prefixed(source, "module."), nesting, beside), tmp_path / "w.pth")
    assert digest(featurizer(str(tmp_path / "w.pth"))) == digest(source)


def test_what_was_taken_and_left_is_told_in_a_line(tmp_path, source, caplog):
    content = prefixed(source, "module.encoder.") | {
        "module.fc.0.weight": torch.ones(3), "module.fc.2.weight": torch.ones(3),
    }  # fmt: skip
    torch.save({"state_dict": content}, tmp_path / "w.pth")
    with caplog.at_level(logging.INFO, "domainbed"):
        featurizer(str(tmp_path / "w.pth"))
    (line,) = [r.message for r in caplog.records if "w.pth" in r.message]
    assert "state_dict.module.encoder" in line and "left out: module (2)" in line


def test_a_head_of_another_shape_is_left_and_told(tmp_path, source, caplog):
    torch.save({**source, "fc.weight": torch.ones(9, 9)}, tmp_path / "w.pth")
    with caplog.at_level(logging.INFO, "domainbed"):
        assert digest(featurizer(str(tmp_path / "w.pth"))) == digest(source)
    assert any("left out: fc (1)" in record.message for record in caplog.records)


@pytest.mark.parametrize(
    "first, second, taken",
    [
        ("student", "teacher", "teacher"),
        ("model", "model_ema", "model_ema"),
        ("state_dict_ema", "state_dict", "state_dict_ema"),
        ("online_network", "target_network", "online_network"),
    ],
)
def test_of_networks_that_fit_alike_the_usual_one_is_taken_and_told(
    tmp_path, source, caplog, first, second, taken
):
    states = {first: letters(2), second: letters(3)}
    torch.save(states, tmp_path / "w.pth")
    with caplog.at_level(logging.INFO, "domainbed"):
        assert digest(featurizer(str(tmp_path / "w.pth"))) == digest(states[taken])
    told = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert len(told) == 1 and f"{taken} was taken" in told[0]
    assert ({first, second} - {taken}).pop() in told[0]


@pytest.mark.parametrize("prefixes", [("module.encoder_q.", "module.encoder_k."), ("q.", "k.")])
def test_of_two_prefixes_that_fit_alike_the_query_is_taken(tmp_path, prefixes):
    states = [letters(2), letters(3)]
    torch.save({"model": prefixed(states[1], prefixes[1]) | prefixed(states[0], prefixes[0])},
               tmp_path / "w.pth")  # fmt: skip
    assert digest(featurizer(str(tmp_path / "w.pth"))) == digest(states[0])


def test_networks_that_nobody_can_tell_apart_are_named_and_one_can_be_chosen(tmp_path):
    path = str(tmp_path / "w.pth")
    torch.save({"run": {"left": letters(2), "right": letters(3)}}, path)
    with pytest.raises(InputError, match=r"run.left.*run.right.*--only NAME"):
        featurizer(path)
    new = str(tmp_path / "one.safetensors")
    assert keep_tensors.main([path, "--output", new, "--only", "run.right"]) == 0
    assert digest(featurizer(new)) == digest(letters(3))


def test_one_network_under_two_names_is_no_choice(tmp_path, source, caplog):
    torch.save({"model": prefixed(source, "a.") | prefixed(source, "b.")}, tmp_path / "w.pth")
    assert digest(featurizer(str(tmp_path / "w.pth"))) == digest(source)
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


def test_nothing_is_skipped_that_a_network_has(tmp_path, source):
    lacking = prefixed(source, "net.")
    lacking.pop("net.conv2.bias")
    wrong = {**prefixed(source, "net."), "net.conv2.bias": torch.zeros(1)}
    more = {**prefixed(source, "net."), "net.extra": torch.zeros(1)}
    for content, told in (
        (lacking, r"1 missing \(conv2.bias\)"),
        (wrong, r"1 of other shape \(conv2.bias\)"),
        (more, r"1 unexpected \(extra\)"),
    ):
        torch.save({"state_dict": content}, tmp_path / "w.pth")
        with pytest.raises(InputError, match=told):
            featurizer(str(tmp_path / "w.pth"))


def test_a_resnet_of_other_programs_fits_without_its_counters(tmp_path):
    own = featurizer("random", (3, 32, 32), backbone="resnet18").state_dict()
    changed = {name.removeprefix("network."): t + 1 for name, t in own.items()}
    kept = {n: t for n, t in changed.items() if not n.endswith("num_batches_tracked")}
    content = {f"module.encoder_q.{n}": t for n, t in kept.items()}
    content["module.encoder_q.fc.weight"] = torch.zeros(128, 512)
    content["module.queue"] = torch.zeros(128, 10)
    torch.save({"arch": "resnet18", "state_dict": content}, tmp_path / "moco.pth.tar")
    loaded = featurizer(str(tmp_path / "moco.pth.tar"), (3, 32, 32), backbone="resnet18")
    for name, tensor in loaded.state_dict().items():
        plain = name.removeprefix("network.")
        assert torch.equal(tensor, kept[plain] if plain in kept else own[name])


def test_names_of_many_parts_take_no_time(tmp_path, source):
    odd = {f"{'a.' * 450}{i}.conv1.weight": torch.zeros(1) for i in range(1000)}
    torch.save({**odd, **prefixed(source, "x.")}, tmp_path / "w.pth")
    assert digest(featurizer(str(tmp_path / "w.pth"))) == digest(source)


@pytest.fixture
def quick_run(tmp_path):
    """A function that trains one step, with further words; returns its exit code and folder."""

    def run(name, *words):
        common = "--dataset RotatedDigits --steps 1 --num_workers 0 --test_envs 0".split()
        hparams = ["--hparams", '{"batch_size": 4}', "--output_dir", str(tmp_path / name)]
        return train.main([*common, *hparams, *map(str, words)]), tmp_path / name

    return run


def test_a_whole_algorithm_is_taken_with_its_head_under_any_prefix(tmp_path, quick_run):
    state = weights.read(quick_run("first")[1] / LAST)[0]
    content = {"ckpt": {"state_dict": prefixed(state, "module._orig_mod.")}}
    torch.save(content, tmp_path / "w.pth")
    still = ["--hparams", '{"lr": 1e-30, "batch_size": 4}']
    code, again = quick_run("again", "--path_init", tmp_path / "w.pth", *still)
    assert code == 0
    read = weights.read(again / LAST)[0]
    assert torch.equal(read["classifier.weight"], state["classifier.weight"])


@pytest.mark.parametrize("option", ["--path_init", "--foundation"])
def test_files_and_backbones_are_looked_at_before_a_folder_is_made(
    tmp_path, quick_run, capsys, option
):
    (tmp_path / "w.pth").write_bytes(b"\x80\x02c__builtin__\neval\n.")
    code, folder = quick_run("run", option, tmp_path / "w.pth")
    assert code == 2 and not folder.exists()
    (line,) = capsys.readouterr().err.splitlines()
    assert "builtins.eval" in line


def test_means_and_pools_take_files_of_compiled_networks(tmp_path, capsys):
    plain, compiled = letters(1), prefixed(letters(3), "_orig_mod.")
    inner = {n.replace("conv1", "conv1._orig_mod"): t for n, t in letters(5).items()}
    paths = [tmp_path / f"{i}.safetensors" for i in range(3)]
    for path, state in zip(paths, (compiled, plain, inner)):
        weights.save(path, state, {})
    mean = tmp_path / "mean.safetensors"
    assert average.main([*map(str, paths), "--output", str(mean)]) == 0
    read, expected = weights.read(mean)[0], letters(3)
    assert read.keys() == expected.keys() == stored.tensors(mean).keys()
    assert all(torch.allclose(read[n], expected[n], rtol=1e-6, atol=1e-7) for n in read)
    add = ["--pool", tmp_path / "p", "--name", "x", "--datasets_seen", "InkDigits", *DIGITS]
    assert pool("add", paths[0], *add) == 0
    torch.save({"model": compiled, "optimizer": {"state": {}}}, tmp_path / "w.pth")
    assert pool("add", tmp_path / "w.pth", *add[:3], "y", *add[4:]) == 0
    for name in "xy":
        state = weights.read(tmp_path / "p" / name / LAST)[0]
        assert state.keys() == prefixed(plain, "featurizer.").keys()
    assert pool("verify", "--pool", tmp_path / "p") == 0
    torch.save({"a": {"b": {"c": {"d": {"e": plain}}}}}, tmp_path / "deep.pth")
    assert "holds no tensors" in refusal(
        capsys, "add", tmp_path / "deep.pth", *add[:3], "z", *add[4:]
    )
