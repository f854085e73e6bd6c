"""What outsiders import from lib.misc."""

import io
import sys

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from domainbed.engine.splits import split_keys
from domainbed.lib import misc
from domainbed.lib.console import format_row


def test_splits_are_domainbeds(golden):
    for n, holdout, seed, out, rest in golden["split_first10"]:
        first, second = misc.split_dataset(range(n), int(n * holdout), seed)
        assert (first.keys[:10], second.keys[:10]) == (out, rest)
        assert (first.keys, second.keys) == split_keys(n, int(n * holdout), seed)


def test_a_split_is_a_partition_seen_through_views():
    data = [10 * i for i in range(7)]
    first, rest = misc.split_dataset(data, 3, seed=1)
    assert (len(first), len(rest)) == (3, 4)
    assert first.underlying_dataset is data
    assert first[0] == data[first.keys[0]]
    assert sorted([*first.keys, *rest.keys]) == list(range(7))
    assert misc.split_dataset(data, 3)[0].keys == misc.split_dataset(data, 3, 0)[0].keys
    for n_first in (-1, 8):
        with pytest.raises(ValueError, match="expected 0 to 7"):
            misc.split_dataset(data, n_first)


class Undecodable:
    """Labels can be read, images cannot."""

    targets = (0, 1, 1, 1)

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        raise AssertionError("an image was decoded")


def test_each_class_weighs_the_same_without_a_look_at_the_images():
    weights = misc.make_weights_for_balanced_classes(Undecodable())
    assert weights.dtype == torch.float32
    assert weights.tolist() == pytest.approx([1 / 2, 1 / 6, 1 / 6, 1 / 6])
    view, _ = misc.split_dataset(Undecodable(), 4, seed=3)
    by_class = [Undecodable.targets[key] for key in view.keys]
    expected = [1 / 2 if y == 0 else 1 / 6 for y in by_class]
    assert misc.make_weights_for_balanced_classes(view).tolist() == pytest.approx(expected)


def test_weights_of_tensors_and_of_plain_lists_agree():
    x, y = torch.zeros(5, 2), torch.tensor([2, 0, 2, 2, 0])
    of_tensors = misc.make_weights_for_balanced_classes(TensorDataset(x, y))
    assert of_tensors.tolist() == pytest.approx([1 / 6, 1 / 4, 1 / 6, 1 / 6, 1 / 4])
    assert torch.equal(of_tensors, misc.make_weights_for_balanced_classes(list(zip(x, y))))


def test_accuracy_weighs_samples():
    class Identity(torch.nn.Module):
        def predict(self, x):
            return x

    logits, y = torch.eye(2)[[0, 1, 1]], torch.tensor([0, 1, 0])
    loader = [(logits[:2], y[:2]), (logits[2:], y[2:])]
    assert misc.accuracy(Identity(), loader, None, "cpu") == pytest.approx(2 / 3)
    assert misc.accuracy(Identity(), loader, torch.tensor([1.0, 1.0, 2.0]), "cpu") == 0.5


def test_rows(capsys):
    assert format_row([1 / 3, 7, "abc"], 6) == "0.3333  7       abc   "
    assert format_row([np.float32(0.5), np.float64(0.5), np.int64(5)], 12) == (
        "0.5000000000  0.5000000000  5           "
    )
    misc.print_row(["a_long_cell", 0.25], colwidth=6, latex=True)
    assert capsys.readouterr().out == "a_long & 0.2500 \\\\\n"


def test_tee_copies_and_is_otherwise_its_stream(tmp_path):
    path, stream = tmp_path / "out.txt", io.StringIO()
    tee = misc.Tee(str(path), stream=stream)
    assert tee.write("a\n") == 2
    print("b", file=tee)
    tee.flush()
    assert stream.getvalue() == path.read_text() == "a\nb\n"
    assert tee.isatty() is False
    tee.file.close()
    again = misc.Tee(str(path), "a", sys.__stdout__)
    assert again.fileno() == sys.__stdout__.fileno()
    assert path.read_text() == "a\nb\n"  # appended to, not emptied
    again.file.close()


def test_unknown_names_are_not_found():
    with pytest.raises(AttributeError, match="nothing_of_this_name"):
        misc.nothing_of_this_name  # noqa: B018
