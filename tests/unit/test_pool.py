"""Pools of ingredients: added, verified, exported, removed; what lies or escapes is refused."""

import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest
import torch
from ingredients import DIGITS, letters, public_run, refusal, rewrite, run

from domainbed import networks
from domainbed.lib import stored, weights
from domainbed.networks import foundations
from domainbed.registry import InputError
from domainbed.runs import LAST, RunFolder
from ratatouille_algorithms import pool as pools
from ratatouille_algorithms.pool import CARD, LOCK, cards, lock, network, verify
from ratatouille_algorithms.pool.network import Architecture


def test_a_finished_run_fills_its_card(auxiliary, tmp_path):
    assert run("add", auxiliary, "--pool", tmp_path / "p", "--licence", "MIT") == 0
    (one,) = pools.read(tmp_path / "p")
    header = stored.read_header(auxiliary / LAST)
    card = one.card
    assert (one.name, card.licence, card.steps) == ("InkDigits_3", "MIT", 2)
    assert card.datasets_seen == ("InkDigits",) and card.id_acc == header["id_acc"]
    assert vars(card.foundation) == header["provenance"]["foundation"]
    assert card.hparams["lr"] == header["hparams"]["lr"] and card.backbone == "mnist_cnn"
    assert "--dataset InkDigits" in card.how and str(auxiliary) not in card.how
    state, own = weights.read(one.weights)
    assert own["provenance"] == card.provenance()
    ran = weights.read(auxiliary / LAST)[0]
    assert state.keys() == {name for name in ran if name.startswith("featurizer.")}
    assert all(torch.equal(tensor, ran[name]) for name, tensor in state.items())


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
