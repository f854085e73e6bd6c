"""--keep: weights go when nothing needs them any more, results stay."""

import pytest

from domainbed.runs import RunFolder
from domainbed.scripts import collect_results, sweep

pytestmark = pytest.mark.usefixtures("tiny_datasets", "in_process")


def launch(folder, keep, *algorithms):
    words = ["launch", "--datasets", "TinyStripes", "--aux_datasets", "TinyColumns"]
    words += ["--aux_hparams", "1", "--n_hparams", "2", "--n_trials", "1", "--single_test_envs"]
    words += ["--steps", "3", "--hparams", '{"batch_size": 2}', "--foundation", "letters"]
    words += ["--skip_confirmation", "--command_launcher", "in_process", "--keep", keep]
    return sweep.main([*words, "--output_dir", str(folder), "--algorithms", *algorithms])


def weights(folder):
    """(algorithm, has a test domain, is a probe) -> names of files kept by its runs."""
    found = {}
    for path in folder.rglob("run.json"):
        args = RunFolder(path.parent).description()["args"]
        is_probe = args.get("what_is_trainable") == "classifier"
        key = args["algorithm"], args["test_envs"] != [-1], is_probe
        names = tuple(sorted(p.name.removesuffix(".safetensors") for p in path.parent.glob("*.s*")))
        found.setdefault(key, set()).add(names)
    return found


BOTH = ("model", "model_best")


def test_what_is_kept(tmp_path, capsys):
    root, asked = tmp_path / "runs", ("ERM", "Ratatouille_uniform", "SWAD")
    erm, inter, fine = ((name, True, False) for name in ("ERM", "InterTraining", "FineTuning"))
    assert launch(root, "all", *asked) == 0
    assert weights(root)[erm] == {BOTH} and weights(root)[fine] == {(*BOTH, "model_swad")}
    capsys.readouterr()
    assert collect_results.main(["--input_dir", str(root)]) == 0
    shown = capsys.readouterr().out
    for keep, of_erm, of_members in (
        ("best", ("model_best",), ("model_best",)),
        ("members", (), ("model_best",)),
        ("none", (), ()),
    ):
        assert launch(root, keep, *asked) == 0
        found = weights(root)
        assert found[erm] == {of_erm} and found[inter] == {of_members}
        assert found[fine] == {of_members}
        assert found["SWAD", True, False] == ({("model",)} if keep != "none" else {()})
        assert found["FineTuning", False, False] == ({BOTH} if keep != "none" else {()})
        assert "freed" in capsys.readouterr().out
        assert sweep.main(["verify", "--output_dir", str(root)]) == 0
        capsys.readouterr()
    collect_results.main(["--input_dir", str(root)])
    assert capsys.readouterr().out == shown


def test_weights_go_as_soon_as_nothing_needs_them(tmp_path):
    assert launch(tmp_path, "none", "DiWA_uniform") == 0
    assert not list(tmp_path.rglob("*.safetensors"))
    done = [path.parent for path in tmp_path.rglob("done")]
    assert len(done) == 3 + 6 + 3 and all(RunFolder(path).is_done for path in done)
