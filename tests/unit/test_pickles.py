"""Pickles: whatever wrote them is read, and whatever they say takes no memory and runs nothing."""

import argparse
import collections
import io
import pathlib
import pickle
import subprocess
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch

from domainbed.lib import opcodes, weights
from domainbed.lib.console import escape
from domainbed.registry import InputError
from domainbed.scripts import keep_tensors

SCALARS = [
    *(np.dtype(code).type(1) for code in "?bBhHiIlLqQefdgFD"),
    np.str_("héllo"), np.str_(""), np.bytes_(b"x"), np.datetime64("2020-01-01"),
    np.timedelta64(3, "s"),
]  # fmt: skip
ARRAYS = [np.arange(6).reshape(2, 3), np.array(["a", "bcd"]), np.zeros((0, 3)), np.array(1.5)]
BESIDE = {
    "args": argparse.Namespace(lr=0.1, path=pathlib.PurePosixPath("a/b"), tags={"x", "y"}),
    "where": pathlib.Path("c"),
    "seen": collections.defaultdict(list, {"a": [1, 2]}),
    "counts": collections.Counter("aab"),
    "kinds": [torch.float32, torch.device("cpu"), torch.Size([2, 3]), 1j, frozenset({1})],
    "numbers": [None, True, -1, 2**80, 0.5, b"", b"bytes", "text", (1, (2,))],
    "lr": SCALARS,
    "history": ARRAYS,
}
PROTOCOLS = range(2, pickle.HIGHEST_PROTOCOL + 1)


class Odd:
    """A class that no state dict needs."""


def a_state():
    shared = torch.randn(4, 3)
    return {
        "a.weight": shared,
        "a.alias": shared,
        "transposed": shared.t(),
        "part": torch.arange(20).reshape(4, 5)[1:3, ::2],
        "half": torch.randn(3).half(),
        "brain": torch.randn(3).bfloat16(),
        "counter": torch.tensor(7),
        "mask": torch.tensor([True, False]),
        "complex": torch.randn(2, dtype=torch.complex64),
        "empty": torch.zeros(0, 3),
        "eighth": torch.randn(3).to(torch.float8_e4m3fn),
        "parameter": torch.nn.Parameter(torch.randn(2)),
    }


def same(one, other):
    """Whether tensors are equal to the bit, in names, order, dtypes and shapes."""
    return list(one) == list(other) and weights.content_hash(one) == weights.content_hash(other)


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "old"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_torch_writes_is_read_to_the_bit_in_any_format(tmp_path, protocol, is_zip):
    state = a_state()
    content = {"epoch": 3, "state_dict": collections.OrderedDict(state), **BESIDE}
    how = {"pickle_protocol": protocol, "_use_new_zipfile_serialization": is_zip}
    torch.save(content, tmp_path / "w.pt", **how)
    read, header = weights.read(tmp_path / "w.pt")
    assert same(read, state) and header == {}
    assert read["a.weight"].data_ptr() == read["a.alias"].data_ptr()
    assert read["a.weight"].data_ptr() == read["transposed"].data_ptr()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "value", [*SCALARS, *ARRAYS], ids=lambda v: f"{type(v).__name__}-{v.dtype}"
)
def test_numpy_is_read_under_the_names_of_both_its_generations(tmp_path, value, protocol):
    torch.save({"model_dict": a_state(), "x": [value]}, tmp_path / "w", pickle_protocol=protocol)
    with zipfile.ZipFile(tmp_path / "w") as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("data.pkl")]
        content = archive.read(name)
    made = {renamed(content, *names) for names in (GENERATIONS, GENERATIONS[::-1])}
    assert len(made) == 2 and content in made
    for one in made:
        replace_pickle(tmp_path / "w", tmp_path / "v", one)
        assert set(weights.read(tmp_path / "v")[0]) == set(a_state())


GENERATIONS = [b"numpy.core.", b"numpy._core."]


def renamed(content, old, new):
    """A pickle that has one name for another, and its length where a pickle says it."""
    for module in (b"multiarray", b"numeric"):
        before, after = (bytes([len(name + module)]) + name + module for name in (old, new))
        content = content.replace(b"\x8c" + before, b"\x8c" + after)
    return content.replace(b"c" + old, b"c" + new)


