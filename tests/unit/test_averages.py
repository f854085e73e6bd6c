"""Averages of weights against their definitions."""

import numpy as np
import pytest
import torch

from domainbed.lib import weights as files
from domainbed.registry import InputError
from ratatouille_algorithms import weights


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
    for chunk in (weights.CHUNK, 1):
        monkeypatch.setattr(weights, "CHUNK", chunk)
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
        weights.check_members(paths)
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
    }
    for i in range(2):
        write(tmp_path / f"{i}.safetensors", state, note="x" * i)  # headers of other lengths
    for chunk in (weights.CHUNK, 8, 1):
        monkeypatch.setattr(weights, "CHUNK", chunk)
        into = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
        weights.uniform(sorted(tmp_path.iterdir()), into)
        assert all(torch.equal(into[name], tensor) for name, tensor in state.items())


def test_files_of_other_shapes_and_one_that_was_cut_are_refused(tmp_path, monkeypatch):
    paths = members(tmp_path, 2)
    into = {"w": torch.empty(40, 30), "b": torch.empty(7), "count": torch.tensor(0)}
    odd = write(tmp_path / "odd.safetensors", {**into, "w": torch.zeros(30, 40)})
    with pytest.raises(InputError, match=r"odd\.safetensors.*'w'"):
        weights.uniform([*paths, odd], into)
    monkeypatch.setattr(weights, "check_layouts", lambda paths: [])  # it is cut after the check
    with open(paths[1], "r+b") as file:
        file.truncate(paths[1].stat().st_size - 100)
    with pytest.raises(InputError, match=r"1\.safetensors ends within"):
        weights.uniform(paths, into)


def test_no_members_is_told():
    with pytest.raises(InputError, match="no members"):
        weights.check_members([])


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
