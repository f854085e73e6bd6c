"""Pools of ingredients: added, verified, exported, removed; what lies or escapes is refused."""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile

import numpy as np
import pytest
import torch

from domainbed import networks
from domainbed.lib import weights
from domainbed.networks import foundations
from domainbed.registry import InputError
from domainbed.runs import LAST, RunFolder
from domainbed.scripts import train
from ratatouille_algorithms import pool as pools
from ratatouille_algorithms.pool import CARD, LOCK, cards, lock, network, verify
from ratatouille_algorithms.pool import pool as folders
from ratatouille_algorithms.pool.network import Architecture
from ratatouille_algorithms.scripts import pool

DIGITS = ["--backbone", "mnist_cnn", "--input_shape", "1", "28", "28", "--foundation", "letters"]


def letters(scale=1.0):
    """The tensors of the letters' network, scaled."""
    return {name: t * scale for name, t in weights.read(foundations.LETTERS)[0].items()}


def run(*arguments):
    return pool.main([str(argument) for argument in arguments])


def refusal(capsys, *arguments):
    """The one line that a refused command tells."""
    capsys.readouterr()
    assert run(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """A pool: `ink`, `noisy`, and `old` with an unknown past."""
    root = tmp_path_factory.mktemp("pools")
    for name, seen, scale in (("ink", ["InkDigits"], 1.01), ("old", [], 1.02)):
        torch.save(letters(scale), root / f"{name}.pkl")
        past = ["--datasets_seen", *seen] if seen else []
        source = root / f"{name}.pkl"
        assert run("add", source, "--pool", root / "pool", "--name", name, *DIGITS, *past) == 0
    weights.save(root / "noisy.safetensors", letters(1.5), {})
    more = ["--datasets_seen", "noisy_digits", "--licence", "MIT", "--id_acc", "0.5"]
    assert run("add", root / "noisy.safetensors", "--pool", root / "pool", "--name", "noisy",
               *DIGITS, *more) == 0  # fmt: skip
    return root / "pool"


@pytest.fixture
def mine(template, tmp_path):
    return shutil.copytree(template, tmp_path / "mine")


@pytest.fixture(scope="session")
def auxiliary(tmp_path_factory):
    """A finished run on all domains, as auxiliary runs are."""
    folder = tmp_path_factory.mktemp("runs") / "a"
    arguments = ["--dataset", "InkDigits", "--test_envs", "-1", "--steps", "2"]
    arguments += ["--foundation", "letters", "--hparams", '{"batch_size": 2}']
    assert train.main([*arguments, "--output_dir", str(folder), "--hparams_seed", "3"]) == 0
    return folder


def edit(path, **values):
    """Change top-level values of a card by hand."""
    text = path.read_text()
    for key, value in values.items():
        line = f"{key} = {json.dumps(value)}"
        text, n = re.subn(rf"^{key} = .*$", line, text, count=1, flags=re.M)
        assert n
    path.write_text(text)


def rewrite(folder, state=None, **header):
    """Give an ingredient other tensors or another header, and a card that fits them."""
    own, own_header = weights.read(folder / LAST)
    weights.save(folder / LAST, {**own, **(state or {})}, {**own_header, **header})
    digest = folders.sha256_of(folder / LAST)
    edit(folder / CARD, sha256=digest, size=(folder / LAST).stat().st_size)


def test_a_finished_run_fills_its_card(auxiliary, tmp_path):
    assert run("add", auxiliary, "--pool", tmp_path / "p", "--licence", "MIT") == 0
    (one,) = pools.read(tmp_path / "p")
    header = weights.read_header(auxiliary / LAST)
    card = one.card
    assert (one.name, card.licence, card.steps) == ("InkDigits_3", "MIT", 2)
    assert card.datasets_seen == ("InkDigits",) and card.id_acc == header["id_acc"]
    assert vars(card.foundation) == header["provenance"]["foundation"]
    assert card.hparams["lr"] == header["hparams"]["lr"] and card.backbone == "mnist_cnn"
    assert "--dataset InkDigits" in card.how and str(auxiliary) not in card.how
    stored, own = weights.read(one.weights)
    assert own["provenance"] == card.provenance()
    ran = weights.read(auxiliary / LAST)[0]
    assert stored.keys() == {name for name in ran if name.startswith("featurizer.")}
    assert all(torch.equal(tensor, ran[name]) for name, tensor in stored.items())


def test_all_runs_of_a_folder_but_probes_and_unfinished_ones(auxiliary, tmp_path, capsys):
    runs = tmp_path / "runs"
    shutil.copytree(auxiliary, runs / "a")
    shutil.copytree(auxiliary, runs / "probe")
    probe = RunFolder(runs / "probe").description()
    probe["args"]["what_is_trainable"] = "classifier"
    RunFolder(runs / "probe").describe(probe)
    assert run("add", runs, "--pool", tmp_path / "p") == 0
    assert [one.name for one in pools.read(tmp_path / "p")] == ["InkDigits_3"]
    add = ["add", runs / "a", "--pool", tmp_path / "p"]
    assert "InkDigits_3 is there already" in refusal(capsys, *add)
    line = refusal(capsys, *add, "--datasets_seen", "PACS", "--name", "b")
    assert "says itself what its datasets_seen is" in line
    (runs / "a" / "done").unlink()
    assert "is not done" in refusal(capsys, *add, "--name", "b")
    assert "holds runs" in refusal(capsys, "add", auxiliary, "--pool", runs)
    state, header = weights.read(auxiliary / LAST)
    header["args"]["what_is_trainable"] = "classifier"
    weights.save(tmp_path / "probe.safetensors", state, header)
    assert "is a linear probe" in refusal(capsys, "add", tmp_path / "probe.safetensors",
                                          "--pool", tmp_path / "p", "--name", "b")  # fmt: skip


@pytest.mark.parametrize(
    "header",
    [
        {"provenance": {"foundation": 3, "datasets_seen": 7}},
        {"provenance": {"foundation": {"name": "x", "sha256": "y"}}, "args": [], "hparams": 1},
        {"provenance": {"datasets_seen": ["a"]}, "input_shape": "big", "hparams": {"backbone": []}},
        {"provenance": {"datasets_seen": [[1]]}, "input_shape": [1, 2], "step": "x", "id_acc": []},
    ],
)
def test_a_header_of_anything_is_refused_in_one_line(tmp_path, capsys, header):
    weights.save(tmp_path / "w.safetensors", letters(), header)
    to = ["--pool", tmp_path / "p", "--name", "x"]
    assert "w.safetensors" in refusal(capsys, "add", tmp_path / "w.safetensors", *to)


def test_weights_of_others_take_our_names(template):
    ink, noisy, old = pools.read(template)
    names = {network.PREFIX + name for name in weights.tensors(networks.MNIST_CNN((1, 28, 28)))}
    for one, scale in ((ink, 1.01), (noisy, 1.5), (old, 1.02)):
        state = weights.read(one.weights)[0]
        assert state.keys() == names
        for name, tensor in letters(scale).items():
            assert torch.equal(state[network.PREFIX + name], tensor)
    assert noisy.card.datasets_seen == ("NoisyDigits",) and noisy.card.id_acc == 0.5
    assert old.card.datasets_seen is None
    featurizer = networks.Featurizer((1, 28, 28), {"foundation": "letters"})
    assert ink.card.foundation.sha256 == weights.content_hash(weights.tensors(featurizer))


def public_run(folder, test_envs, state):
    """An auxiliary folder as the public code leaves it: pickles and records."""
    folder.mkdir()
    torch.save(state, folder / "featurizer_last.pkl")
    args = {"dataset": "RotatedDigits", "algorithm": "ERM", "test_envs": test_envs}
    args |= {"trial_seed": 0, "hparams_seed": 1, "output_dir": "/home/someone/out"}
    record = {"step": 300, "env0_out_acc": 0.5, "env1_out_acc": 0.75, "env0_in_acc": 1.0}
    record |= {"hparams": {"lr": 5e-5, "resnet18": False}, "args": args}
    (folder / "results.jsonl").write_text(json.dumps(record) + "\n")
    return folder


def test_a_folder_of_the_public_code_says_what_it_knows(tmp_path, capsys):
    state = letters(1.1)
    source = public_run(tmp_path / "aux", [-1], state)
    to = ["--pool", tmp_path / "p", "--foundation", "letters"]
    assert run("add", source, *to) == 0
    (one,) = pools.read(tmp_path / "p")
    assert one.name == "RotatedDigits_1" and one.card.datasets_seen == ("RotatedDigits",)
    assert (one.card.steps, one.card.id_acc, one.card.hparams["lr"]) == (301, 0.625, 5e-5)
    assert "someone" not in one.card.how
    line = refusal(capsys, "add", source, *to, "--datasets_seen", "PACS", "--name", "b")
    assert "says itself what its datasets_seen is" in line
    target = public_run(tmp_path / "target", [0], state)
    assert run("add", target, *to, "--name", "target") == 0
    assert pools.get(tmp_path / "p", ["target"])[0].card.datasets_seen is None
    assert pools.get(tmp_path / "p", ["target"])[0].card.id_acc == 0.75


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("how", ["torch", "plain", "named_safetensors", "public_folder", "inside"])
def test_a_malicious_pickle_is_never_unpickled(tmp_path, capsys, how, template):
    trap, content = tmp_path / "trap", {"conv1.weight": Payload(tmp_path / "trap")}
    to = ["--pool", tmp_path / "p", "--name", "x", *DIGITS]
    if how == "inside":
        shutil.copytree(template, tmp_path / "p")
        (tmp_path / "p/ink" / LAST).write_bytes(pickle.dumps(content))
        edit(tmp_path / "p/ink" / CARD, size=(tmp_path / "p/ink" / LAST).stat().st_size)
        assert run("verify", "ink", "--pool", tmp_path / "p") == 1
        assert refusal(capsys, "export", "ink", "--pool", tmp_path / "p", "--output", "no.zip")
    elif how == "public_folder":
        public_run(tmp_path / "aux", [-1], content)
        to = [*to[:4], *to[6:]]
        assert "cannot be read as weights" in refusal(capsys, "add", tmp_path / "aux", *to)
    else:
        name = "evil.safetensors" if how == "named_safetensors" else "evil.pkl"
        if how == "torch":
            torch.save(content, tmp_path / name)
        else:
            (tmp_path / name).write_bytes(pickle.dumps(content))
        assert "cannot be read as" in refusal(capsys, "add", tmp_path / name, *to)
    assert not trap.exists()
    pickle.loads(pickle.dumps(content))
    assert trap.exists()  # the payload works


def test_a_pickle_that_unpacks_to_more_is_refused(tmp_path, capsys):
    torch.save(letters(), tmp_path / "plain.pkl")
    with (
        zipfile.ZipFile(tmp_path / "plain.pkl") as plain,
        zipfile.ZipFile(tmp_path / "bomb.pkl", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for info in plain.infolist():
            bomb.writestr(info.filename, bytes(info.file_size), zipfile.ZIP_DEFLATED)
    to = ["--pool", tmp_path / "p", "--name", "x", *DIGITS]
    assert "would unpack to" in refusal(capsys, "add", tmp_path / "bomb.pkl", *to)


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"conv1.bias": torch.full((64,), np.nan)}, "not finite, in 'featurizer.conv1.bias'"),
        ({"conv1.bias": torch.zeros(65)}, "1 of other shape (conv1.bias)"),
        ({"evil": torch.zeros(3)}, "1 unexpected (evil)"),
    ],
)
def test_weights_that_do_not_fit_are_not_added(tmp_path, capsys, changes, reason):
    weights.save(tmp_path / "w.safetensors", {**letters(), **changes}, {})
    add = ["add", tmp_path / "w.safetensors", "--pool", tmp_path / "p", "--name", "x", *DIGITS]
    line = refusal(capsys, *add)
    assert line.startswith(f"error: {tmp_path / 'w.safetensors'} ") and reason in line
    assert not list((tmp_path / "p").iterdir())


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "..", "", ".hidden", "a/b", "pool.lock"])
def test_a_name_that_leaves_the_pool_is_refused(tmp_path, mine, capsys, name):
    weights.save(tmp_path / "w.safetensors", letters(), {})
    before = sorted(tmp_path.rglob("*"))
    add = ["add", tmp_path / "w.safetensors", "--pool", mine, f"--name={name}", *DIGITS]
    assert "a folder's name" in refusal(capsys, *add)
    assert "a folder's name" in refusal(capsys, "remove", "--pool", mine, "--yes", "--", name)
    assert "a folder's name" in refusal(capsys, "export", "--pool", mine,
                                        "--output", tmp_path / "out", "--", name)  # fmt: skip
    assert sorted(tmp_path.rglob("*")) == before


