"""Averages of weights against their definitions."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from domainbed.lib import weights as files
from domainbed.registry import InputError
from domainbed.runs import BEST
from ratatouille_algorithms import means, weights
from ratatouille_algorithms.scripts import average


def write(path, tensors, foundation="f", head="h", **header):
    origin = {"foundation": {"name": "x", "sha256": foundation}, "head": head}
    files.save(path, tensors, {"provenance": origin, **header})
    return path


def members(tmp_path, n=5):
    generator = torch.Generator().manual_seed(0)
    paths = []
    for i in range(n):
        state = {
            "w": torch.randn(40, 30, generator=generator),
            "b": torch.randn(7, generator=generator) * 1e4,
            "count": torch.tensor(3),
        }
        paths.append(write(tmp_path / f"{i}.safetensors", state))
    return paths


def averaged(paths):
    into = {"w": torch.empty(40, 30), "b": torch.empty(7), "count": torch.tensor(0)}
    weights.uniform(paths, into)
    return into


def test_uniform_is_the_float64_mean_within_float32_rounding(tmp_path, monkeypatch):
    paths = members(tmp_path)
    expected = {
        name: np.mean([files.read(p)[0][name].double().numpy() for p in paths], axis=0)
        for name in ("w", "b")
    }
    for chunk in (means.CHUNK, 1):
        monkeypatch.setattr(means, "CHUNK", chunk)
        result = averaged(paths)
        for name, mean in expected.items():
            assert np.array_equal(result[name].numpy(), mean.astype(np.float32))
        assert result["count"] == 3


def test_the_mean_of_one_member_is_itself_and_order_matters_to_rounding_only(tmp_path):
    paths = members(tmp_path)
    assert torch.equal(averaged(paths[:1])["w"], files.read(paths[0])[0]["w"])
    torch.testing.assert_close(averaged(paths), averaged(paths[::-1]))


@pytest.mark.parametrize(
    ("tensors", "origin", "told"),
    [
        ({"w": torch.zeros(2, 3)}, {}, "missing"),
        ({"w": torch.zeros(2, 3), "v": torch.zeros(1)}, {}, "'b'|'v'"),
        ({"w": torch.zeros(3, 2), "b": torch.zeros(1)}, {}, r"'w'.*\[3, 2\].*\[2, 3\]"),
        ({"w": torch.zeros(2, 3).double(), "b": torch.zeros(1)}, {}, "'w'.*F64.*F32"),
        ({"w": torch.zeros(2, 3), "b": torch.zeros(1)}, {"foundation": "g"}, "foundation"),
        ({"w": torch.zeros(2, 3), "b": torch.zeros(1)}, {"head": "k"}, "head"),
    ],
)
def test_members_that_disagree_are_refused_by_name(tensors, origin, told, tmp_path):
    good = {"w": torch.zeros(2, 3), "b": torch.zeros(1)}
    paths = [write(tmp_path / f"good{i}.safetensors", good) for i in range(2)]
    paths.append(write(tmp_path / "odd.safetensors", tensors, **origin))
    with pytest.raises(InputError, match=told) as error:
        means.check_members(paths)
    assert "odd.safetensors" in str(error.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_refused_by_file_and_tensor(value, tmp_path):
    paths = members(tmp_path, 3)
    state, _ = files.read(paths[1])
    state["b"][3] = value
    write(paths[1], state)
    with pytest.raises(InputError, match=r"1\.safetensors.*'b'"):
        averaged(paths)


def test_integer_buffers_must_agree(tmp_path):
    paths = members(tmp_path, 2)
    state, _ = files.read(paths[1])
    write(paths[1], {**state, "count": torch.tensor(4)})
    with pytest.raises(InputError, match="integers of 'count'"):
        averaged(paths)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_dtype_beside_numbers_of_odd_sizes_is_read_as_written(dtype, tmp_path, monkeypatch):
    state = {
        "a": torch.tensor([True, False, True]),
        "b.num_batches_tracked": torch.tensor(5),
        "c": torch.randn(3, 5, 2).to(dtype),
        "d": torch.randn(7).to(dtype),
        "e": torch.tensor(1.5, dtype=dtype),
        "f": torch.empty(0, 4, dtype=dtype),
        "g.num_batches_tracked": torch.tensor(6),
    }
    for i in range(2):
        write(tmp_path / f"{i}.safetensors", state, note="x" * i)  # headers of other lengths
    for chunk in (means.CHUNK, 8, 1):
        monkeypatch.setattr(means, "CHUNK", chunk)
        into = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
        weights.uniform(sorted(tmp_path.iterdir()), into)
        assert all(torch.equal(into[name], tensor) for name, tensor in state.items())


def test_a_mean_written_piece_by_piece_is_the_file_of_the_mean_in_memory(tmp_path, monkeypatch):
    folder = tmp_path / "members"
    folder.mkdir()
    shared = torch.nn.Linear(5, 3)
    module = torch.nn.ModuleDict({"a": shared, "b": torch.nn.Sequential(shared)})
    for i in range(3):
        torch.nn.init.normal_(shared.weight)
        torch.nn.init.normal_(shared.bias)
        more = {
            "half": torch.randn(7, 2).bfloat16(),
            "bn.num_batches_tracked": torch.tensor(i),
            "é": torch.empty(0),
        }
        write(folder / f"{i}.safetensors", {**files.tensors(module), **more}, note="x" * i)
    paths = sorted(folder.iterdir())
    header = {"provenance": {"of": "ü"}, "id_acc": 0.5}
    state = files.read(paths[0])[0]
    weights.uniform(paths, state)
    files.save(tmp_path / "whole.safetensors", state, header)
    assert state["bn.num_batches_tracked"] == 2 and state["b.0.bias"] is state["a.bias"]
    for chunk in (means.CHUNK, 1):
        monkeypatch.setattr(means, "CHUNK", chunk)
        means.write_uniform(paths, tmp_path / "pieces.safetensors", header)
        pieces = (tmp_path / "pieces.safetensors").read_bytes()
        assert pieces == (tmp_path / "whole.safetensors").read_bytes()


def test_a_mean_that_fails_on_the_way_leaves_no_file(tmp_path):
    paths = members(tmp_path, 2)
    state, _ = files.read(paths[1])
    write(paths[1], {**state, "w": torch.full((40, 30), torch.nan)})
    with pytest.raises(InputError, match="not finite"):
        means.write_uniform(paths, tmp_path / "mean.safetensors", {})
    assert sorted(tmp_path.iterdir()) == paths


def test_files_of_other_shapes_and_one_that_was_cut_are_refused(tmp_path, monkeypatch):
    paths = members(tmp_path, 2)
    into = {"w": torch.empty(40, 30), "b": torch.empty(7), "count": torch.tensor(0)}
    odd = write(tmp_path / "odd.safetensors", {**into, "w": torch.zeros(30, 40)})
    with pytest.raises(InputError, match=r"odd\.safetensors.*'w'"):
        weights.uniform([*paths, odd], into)
    layouts = means._layouts(paths)
    monkeypatch.setattr(means, "_layouts", lambda paths: layouts)  # it is cut after the check
    with open(paths[1], "r+b") as file:
        file.truncate(paths[1].stat().st_size - 100)
    with pytest.raises(InputError, match=r"1\.safetensors ends within"):
        weights.uniform(paths, into)


def test_a_dtype_that_cannot_be_averaged_is_refused_by_name(tmp_path):
    odd = write(tmp_path / "w.safetensors", {"w": torch.zeros(3, dtype=torch.float8_e5m2)})
    with pytest.raises(InputError, match=r"F8_E5M2 in 'w'.*BF16"):
        means.check_members([odd])


def test_means_round_bfloat16_as_torch_does(tmp_path):
    states = [torch.randn(2000, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    for scale in (1e-40, 1.0, 1e38):  # numbers that are subnormal, and some that are not finite
        for i, state in enumerate(states):
            numbers = (state.clamp(-3, 3) * scale).bfloat16()
            write(tmp_path / f"{i}.safetensors", {"w": numbers})
        paths = [tmp_path / f"{i}.safetensors" for i in range(3)]
        means.write_uniform(paths, tmp_path / "mean", {})
        exact = torch.stack([files.read(path)[0]["w"].double() for path in paths]).mean(0)
        assert torch.equal(files.read(tmp_path / "mean")[0]["w"], exact.bfloat16())
        (tmp_path / "mean").unlink()


def test_files_and_runs_are_averaged_by_command_without_torch(tmp_path, auxiliary, capsys):
    ours = tmp_path / "run"
    shutil.copytree(auxiliary, ours)
    state, header = files.read(ours / BEST)
    other = tmp_path / "other.safetensors"
    moved = {tensor.data_ptr(): tensor + 1 for tensor in state.values()}  # under all its names
    files.save(other, {name: moved[tensor.data_ptr()] for name, tensor in state.items()}, header)
    command = [sys.executable, "-X", "importtime", "-m", "ratatouille_algorithms.scripts.average"]
    command += [str(ours), str(other), "--output", str(tmp_path / "mean.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "the mean of 2 members" in done.stdout and " numpy\n" in done.stderr
    assert " torch\n" not in done.stderr
    mean, said = files.read(tmp_path / "mean.safetensors")
    assert mean.keys() == state.keys()
    torch.testing.assert_close(mean, {name: tensor + 0.5 for name, tensor in state.items()})
    origin, members = header["provenance"], said["provenance"].pop("members")
    assert said["provenance"] == {k: origin[k] for k in ("foundation", "head", "datasets_seen")}
    assert [one["run"] for one in members] == [str(ours), str(other)]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--output", "{}/0.safetensors"], "is there already"),
        (["--output", "{}/none/mean.safetensors"], "no folder"),
        (["{}", "--output", "{}/mean.safetensors"], "no finished run"),
        (["{}/none.safetensors", "--output", "{}/mean.safetensors"], "cannot be read"),
        (["{}/odd.safetensors", "--output", "{}/mean.safetensors"], "another head"),
    ],
)
def test_what_the_command_cannot_average_is_told_in_a_line(more, told, tmp_path, capsys):
    paths = members(tmp_path, 2)
    write(tmp_path / "odd.safetensors", files.read(paths[0])[0], head="k")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert average.main([*map(str, paths), *(word.format(tmp_path) for word in more)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_mean_of_unknown_pasts_has_an_unknown_past():
    known, unknown = {"provenance": {"datasets_seen": ["A", "B"]}}, {}
    assert means.common_origin([known])["datasets_seen"] == ["A", "B"]
    for headers in ([unknown], [known, unknown], [unknown, known]):
        assert means.common_origin(headers)["datasets_seen"] is None


def test_no_members_is_told():
    with pytest.raises(InputError, match="no members"):
        means.check_members([])


def test_places_find_a_tensor_under_its_other_name_and_miss_none(tmp_path):
    shared = torch.nn.Linear(2, 2)
    module = torch.nn.ModuleDict({"a": shared, "b": torch.nn.Sequential(shared)})
    path = tmp_path / "w.safetensors"
    files.save(path, files.tensors(module), {})
    places = weights.places(module, path)
    assert set(places) == {"a.weight", "a.bias"}
    files.save(path, {"a.weight": torch.zeros(2, 2)}, {})
    with pytest.raises(InputError, match="missing"):
        weights.places(module, path)
    files.save(path, {**files.tensors(module), "head": torch.zeros(1)}, {})
    with pytest.raises(InputError, match="left over"):
        weights.places(module, path)
    files.save(path, {**files.tensors(module), "a.bias": torch.zeros(3)}, {})
    with pytest.raises(InputError, match=r"other shape a.bias of \[3\] for \[2\]"):
        weights.places(module, path)
