"""Ingredients that lie, escape or carry code are refused; the others are not."""

import json
import os
import pickle
import shutil
import zipfile

import numpy as np
import pytest
import torch
from ingredients import DIGITS, edit, letters, public_run, refusal, rewrite, run

from domainbed.lib import weights
from domainbed.registry import InputError
from domainbed.runs import LAST
from ratatouille_algorithms import pool as pools
from ratatouille_algorithms.pool import CARD, verify
from ratatouille_algorithms.pool import pool as folders


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
    told = "a folder's name" if name else "which is empty"
    assert told in refusal(capsys, *add)
    assert told in refusal(capsys, "remove", "--pool", mine, "--yes", "--", name)
    export = ["export", "--pool", mine, "--output", tmp_path / "out", "--", name]
    assert told in refusal(capsys, *export)
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