LIES = {
    "hash": (lambda ink: edit(ink / CARD, sha256="0" * 64), "its card says 0000"),
    "size": (lambda ink: edit(ink / CARD, size=5), "its card says 5"),
    "bytes": (lambda ink: flip_last_byte(ink / LAST), "has sha256"),
    "nan": (
        lambda ink: rewrite(ink, {"featurizer.conv1.bias": torch.full((64,), np.inf)}),
        "not finite, in 'featurizer.conv1.bias'",
    ),
    "shape": (
        lambda ink: rewrite(ink, {"featurizer.conv1.bias": torch.zeros(65)}),
        "has 'featurizer.conv1.bias' of float32 [65]; expected float32 [64]",
    ),
    "dtype": (
        lambda ink: rewrite(ink, {"featurizer.conv1.bias": torch.zeros(64).half()}),
        "of float16 [64]; expected float32 [64]",
    ),
    "extra": (lambda ink: rewrite(ink, {"evil": torch.zeros(1)}), "holds 'evil'"),
    "backbone": (lambda ink: edit(ink / CARD, backbone="wide_resnet"), "tensors differ"),
    "no_backbone": (lambda ink: edit(ink / CARD, backbone="mnist_cn"), "Did you mean 'mnist_cnn'"),
    "past": (lambda ink: edit(ink / CARD, datasets_seen=["PACS"]), "gives datasets_seen as"),
    "foundation": (
        lambda ink: rewrite(ink, provenance={"foundation": {}, "datasets_seen": ["InkDigits"]}),
        "gives foundation as",
    ),
    "no_header": (
        lambda ink: (
            weights.save(ink / LAST, letters(), {})
            or edit(ink / CARD, size=(ink / LAST).stat().st_size)
        ),
        "no header that says where it comes from",
    ),
    "header": (lambda ink: rewrite(ink, args={}), "more in its header than"),
    "aliases": (
        lambda ink: rewrite(ink, dict.fromkeys(["featurizer.conv1.bias", "x"], torch.zeros(64))),
        "more in its header than",
    ),
    "odd_dtype": (lambda ink: rename_dtype(ink, "F8_E4M3"), "of f8_e4m3 [256]; expected"),
    "name": (lambda ink: edit(ink / CARD, name="other"), "is that of 'other'; expected 'ink'"),
    "escape": (lambda ink: edit(ink / CARD, name="../ink"), "expected a folder's name"),
    "not_a_card": (lambda ink: (ink / CARD).write_bytes(b"\x80\x04\x95"), "is not UTF-8"),
    "no_card": (lambda ink: (ink / CARD).unlink(), "No such file"),
    "no_weights": (lambda ink: (ink / LAST).unlink(), "No such file"),
    "linked_weights": (lambda ink: link_away(ink / LAST), "no link"),
    "linked_card": (lambda ink: link_away(ink / CARD), "no link"),
    "linked_folder": (lambda ink: link_away(ink), "is a link"),
}