def test_a_class_that_is_in_the_way_is_named_and_the_tensors_can_be_kept(tmp_path, capsys):
    path, new = tmp_path / "a file.pth", tmp_path / "new.safetensors"
    state = a_state()
    torch.save({"net": state, "odd": Odd()}, path)
    with pytest.raises(InputError) as told:
        weights.read(path)
    said = str(told.value)
    assert f"{Odd.__module__}.Odd" in said and "keep_tensors" in said and f"'{path}'" in said
    assert "\n" not in said and "\x1b" not in said and "weights_only" not in said
    assert keep_tensors.main([str(path), "--output", str(new)]) == 0
    assert "Odd" in capsys.readouterr().out
    assert weights.content_hash(weights.read(new)[0]) == weights.content_hash(state)
    assert keep_tensors.main([str(path), "--output", str(new)]) == 2


def test_one_of_several_dictionaries_can_be_kept(tmp_path):
    student, teacher = a_state(), a_state()
    content = {"student": {"module": student}, "teacher": teacher}
    torch.save(content, tmp_path / "w.pth")
    for i, (only, kept) in enumerate([("student.module", student), ("teacher", teacher)]):
        new = tmp_path / f"{i}.safetensors"
        assert (
            keep_tensors.main([str(tmp_path / "w.pth"), "--output", str(new), "--only", only]) == 0
        )
        read = weights.read(new)[0]
        assert weights.content_hash(read) == weights.content_hash(kept)
    none = ["--output", str(tmp_path / "n.safetensors"), "--only", "nobody"]
    assert keep_tensors.main([str(tmp_path / "w.pth"), *none]) == 2


def small(opcodes):
    """A pickle of a dictionary with one odd entry, of the opcodes that make it."""
    return b"\x80\x02}X\x01\x00\x00\x00a" + opcodes + b"s."


def called(module, name, *args):
    """Opcodes that call something."""
    return f"c{module}\n{name}\n".encode() + b"(" + b"".join(args) + b"tR"


def text(value):
    encoded = value.encode()
    return b"X" + len(encoded).to_bytes(4, "little") + encoded


def number(n):
    encoded = n.to_bytes(n.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(encoded)]) + encoded


def dtype(code):
    return called("numpy", "dtype", text(code), b"\x89", b"\x88")


def repeated(made, opcodes, n=3000):
    """Opcodes that make something once, and a list of n things from it."""
    return made + b"q\x010](" + opcodes * n + b"e"


LARGE = text("x" * 500_000)
BOMBS = {
    "encoded_again_and_again": repeated(
        LARGE, b"c_codecs\nencode\n" + b"h\x01" + text("latin1") + b"\x86R"
    ),
    "pairs_again_and_again": repeated(
        b"](" + (text("a") + b"N\x86") * 2000 + b"e", b"ccollections\nOrderedDict\nh\x01\x85R"
    ),
    "named_again_and_again": repeated(LARGE, b"h\x01h\x01\x93"),
    "long_name": repeated(LARGE, b"}h\x01Ns"),
    "bytearray": called("__builtin__", "bytearray", number(2**31)),
    "bytes": called("builtins", "bytes", number(2**33)),
    "list_of_range": called("builtins", "list", called("builtins", "range", number(2**40))),
    "text_times": called("operator", "mul", text("x"), number(2**33)),
    "void": called("numpy.core.multiarray", "scalar", dtype("V2000000000")),
    "text": called("numpy._core.multiarray", "scalar", dtype("U500000000"), text("x")),
    "long": called("numpy.core.multiarray", "scalar", dtype("f8"), text("x" * 9)),
    "object": called("numpy.core.multiarray", "scalar", dtype("O8"), text("x" * 8)),
    "no_bytes": called("numpy._core.multiarray", "scalar", dtype("S1000000000")),
    "zeros": called("numpy", "zeros", number(2**31)),
    "frombuffer": called(
        "numpy.core.numeric", "_frombuffer", text("x" * 8), dtype("f8"),
        b"(" + number(2**31) + b"t", text("C"),
    ),
    "punycode": called("_codecs", "encode", text("ü" * 60_000), text("punycode")),
    "idna": called("_codecs", "encode", text("x" * 60_000), text("idna")),
    "decode": called("_codecs", "decode", text("x"), text("zip")),
    "evaluation": called("builtins", "eval", text("1")),
    "getattr": called("builtins", "getattr", text("x"), text("upper")),
    "attribute": called("torch", "os.system", text("true")),
    "storage": called("torch", "FloatStorage", number(2**31)),
    "tensor": called("torch", "Tensor", number(2**31)),
    "random": called("torch", "randn", number(2**31)),
    "sparse": called("torch._utils", "_rebuild_sparse_tensor", b"N", b"N"),
    "quantised": called("torch._utils", "_rebuild_qtensor", b"N"),
    "meta": called("torch._utils", "_rebuild_meta_tensor_no_storage", b"N"),
    "nested_load": called("torch.storage", "_load_from_bytes", text("x")),
    "no_storage": called("torch._utils", "_rebuild_tensor_v2", b"N", b"K\x00))\x89N"),
    "extension": b"\x82\x01",
    "many": b"(" + b"}" * 10_000 + b"l",
    "no_memo": b"h\x07",
    "no_mark": b"t",
    "key_of_tuples": b"}" + b")" + b"2\x86" * 200 + b"Ns",
}  # fmt: skip


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "raw"])
@pytest.mark.parametrize("name", BOMBS)
def test_what_a_pickle_claims_takes_no_memory(tmp_path, name, is_zip, monkeypatch):
    monkeypatch.setattr(opcodes, "MAX_OPCODES", 9_000)
    path, content = tmp_path / "b.pt", small(BOMBS[name])
    if is_zip:
        torch.save({"a": torch.zeros(1)}, tmp_path / "plain")
        replace_pickle(tmp_path / "plain", path, content)
    else:
        path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"b\.pt") as told:
            weights.read(path)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 4 * 2**20 + 100 * len(content) and "\n" not in str(told.value)


