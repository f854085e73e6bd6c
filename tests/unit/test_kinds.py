"""Files that are not what their names say are told by what they are, with what to do."""

import gzip
import io
import json
import shlex
import tarfile
import zipfile

import pytest
import torch
from ingredients import DIGITS, letters, refusal

from domainbed.lib import stored, weights
from domainbed.registry import InputError
from domainbed.scripts import keep_tensors
from ratatouille_algorithms.scripts import average

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123\n"
INDEX = {"metadata": {"total_size": 1}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}


def a_tar(name):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    return stream.getvalue()


def a_zip(name):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(name, "x")
    return stream.getvalue()


FILES = {
    "lfs": (LFS, "Git LFS pointer.*run git lfs pull"),
    "index": (json.dumps(INDEX, indent=1).encode(), "index of shards.*model-00001-of-00002"),
    "index_of_one_line": (json.dumps(INDEX).encode(), "index of shards"),
    "large_index": (
        json.dumps({"metadata": {"x": "y" * 5000}, "weight_map": INDEX["weight_map"]}).encode(),
        "index of shards",
    ),
    "json": (b'{"architectures": ["ViT"]}', "is JSON"),
    "empty": (b"", "is empty"),
    "html": (b"\n<!DOCTYPE html>\n<html><body>404</body></html>", "page of HTML"),
    "xml": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "HTML or XML"),
    "gzip": (gzip.compress(b"x" * 50), "gzip archive; unpack"),
    "tar": (a_tar("weights/model.pth"), "tar archive; unpack"),
    "oldest_torch": (a_tar("sys_info"), "torch wrote it before 2018"),
    "seven_zip": (b"7z\xbc\xaf\x27\x1c" + bytes(40), "7z archive"),
    "xz": (b"\xfd7zXZ\x00" + bytes(40), "xz archive"),
    "zip": (a_zip("model/weights.pth"), "zip archive without torch's data.pkl"),
    "empty_zip": (b"PK\x05\x06" + bytes(18), "empty zip"),
    "keras": (b"\x89HDF\r\n\x1a\n" + bytes(40), "HDF5"),
    "gguf": (b"GGUF" + bytes(40), "GGUF"),
    "onnx": (b"\x08\x08\x12\x07pytorch\x1a\x051.0.0", "ONNX"),
    "numpy": (b"\x93NUMPY\x01\x00", "numpy"),
    "text": (b"these are no weights", "neither safetensors nor a pickle"),
    "zeros": (bytes(100), "neither safetensors nor a pickle"),
}


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin"])
@pytest.mark.parametrize("name", FILES)
def test_a_file_is_told_by_its_first_bytes(tmp_path, name, suffix):
    content, told = FILES[name]
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    for read in (weights.read, stored.tensors, stored.read_header):
        with pytest.raises(InputError, match=told) as error:
            read(path)
        assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_a_folder_is_told(tmp_path):
    for read in (weights.read, stored.tensors):
        with pytest.raises(InputError, match="folder"):
            read(tmp_path)


def test_safetensors_are_read_whatever_their_name(tmp_path):
    weights.save(tmp_path / "w.safetensors", letters(), {})
    for suffix in (".pth", ".bin", ""):
        (tmp_path / "w.safetensors").rename(tmp_path / f"w{suffix}")
        assert weights.read(tmp_path / f"w{suffix}")[0].keys() == letters().keys()
        (tmp_path / f"w{suffix}").rename(tmp_path / "w.safetensors")


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_pickle_where_safetensors_are_needed_comes_with_a_command_that_converts_it(
    tmp_path, capsys, name, is_zip
):
    torch.save(letters(), tmp_path / name, _use_new_zipfile_serialization=is_zip)
    weights.save(tmp_path / "two.safetensors", letters(3), {})
    mean, two = str(tmp_path / "mean.safetensors"), str(tmp_path / "two.safetensors")
    assert average.main([str(tmp_path / name), two, "--output", mean]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "it is a pickle" in line
    words = shlex.split(line.partition("python -m domainbed.scripts.keep_tensors ")[2])
    assert keep_tensors.main(words) == 0
    assert average.main([words[-1], two, "--output", mean]) == 0
    read = weights.read(mean)[0]
    assert all(torch.allclose(read[n], t, rtol=1e-6) for n, t in letters(2).items())


def test_torchscript_is_told(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py", "version"):
            archive.writestr(f"w/{name}", "x")
    with pytest.raises(InputError, match=r"TorchScript.*state_dict"):
        weights.read(tmp_path / "w.pt")


def test_a_pickled_network_says_what_to_save(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"torch.nn.modules.linear.Linear.*save net.state_dict"):
        weights.read(tmp_path / "w.pt")


def test_a_pool_tells_them_as_well(tmp_path, capsys):
    (tmp_path / "w.safetensors").write_bytes(LFS)
    add = ["--pool", tmp_path / "p", "--name", "x", *DIGITS]
    assert "git lfs pull" in refusal(capsys, "add", tmp_path / "w.safetensors", *add)