def flip_last_byte(path):
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def rename_dtype(folder, dtype):
    """Let the header say that a tensor's bytes are numbers of 8 bits each."""
    content = (folder / LAST).read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    name = "featurizer.conv1.bias"
    start, end = header[name]["data_offsets"]
    header[name] |= {"dtype": dtype, "shape": [end - start]}
    text = json.dumps(header).encode()
    (folder / LAST).write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])
    digest, length = folders.sha256_of(folder / LAST), (folder / LAST).stat().st_size
    edit(folder / CARD, sha256=digest, size=length)


def link_away(path):
    outside = path.parents[2] / "outside"
    shutil.move(path, outside)
    path.symlink_to(outside)


@pytest.mark.parametrize("lie", LIES)
def test_an_ingredient_that_lies_is_refused_and_others_are_not(mine, capsys, lie):
    spoil, reason = LIES[lie]
    spoil(mine / "ink")
    capsys.readouterr()
    assert run("verify", "--pool", mine) == 1
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert line.startswith("refused: ") and reason in line
    assert "noisy: sound" in out and "old: sound" in out and "2 sound, 1 refused" in out
    with pytest.raises(InputError):
        verify.check(pools.get(mine, ["ink"])[0])


def test_a_card_cannot_take_memory(mine, capsys):
    text = (mine / "ink" / CARD).read_text().replace('"mnist_cnn"', '"mlp"')
    sizes = "\n[hparams]\nmlp_width = 60000\nmlp_depth = 20\n"
    (mine / "ink" / CARD).write_text(text.replace("[1, 28, 28]", "[4096, 4096, 4096]") + sizes)
    assert run("verify", "ink", "--pool", mine) == 1
    assert "tensors differ" in capsys.readouterr().err
    for wrong in ("mlp_width = 0", "mlp_width = 1000000000", 'mlp_width = "wide"'):
        (mine / "ink" / CARD).write_text(text + f"\n[hparams]\n{wrong}\n")
        assert run("verify", "ink", "--pool", mine) == 1
        assert "mlp_width" in capsys.readouterr().err