def replace_pickle(source, path, content):
    """Write a copy of what torch.save wrote, with another pickle."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, content if name.endswith("data.pkl") else old.read(name))


def test_memory_of_the_process_is_bounded_as_well(tmp_path):
    bomb = b"".join(text(f"k{i}") + BOMBS["bytearray"] for i in range(50))
    (tmp_path / "b.pt").write_bytes(b"\x80\x02}(" + bomb + b"u.")
    code = (
        "import resource, sys\nfrom domainbed.lib import weights\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    weights.read(sys.argv[1])\nexcept ValueError as error:\n    print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "b.pt")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    unit = 1 if sys.platform == "darwin" else 1024
    assert "builtins.bytearray" in said[0] and int(said[1]) * unit < 64 * 2**20


def altered(tmp_path, change):
    """A file whose pickle says something else of its one tensor."""
    torch.save({"w": torch.zeros(6).reshape(2, 3)}, tmp_path / "plain.pt", pickle_protocol=2)
    with zipfile.ZipFile(tmp_path / "plain.pt") as archive:
        (name,) = [n for n in archive.namelist() if n.endswith("data.pkl")]
        content = archive.read(name)
    made = change(content)
    assert made != content
    replace_pickle(tmp_path / "plain.pt", tmp_path / "w.pt", made)
    return tmp_path / "w.pt"


HUGE = b"\x8a\x09" + (2**62).to_bytes(9, "little")
TENSORS = {
    "longer": lambda c: c.replace(b"K\x02K\x03\x86", b"K\x02K\x04\x86"),
    "elsewhere": lambda c: c.replace(b"QK\x00", b"QK\x01"),
    "far": lambda c: c.replace(b"QK\x00", b"Q" + HUGE),
    "negative_offset": lambda c: c.replace(b"QK\x00", b"QJ\xff\xff\xff\xff"),
    "overflowing": lambda c: c.replace(b"K\x02K\x03\x86", HUGE + HUGE + b"\x86"),
    "negative_shape": lambda c: c.replace(b"K\x02K\x03\x86", b"J\xff\xff\xff\xffK\x03\x86"),
    "no_shape": lambda c: c.replace(b"K\x02K\x03\x86", b"X\x01\x00\x00\x00xK\x03\x86"),
    "large_stride": lambda c: c.replace(b"K\x03K\x01\x86", HUGE + b"K\x01\x86"),
    "other_rank": lambda c: c.replace(b"K\x03K\x01\x86", b"K\x03\x85"),
    "larger_storage": lambda c: c.replace(b"cpuq\x06K\x06", b"cpuq\x06K\x07"),
    "other_dtype": lambda c: c.replace(b"FloatStorage", b"DoubleStorage"),
    "unknown_storage": lambda c: c.replace(b"FloatStorage", b"QInt8Storage"),
    "other_member": lambda c: c.replace(b"X\x01\x00\x00\x000", b"X\x01\x00\x00\x001"),
    "climbing_member": lambda c: c.replace(b"X\x01\x00\x00\x000", b"X\x02\x00\x00\x00.."),
}


@pytest.mark.parametrize("name", TENSORS)
def test_a_tensor_that_is_not_all_in_its_file_is_refused(tmp_path, name):
    with pytest.raises(InputError, match=r"w\.pt"):
        weights.read(altered(tmp_path, TENSORS[name]))


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_file_is_refused_wherever_it_is_cut(tmp_path, is_zip):
    torch.save(a_state(), tmp_path / "w.pt", _use_new_zipfile_serialization=is_zip)
    whole = (tmp_path / "w.pt").read_bytes()
    for percent in range(0, 100, 5):
        (tmp_path / "w.pt").write_bytes(whole[: len(whole) * percent // 100])
        with pytest.raises(InputError, match=r"w\.pt"):
            weights.read(tmp_path / "w.pt")


def test_a_flipped_bit_in_the_numbers_is_found(tmp_path):
    torch.save({"w": torch.ones(1000)}, tmp_path / "w.pt")
    content = bytearray((tmp_path / "w.pt").read_bytes())
    content[content.index(torch.ones(10).numpy().tobytes()) + 5] ^= 1
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(InputError, match=r"w\.pt is damaged"):
        weights.read(tmp_path / "w.pt")


def test_any_bytes_are_read_or_refused_in_one_line(tmp_path):
    generator = np.random.default_rng(0)
    for is_zip in (True, False):
        stream = io.BytesIO()
        torch.save(
            {"state_dict": a_state(), **BESIDE}, stream, _use_new_zipfile_serialization=is_zip
        )
        whole = np.frombuffer(stream.getvalue(), np.uint8)
        for _ in range(150):
            made = whole.copy()
            at = generator.integers(0, len(made), generator.integers(1, 12))
            made[at] = generator.integers(0, 256, len(at))
            (tmp_path / "w.pt").write_bytes(made.tobytes())
            try:
                weights.read(tmp_path / "w.pt")
            except InputError as error:
                assert escape(str(error)) == str(error)


def test_two_members_of_one_name_are_refused(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "plain")
    with (
        zipfile.ZipFile(tmp_path / "plain") as old,
        zipfile.ZipFile(tmp_path / "w.pt", "w") as new,
        pytest.warns(UserWarning),
    ):
        for name in [*old.namelist(), old.namelist()[-1]]:
            new.writestr(name, old.read(name))
    with pytest.raises(InputError, match="two members of one name"):
        weights.read(tmp_path / "w.pt")


def test_many_views_of_one_storage_cannot_multiply_it(tmp_path):
    numbers = torch.zeros(1000)
    torch.save({f"w{i}": numbers[i : i + 900] for i in range(100)}, tmp_path / "w.pt")
    with pytest.raises(InputError, match="larger than what it holds"):
        weights.read(tmp_path / "w.pt")


def test_names_of_a_file_are_printed_without_control_characters(tmp_path):
    torch.save({"\x1b]52;c;x\x07\u202e": [1], "w": torch.zeros(1)}, tmp_path / "w.pt")
    with pytest.raises(InputError) as told:
        weights.read(tmp_path / "w.pt")
    assert escape(str(told.value)) == str(told.value) and "\\x1b" in str(told.value)
    module = torch.nn.Linear(2, 2)
    with pytest.raises(InputError) as told:
        weights.load_matching(module, {"\x1b[2J" * 100: torch.zeros(1)}, "it")
    assert escape(str(told.value)) == str(told.value) and len(str(told.value)) < 400


def test_pickles_of_pickle_dump_say_how_to_write_them(tmp_path):
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"w": torch.zeros(2)}))
    with pytest.raises(InputError, match="write them with"):
        weights.read(tmp_path / "w.pkl")
