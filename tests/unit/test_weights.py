"""Weight files."""

import pickle

import numpy as np
import pytest
import torch

from domainbed.lib import stored, weights
from domainbed.registry import InputError


def test_a_tensor_of_two_names_is_stored_once_and_read_under_both(tmp_path):
    tensor = torch.randn(100, 100)
    weights.save(tmp_path / "w.safetensors", {"a": tensor, "b": tensor}, {"step": 3})
    assert (tmp_path / "w.safetensors").stat().st_size < 1.5 * tensor.numel() * 4
    state, header = weights.read(tmp_path / "w.safetensors")
    assert torch.equal(state["a"], tensor) and torch.equal(state["b"], tensor)
    assert header == {"step": 3} and stored.read_header(tmp_path / "w.safetensors")["step"] == 3


def test_a_weight_file_may_be_read_by_whom_other_files_may(tmp_path):
    weights.save(tmp_path / "w.safetensors", {"a": torch.zeros(1)}, {})
    (tmp_path / "other").touch()
    modes = [(tmp_path / name).stat().st_mode for name in ("w.safetensors", "other")]
    assert modes[0] == modes[1]


def test_the_content_hash_sees_names_shapes_types_and_every_bit():
    base = {"a": torch.zeros(2, 3), "b": torch.ones(1)}
    variants = [
        {"a": torch.zeros(3, 2), "b": torch.ones(1)},
        {"c": torch.zeros(2, 3), "b": torch.ones(1)},
        {"a": torch.zeros(2, 3).double(), "b": torch.ones(1)},
        {"a": torch.zeros(2, 3), "b": torch.ones(1) * (1 + 2e-7)},
    ]
    hashes = {weights.content_hash(state) for state in [base, *variants]}
    assert len(hashes) == 5
    assert weights.content_hash(dict(reversed(base.items()))) in hashes


def test_a_public_checkpoint_with_numpy_scalars_is_read(tmp_path):
    content = {
        "args": {"seed": 0},
        "model_hparams": {"lr": np.float64(0.1), "n_meta_test": np.int64(2)},
        "model_dict": {"featurizer.w": torch.ones(3)},
    }
    torch.save(content, tmp_path / "model.pkl")
    state, header = weights.read(tmp_path / "model.pkl")
    assert set(state) == {"featurizer.w"} and header == {}


@pytest.mark.parametrize(
    "content", [b"", b"not weights at all", pickle.dumps({"a": print}), b"\x00" * 100]
)
def test_what_holds_no_weights_is_refused_by_name(content, tmp_path):
    (tmp_path / "bad.pkl").write_bytes(content)
    with pytest.raises(InputError, match=r"bad\.pkl"):
        weights.read(tmp_path / "bad.pkl")


def test_a_cut_file_is_refused_wherever_it_is_cut(tmp_path):
    path = tmp_path / "w.safetensors"
    weights.save(path, {"a": torch.randn(20)}, {"step": 1})
    whole = path.read_bytes()
    for percent in range(0, 100, 5):
        path.write_bytes(whole[: len(whole) * percent // 100])
        with pytest.raises(InputError, match=r"w\.safetensors"):
            weights.read(path)


def test_loading_is_strict_and_says_what_does_not_fit():
    module = torch.nn.Linear(2, 3)
    state = dict(module.state_dict())
    weights.load_matching(module, state, "it")
    for wrong, told in (
        ({"weight": state["weight"]}, "1 missing .bias"),
        ({**state, "extra": torch.zeros(1)}, "1 unexpected .extra"),
        ({**state, "bias": torch.zeros(4)}, "1 of other shape .bias"),
    ):
        with pytest.raises(InputError, match=told):
            weights.load_matching(module, wrong, "it")


def test_a_small_pickle_of_a_large_tensor_is_refused(tmp_path):
    torch.save({"w": torch.zeros(1).expand(10**12)}, tmp_path / "w.pt")
    with pytest.raises(InputError, match="'w' is larger than what it holds of it"):
        weights.read(tmp_path / "w.pt")