@pytest.mark.parametrize(
    "backbone, shape",
    [
        ("mlp", (5,)),
        ("mnist_cnn", (3, 28, 28)),
        ("wide_resnet", (3, 32, 32)),
        ("resnet18", (3, 64, 64)),
        ("resnet50", (3, 64, 64)),
    ],
)
def test_a_layout_is_that_of_the_network(backbone, shape):
    architecture = Architecture.of(backbone, shape, {"mlp_width": 7, "lr": 1.0})
    built = weights.tensors(networks.builder(backbone)(shape, architecture.hparams))
    assert architecture.layout() == {n: network.describe(t) for n, t in built.items()}


def test_distances_are_those_of_the_definition(template, mine):
    for one, scale in zip(pools.read(template), (1.01, 1.5, 1.02)):
        far = verify.distance(one, None)
        assert far.overall == pytest.approx(scale - 1, rel=1e-4)
        assert far.most == pytest.approx(scale - 1, rel=1e-4)
    moved = {"featurizer.conv2.weight": letters()["conv2.weight"] * 3}
    rewrite(mine / "ink", moved)
    far = verify.distance(pools.get(mine, ["ink"])[0], "letters")
    assert (far.where, far.most) == ("conv2.weight", pytest.approx(2.0))


def test_another_foundation_is_refused(mine, tmp_path, capsys):
    weights.save(tmp_path / "other.safetensors", letters(1.001), {})
    verify_it = ["verify", "ink", "--pool", mine, "--foundation"]
    assert run(*verify_it, tmp_path / "other.safetensors") == 1
    assert "descends from foundation 'letters'" in capsys.readouterr().err
    assert run(*verify_it, foundations.LETTERS) == 0

    weights.save(tmp_path / "w.safetensors", letters(1.1), {})
    add = ["add", tmp_path / "w.safetensors", "--pool", mine, "--name", "third", *DIGITS[:-1]]
    assert run(*add, tmp_path / "other.safetensors", "--datasets_seen", "PACS") == 0
    capsys.readouterr()
    assert run("verify", "third", "--pool", mine) == 0
    assert "not compared with its foundation: foundation 'file:other" in capsys.readouterr().out
    with pytest.raises(InputError, match="third descends from foundation 'file:other"):
        pools.usable(pools.read(mine), "RotatedDigits")
    mine_only = pools.get(mine, ["ink"])[0].card.foundation.sha256
    some = pools.usable(pools.read(mine), "RotatedDigits", mine_only)
    assert [one.name for one in some] == ["ink", "noisy"]


