"""The train command as its user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from domainbed import networks
from domainbed.lib import weights
from domainbed.scripts import train


def run(output_dir: Path, *words: object) -> int:
    return train.main([*map(str, words), "--output_dir", str(output_dir)])


def records(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


SMALL = ("--dataset", "RotatedDigits", "--hparams", '{"batch_size": 4}', "--steps", 3)


def test_a_run_leaves_domainbeds_files_and_record_keys(tmp_path):
    assert run(tmp_path / "r", *SMALL, "--checkpoint_freq", 2, "--test_env", 1) == 0
    names = {path.name for path in (tmp_path / "r").iterdir()}
    assert {"out.txt", "err.txt", "results.jsonl", "done", "model.safetensors"} <= names
    seen = records(tmp_path / "r")
    assert [r["step"] for r in seen] == [0, 2]
    for r in seen:
        assert {"epoch", "step_time", "loss", "mem_gb", "hparams", "args"} <= r.keys()
        assert r["args"]["protocol"] == "default" and r["args"]["test_envs"] == [1]
        for env in range(4):
            for split in ("in", "out"):
                assert 0 <= r[f"env{env}_{split}_acc"] <= 1
    state, header = weights.read(tmp_path / "r" / "model.safetensors")
    assert {name.split(".")[0] for name in state} == {"featurizer", "classifier", "network"}
    assert header["provenance"]["datasets_seen"] == ["RotatedDigits"]
    assert header["args"]["dataset"] == "RotatedDigits"


def final_weights(folder: Path) -> str:
    return weights.content_hash(weights.read(folder / "model.safetensors")[0])


def test_weights_do_not_depend_on_workers_or_checkpoints_but_on_the_seed(photos, tmp_path):
    hparams = '{"batch_size": 4, "image_size": 32, "backbone": "resnet18"}'
    common = ("--data_dir", photos, "--dataset", "PACS", "--steps", 3, "--hparams", hparams)
    common = (*common, "--foundation", "random")
    variants = {
        "0": ("--num_workers", 0),
        "1": ("--num_workers", 1),
        "4": ("--num_workers", 4, "--checkpoint_freq", 1),
        "seed": ("--num_workers", 0, "--seed", 1),
    }
    hashes = {}
    for name, more in variants.items():
        assert run(tmp_path / name, *common, *more) == 0
        hashes[name] = final_weights(tmp_path / name)
    assert hashes["0"] == hashes["1"] == hashes["4"] != hashes["seed"]


def test_a_done_run_is_not_run_again_and_another_is_not_overwritten(tmp_path):
    assert run(tmp_path / "r", *SMALL) == 0
    written = (tmp_path / "r" / "results.jsonl").stat().st_mtime_ns
    assert run(tmp_path / "r", *SMALL) == 0
    assert (tmp_path / "r" / "results.jsonl").stat().st_mtime_ns == written
    assert run(tmp_path / "r", *SMALL, "--seed", 5) == 0
    assert records(tmp_path / "r")[0]["args"]["seed"] == 5
    assert records(tmp_path / "r.1")[0]["args"]["seed"] == 0


def test_a_loss_that_is_not_finite_ends_the_run_as_failed(tmp_path, capsys):
    code = run(tmp_path / "r", *SMALL[:2], "--hparams", '{"lr": 1e30}', "--steps", 20)
    assert code == 1
    assert not (tmp_path / "r" / "done").exists()
    assert "at step" in (tmp_path / "r" / "failed").read_text()
    assert "at step" in capsys.readouterr().err


def test_path_init_recycles_weights_and_what_is_trainable_freezes_them(tmp_path):
    assert run(tmp_path / "a", *SMALL) == 0
    again = (*SMALL, "--path_init", tmp_path / "a", "--what_is_trainable", "classifier")
    assert run(tmp_path / "b", *again) == 0
    before, _ = weights.read(tmp_path / "a" / "model_best.safetensors")
    after, header = weights.read(tmp_path / "b" / "model.safetensors")
    changed = {n.split(".")[0] for n in after if not torch.equal(before[n], after[n])}
    assert "classifier" in changed and "featurizer" not in changed
    assert header["provenance"]["initial"][0]["role"] == "path_init"


@pytest.mark.parametrize("augments", [True, False])
def test_a_probe_reads_features_where_images_are_fixed(augments, photos, tmp_path, monkeypatch):
    seen = []
    forward = networks.MNIST_CNN.forward

    def spied(self, x):
        seen.append(len(x))
        return forward(self, x)

    monkeypatch.setattr(networks.MNIST_CNN, "forward", spied)
    hparams = {"backbone": "mnist_cnn", "image_size": 28, "batch_size": 4}
    hparams |= {"data_augmentation": augments}
    words = ("--dataset", "PACS", "--data_dir", photos, "--what_is_trainable", "classifier")
    words = (*words, "--steps", 5, "--checkpoint_freq", 2, "--hparams", json.dumps(hparams))
    n_seen, found = {}, {}
    for memory in (0, 1):
        seen.clear()
        folder = tmp_path / str(memory)
        assert run(folder, *words, "--memory", memory) == 0
        n_seen[memory] = sum(seen)
        state, _ = weights.read(folder / "model.safetensors")
        accs = [{k: v for k, v in r.items() if k.endswith("acc")} for r in records(folder)]
        found[memory] = weights.content_hash(state), accs
    assert found[0] == found[1]
    n_images, n_drawn = len([*(photos / "PACS").rglob("*.png")]), 5 * 3 * 4
    assert n_seen[0] == 3 * n_images + n_drawn
    assert n_seen[1] == n_images + (n_drawn if augments else 0)


def test_domain_adaptation_sees_a_split_of_the_test_domain(tmp_path):
    words = ("--task", "domain_adaptation", "--uda_holdout_fraction", 0.5)
    assert run(tmp_path / "r", *SMALL, *words) == 0
    assert "env0_uda_acc" in records(tmp_path / "r")[0]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--dataset", "RotatedDigit"), "Did you mean 'RotatedDigits'"),
        (("--algorithm", "ERN"), "Did you mean 'ERM'"),
        (("--dataset", "PACS"), "--data_dir"),
        (("--dataset", "PACS", "--data_dir", "/no/such/place"), "/no/such/place"),
        ((*SMALL, "--test_envs", 7), "7"),
        ((*SMALL, "--test_envs", 0, 1, 2, 3), "every domain"),
        (("--dataset", "RotatedDigits", "--hparams", '{"lrr": 1}'), "Did you mean 'lr'"),
        (("--dataset", "RotatedDigits", "--hparams", '{"lr": "1"}'), "expected a number above 0"),
        (("--dataset", "RotatedDigits", "--hparams", '{"batch_size": 512}'), "batch_size=512"),
        ((*SMALL, "--steps", 0), "--steps"),
        ((*SMALL, "--holdout_fraction", 1.5), "--holdout_fraction"),
        ((*SMALL, "--path_init", "/no/such/file"), "/no/such/file"),
        ((*SMALL, "--foundation", "/no/such/file"), "/no/such/file"),
        ((*SMALL, "--algorithm", "DiWA_uniform"), "no members to average"),
        ((*SMALL, "--algorithm", "FineTuning"), "needs 1 finished runs"),
        ((*SMALL, "--plugins", "no_such_plugin"), "no_such_plugin"),
        ((*SMALL, "--task", "domain_adaptation"), "--uda_holdout_fraction"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(words, told, tmp_path, capsys):
    assert run(tmp_path / "r", *words) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1 and error.startswith("error: ")
    assert not (tmp_path / "r" / "results.jsonl").exists()


def test_a_folder_that_cannot_be_written_is_told(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run(tmp_path / "file" / "r", *SMALL) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_foreign_weight_file_is_refused_by_name(tmp_path, capsys):
    torch.save({"featurizer.conv1.weight": torch.zeros(3, 3)}, tmp_path / "foreign.pkl")
    assert run(tmp_path / "r", *SMALL, "--foundation", tmp_path / "foreign.pkl") == 2
    assert "foreign.pkl" in capsys.readouterr().err


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_a_malicious_pickle_is_refused_and_not_run(tmp_path, capsys):
    import pickle

    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Payload(str(tmp_path / "owned"))))
    for option in ("--path_init", "--foundation"):
        assert run(tmp_path / "r", *SMALL, option, tmp_path / "evil.pkl") == 2
        assert "evil.pkl" in capsys.readouterr().err
    assert not (tmp_path / "owned").exists()