def test_who_has_seen_the_target_is_left_out(template, capsys):
    every = pools.read(template)

    def names(*args, **further):
        return [one.name for one in pools.usable(every, *args, **further)]

    assert names("RotatedDigits") == ["ink", "noisy"]
    assert names("InkDigits") == ["noisy"] and names("ink-digits") == ["noisy"]
    assert names("InkDigits", allow_unknown=True) == ["noisy", "old"]
    with pytest.raises(InputError, match="old: what it has seen is unknown"):
        pools.usable([every[2]], "RotatedDigits")
    with pytest.raises(InputError, match="no ingredient for RotatedDigits"):
        pools.usable([], "RotatedDigits")
    capsys.readouterr()
    assert run("list", "--pool", template, "--target", "NoisyDigits") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[-1] for line in lines[1:]] == [
        "yes",
        "no: has seen NoisyDigits",
        "no: what it has seen is unknown (--allow_unknown_provenance)",
    ]


def test_the_way_from_the_foundation_is_measured(auxiliary, tmp_path, capsys):
    assert run("add", auxiliary, "--pool", tmp_path / "p") == 0
    (one,) = pools.read(tmp_path / "p")
    segment = verify.Segment(one.card, "RotatedDigits", None, None)
    curve = segment.curve(one)
    own = weights.tensors(segment.algorithm.featurizer)
    for name, tensor in weights.read(one.weights)[0].items():
        assert torch.equal(own[name.removeprefix("featurizer.")], tensor)  # l = 1
    assert len(curve.accs) == 11 and curve.accs[0] > 0.5
    assert curve.n_samples == sum(len(split.out) for split in segment.run.splits)
    assert segment.curve(one) == curve  # nothing of the first way is left
    assert run("verify", "--pool", tmp_path / "p", "--dataset", "RotatedDigits") == 0
    row = capsys.readouterr().out.splitlines()[-2].split()
    assert row[:2] == ["InkDigits_3", f"{100 * curve.accs[0]:.1f}"]
    line = refusal(capsys, "verify", "--pool", tmp_path / "p", "--dataset", "Debug224")
    assert "has inputs of shape [3, 224, 224]" in line


def test_the_worst_gap_is_the_least_above_the_chord():
    curve = verify.Curve([0.5, 0.6, 0.5, 0.5, 0.5, 0.5, 0.2, 0.5, 0.8, 0.9, 1.0], 100)
    gap, lam = curve.worst
    assert (gap, lam) == (pytest.approx(0.2 - 0.8), 0.6)
    assert curve.error == pytest.approx(2 * (0.8 * 0.2 / 100) ** 0.5)
    assert verify.Curve([0.5] * 5 + [0.9] + [0.5] * 5, 100).worst[0] == 0.0


def test_export_is_a_pool_of_the_two_files(mine, tmp_path, capsys):
    (mine / "ink" / "secret.txt").write_text("no")
    for suffix in (".zip", ".tar", ""):
        out = tmp_path / f"out{suffix}"
        assert run("export", "ink", "old", "--pool", mine, "--output", out) == 0
        if suffix:
            with zipfile.ZipFile(out) if suffix == ".zip" else tarfile.open(out) as archive:
                archive.extractall(tmp_path / f"un{suffix}")
            out = tmp_path / f"un{suffix}"
        assert sorted(str(path.relative_to(out)) for path in out.rglob("*.*")) == [
            f"{name}/{file}" for name in ("ink", "old") for file in sorted(pools.FILES)
        ]
        assert [one.card for one in pools.read(out)] == [
            one.card for one in pools.get(mine, ["ink", "old"])
        ]
        verify.check(pools.read(out)[0])
    line = refusal(capsys, "export", "--pool", mine, "--output", tmp_path / "out.zip")
    assert "is there already" in line
    assert run("add", tmp_path / "out", "--pool", tmp_path / "p") == 0
    assert [one.name for one in pools.read(tmp_path / "p")] == ["ink", "old"]
    line = refusal(capsys, "add", tmp_path / "out/ink", "--pool", mine, "--licence", "MIT")
    assert "edit it instead of giving --licence" in line


def refusal_without_stdin(capsys, monkeypatch, mine):
    def nobody(question):
        raise EOFError

    monkeypatch.setattr("builtins.input", nobody)
    return refusal(capsys, "remove", "old", "--pool", mine)


def test_remove_asks_and_removes_only_ingredients(mine, tmp_path, capsys, monkeypatch):
    digest = "0" * 64
    pin = lock.Pin("1" * 40, {f"{name}/{CARD}": digest for name in ("ink", "old")})
    lock.write(mine, {"a/b": pin})
    monkeypatch.setattr("builtins.input", lambda question: "n")
    assert run("remove", "ink", "--pool", mine) == 0 and (mine / "ink").exists()
    monkeypatch.setattr("builtins.input", lambda question: "y")
    assert run("remove", "ink", "--pool", mine) == 0 and not (mine / "ink").exists()
    assert lock.read(mine)["a/b"].names == ["old"]
    (mine / "photos").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (mine / "linked").symlink_to(tmp_path / "elsewhere")
    for name in ("photos", "linked", "nothing"):
        assert "is no ingredient" in refusal(capsys, "remove", name, "old", "--pool", mine, "--yes")
    assert "give --yes" in refusal_without_stdin(capsys, monkeypatch, mine)
    assert (mine / "old").exists() and (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "7",
        '{"a/b": 3}',
        '{"a/b": {"revision": "main", "files": {}}}',
        '{"../..": {"revision": "COMMIT", "files": {}}}',
        '{"a/b": {"revision": "COMMIT", "files": {"../x/card.toml": "HASH"}}}',
        '{"a/b": {"revision": "COMMIT", "files": {"x/setup.py": "HASH"}}}',
        '{"a/b": {"revision": "COMMIT", "files": {"x/card.toml": "0"}}}',
        "[" * 100_000,
    ],
)
def test_a_damaged_lock_is_refused(mine, text, capsys):
    (mine / LOCK).write_text(text.replace("COMMIT", "1" * 40).replace("HASH", "0" * 64))
    with pytest.raises(InputError, match="is damaged"):
        lock.read(mine)
    assert "is damaged" in refusal(capsys, "pull", "--pool", mine)


def test_what_is_a_pool(mine, auxiliary, tmp_path):
    assert pools.is_pool(mine) and pools.is_pool(str(mine))
    assert not pools.is_pool(None) and not pools.is_pool(tmp_path / "nothing")
    assert not pools.is_pool(auxiliary.parent) and not pools.is_pool(auxiliary)
    assert not list(pools.entries(auxiliary.parent))


def test_a_label_names_one_content(mine):
    one = pools.get(mine, ["ink"])[0]
    assert one.label == f"ink@{one.card.sha256[:12]}"
    assert pools.pinned(mine, [one.label]) == [one] and pools.pinned(mine, []) == []
    with pytest.raises(InputError, match="but this job is of ink@000000000000"):
        pools.pinned(mine, ["ink@000000000000"])


def test_planning_with_a_pool_imports_no_torch(mine):
    code = (
        "import sys; from ratatouille_algorithms import pool as p;"
        f"[i.label for i in p.usable(p.read({str(mine)!r}), 'RotatedDigits')];"
        "assert 'torch' not in sys.modules and 'huggingface_hub' not in sys.modules;"
        "from ratatouille_algorithms.scripts.pool import main;"
        f"assert main(['list', '--pool', {str(mine)!r}]) == 0 and 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_card_may_be_edited_where_the_weights_do_not_say(mine):
    text = (mine / "old" / CARD).read_text()
    (mine / "old" / CARD).write_text(text.replace("\nbackbone", '\nlicence = "MIT"\nbackbone'))
    one = pools.get(mine, ["old"])[0]
    assert one.card.licence == "MIT" and cards.parse(cards.render(one.card), "x") == one.card
    verify.check(one)
