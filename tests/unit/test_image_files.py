"""Files of any kind under an image's name: pixels of every depth, cut ones, ones of no image."""

import io
import os
import socket
import struct
import zlib

import numpy as np
import pytest
from conftest import write_images
from PIL import Image

from domainbed import datasets
from domainbed.datasets import decoding, doctor
from domainbed.registry import InputError
from domainbed.scripts import train

PLAIN = {"data_augmentation": True, "image_size": 16}
RAMP = np.linspace(0, 65535, 64)[None].repeat(48, 0)


def saved(path, values, **options):
    Image.fromarray(values).save(path, **options)
    return str(path)


def red(path):
    return np.asarray(decoding.decode(path))[..., 0].astype(int)


def expected(ramp=RAMP):
    return ramp.astype("uint16") >> 8


def little(path):
    return saved(path.with_suffix(".tif"), RAMP.astype("<u2"))


def big(path):
    array = RAMP.astype(">u2")
    file = path.with_suffix(".tif")
    Image.frombytes("I;16B", (64, 48), array.tobytes()).save(file)
    return str(file)


def packed(path):
    return saved(path.with_suffix(".tif"), RAMP.astype("<u2"), compression="tiff_lzw")


def grey_map(path):
    file = path.with_suffix(".pgm")
    file.write_bytes(b"P5 64 48 65535\n" + RAMP.astype(">u2").tobytes())
    return str(file)


@pytest.mark.parametrize(
    "write", [lambda p: saved(p, RAMP.astype("uint16")), little, big, packed, grey_map]
)
def test_16_bits_span_black_to_white(write, tmp_path):
    path = write(tmp_path / "g.png")
    assert np.array_equal(red(path), expected())
    assert decoding.sizes_of([path]) == [(64, 48)]


def test_the_greatest_value_that_a_file_declares_is_white(tmp_path):
    file = tmp_path / "g.pgm"
    for greatest in (300, 1023, 4095):
        values = np.linspace(0, greatest, 64).astype(">u2")
        file.write_bytes(b"P5 64 1 %d\n" % greatest + values.tobytes())
        wanted = values * (255 / greatest)
        assert np.abs(red(str(file))[0] - wanted).max() <= 1
        assert {0, 255} <= set(red(str(file))[0])


def twelve_bits(values, photometric=1):
    """A TIFF of 12 bits a pixel, one row."""
    bits = "".join(f"{v:012b}" for v in values)
    data = int(bits, 2).to_bytes(len(bits) // 8, "big")
    tags = [(256, 3, len(values)), (257, 3, 1), (258, 3, 12), (259, 3, 1), (262, 3, photometric)]
    tags += [(273, 4, 8), (277, 3, 1), (278, 3, 1), (279, 4, len(data))]
    entries = b"".join(
        tag.to_bytes(2, "little")
        + kind.to_bytes(2, "little")
        + b"\1\0\0\0"
        + v.to_bytes(4, "little")
        for tag, kind, v in tags
    )
    start = 8 + len(data)
    head = b"II*\0" + start.to_bytes(4, "little")
    return head + data + len(tags).to_bytes(2, "little") + entries + bytes(4)


def test_12_bits_are_scaled_by_12(tmp_path):
    file = tmp_path / "g.tif"
    values = [0, 15, 16, 2048, 4080, 4095, 1000, 7]
    file.write_bytes(twelve_bits(values))
    assert red(str(file))[0].tolist() == [v >> 4 for v in values]


def test_where_0_is_white_it_is_white_in_16_bits_too(tmp_path):
    file = tmp_path / "g.tif"
    saved(file, RAMP.astype("<u2"), tiffinfo={262: 0})
    content = bytearray(file.read_bytes())
    with Image.open(file) as image:
        assert image.tag_v2[258] == (16,)
        is_inverted = image.tag_v2[262] == 0
    if not is_inverted:  # the writer insists on 1: change the tag's value
        at = content.index((262).to_bytes(2, "little") + (3).to_bytes(2, "little"))
        content[at + 8] = 0
        file.write_bytes(content)
    assert np.array_equal(red(str(file)), 255 - expected())


def test_colours_of_16_bits_are_cut_as_grey_ones(tmp_path):
    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    row = np.stack([RAMP[0], RAMP[0][::-1], RAMP[0] / 2], 1).astype(">u2")
    header = struct.pack(">IIBBBBB", 64, 1, 16, 2, 0, 0, 0)
    data = zlib.compress(b"\0" + row.tobytes())
    file = tmp_path / "c.png"
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
    assert np.array_equal(np.asarray(decoding.decode(str(file)))[0], row.astype(int) >> 8)


UNKNOWN_RANGE = {
    "floats": ("F", np.linspace(0, 1, 64, dtype="float32")[None].repeat(8, 0)),
    "32 bits": ("I", (RAMP[:8] * 1000).astype("int32")),
}


@pytest.mark.parametrize("kind", [*UNKNOWN_RANGE, "signed", "lab"])
def test_pixels_of_no_known_range_are_refused_before_training_and_by_the_doctor(kind, tmp_path):
    write_images(tmp_path / "Mine", ["a", "b"], n=2, size=8)
    file = tmp_path / "Mine" / "b" / "dog" / "deep.tif"
    if kind == "lab":
        mode = "LAB"
        Image.new("LAB", (8, 8)).save(file)
    elif kind == "signed":
        mode = "I"
        Image.fromarray(np.full((8, 8), 900, "<u2")).save(file, tiffinfo={339: 2})
        with Image.open(file) as image:
            if image.mode != "I":
                pytest.skip("this Pillow writes no signed pixels")
    else:
        mode, values = UNKNOWN_RANGE[kind]
        saved(file, values)
    with pytest.raises(InputError, match=f"deep.tif has pixels of mode {mode}.*8 or 16 bits"):
        datasets.make("Mine", str(tmp_path), [], PLAIN)
    faults = doctor.examine("Mine", tmp_path).faults
    assert len(faults) == 1 and f"mode {mode}" in faults[0]


@pytest.mark.parametrize(
    "content",
    [
        b"Pf\n2 2\n-1.0\n" + np.ones(4, "<f4").tobytes(),
        b"PF\n2 2\n-1.0\n" + np.ones(12, "<f4").tobytes(),
        b"P6 2 2 70000\n" + bytes(24),
    ],
)
def test_odd_maps_are_refused(content, tmp_path):
    file = tmp_path / "x.ppm"
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"x\.ppm") as error:
        decoding.decode(str(file))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("magic", ["P5", "P2", "P6", "P3"])
def test_maps_of_any_range_span_black_to_white(magic, tmp_path):
    file = tmp_path / "x.ppm"
    for greatest in (1, 100, 255, 256, 1000, 65535):
        n = 3 if magic in ("P6", "P3") else 1
        values = np.repeat([0, greatest // 2, greatest], n)
        head = f"{magic} 3 1 {greatest}\n".encode()
        kind = ">u2" if greatest > 255 else "u1"
        text = " ".join(map(str, values)).encode() + b"\n"
        file.write_bytes(head + (values.astype(kind).tobytes() if magic in ("P5", "P6") else text))
        wanted = np.array([0, greatest // 2, greatest]) * 255 / greatest
        assert np.abs(red(str(file))[0] - wanted).max() <= 1, greatest


def test_the_first_frame_counts(tmp_path):
    for suffix in ("gif", "webp", "png", "tif"):
        file = tmp_path / f"x.{suffix}"
        frames = [Image.new("RGB", (8, 8), c) for c in ((250, 0, 0), (0, 0, 250))]
        options = {"lossless": True} if suffix == "webp" else {}
        frames[0].save(file, save_all=True, append_images=frames[1:], **options)
        assert np.abs(np.asarray(decoding.decode(str(file)), int) - (250, 0, 0)).max() <= 2


def test_training_cache_and_doctor_agree_on_deep_images(tmp_path):
    for domain in "ab":
        for name, factor in (("cat", 1.0), ("dog", 0.5)):
            folder = tmp_path / "Mine" / domain / name
            folder.mkdir(parents=True)
            saved(folder / "0.png", (RAMP * factor).astype("uint16"))
    plain = datasets.make("Mine", str(tmp_path), [], PLAIN)
    cached = datasets.make("Mine", str(tmp_path), [], {**PLAIN, "image_cache": str(tmp_path / "c")})
    for one, two in zip(plain, cached):
        for i, factor in ((0, 1.0), (1, 0.5)):
            assert np.array_equal(one.images[i], two.images[i])
            assert np.array_equal(one.images[i][..., 1], expected(RAMP * factor))
    found = doctor.examine("Mine", tmp_path)
    assert not found.faults and "4 grey images have more than 8 bits, cut to 8" in found.lines


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK"])
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp", "webp", "ppm"])
def test_8_bits_are_what_pillow_makes_of_them(mode, suffix, tmp_path):
    pixels = np.random.RandomState(0).randint(0, 256, (20, 30, 4), np.uint8)
    file = tmp_path / f"x.{suffix}"
    try:
        Image.fromarray(pixels).convert(mode).save(file)
    except (OSError, KeyError):
        pytest.skip("no such file can be written")
    with Image.open(file) as image:
        plain = image.convert("RGBA") if "transparency" in image.info else image
        plain = np.asarray(plain.convert("RGB"))
    assert np.array_equal(np.asarray(decoding.decode(str(file))), plain)


def photo(size=(90, 70), seed=0):
    rng = np.random.RandomState(seed)
    coarse = Image.fromarray(rng.randint(0, 256, (9, 9, 3), np.uint8)).resize(size)
    noisy = np.asarray(coarse, int) + rng.randint(-9, 10, (size[1], size[0], 1))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


JPEGS = {
    "plain": {"quality": 90},
    "all chroma": {"quality": 95, "subsampling": 0},
    "own tables": {"quality": 40, "optimize": True},
    "restarts": {"quality": 80, "restart_marker_blocks": 3},
    "progressive": {"quality": 90, "progressive": True},
}


def jpeg(options, mode="RGB", size=(90, 70)):
    file = io.BytesIO()
    photo(size).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("kind", JPEGS)
def test_whole_jpegs_keep_their_pixels(kind, mode, tmp_path):
    file = tmp_path / "x.jpg"
    for size in ((90, 70), (16, 16), (17, 33), (1, 1)):
        content = jpeg(JPEGS[kind], mode, size)
        for rest in (b"", b"\0" * 9, b"junk\xff\xd9", b"\xff\xd9"):
            file.write_bytes(content + rest)
            with Image.open(io.BytesIO(content)) as image:
                assert np.array_equal(decoding.decode(str(file)), image.convert("RGB"))


@pytest.mark.parametrize("rest", [b"", b"\xff\xd9", b"\xff\xd9junk\xff\xd9"])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("kind", JPEGS)
def test_cut_jpegs_are_refused_whatever_they_end_in(kind, mode, rest, tmp_path):
    content = jpeg(JPEGS[kind], mode)
    start = content.index(b"\xff\xda")
    for part in (0.2, 0.5, 0.8, 0.95):
        end = start + int(part * (len(content) - start))
        if content[end - 1] == 0xFF:
            end -= 1
        path = tmp_path / "cut.jpg"
        path.write_bytes(content[:end] + rest)
        with pytest.raises(InputError, match=r"cut\.jpg is damaged"):
            decoding.decode(str(path))
        assert doctor._decode(str(path)).fault
        with pytest.raises(InputError, match=r"cut\.jpg is damaged"):
            decoding.decode(str(path), bound=40)


def test_training_refuses_a_cut_jpeg(tmp_path):
    write_images(tmp_path / "Mine", ["a", "b"], n=2, size=8)
    content = jpeg(JPEGS["plain"])
    bad = tmp_path / "Mine" / "a" / "dog" / "bad.jpg"
    bad.write_bytes(content[: len(content) // 2] + b"\xff\xd9")
    for cache in ({}, {"image_cache": str(tmp_path / "c")}):
        with pytest.raises(InputError, match=r"bad\.jpg is damaged"):
            datasets.make("Mine", str(tmp_path), [], {**PLAIN, **cache})


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_decodes_as_it_goes_ends_with_a_line(workers, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("domainbed.datasets.decoding.MEMORY_LIMIT", 0)
    write_images(tmp_path / "Mine", ["a", "b"], n=4, size=28)
    content = jpeg(JPEGS["plain"])
    for name in ("cat", "dog"):
        bad = tmp_path / "Mine" / "a" / name / "bad.jpg"
        bad.write_bytes(content[: len(content) // 2] + b"\xff\xd9")
    words = ["--data_dir", str(tmp_path), "--dataset", "Mine", "--steps", "9"]
    words += ["--hparams", '{"backbone": "mnist_cnn", "image_size": 28, "batch_size": 4}']
    words += ["--num_workers", str(workers), "--output_dir", str(tmp_path / "o")]
    assert train.main(words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "bad.jpg is damaged" in line] == lines[-1:]
    assert not any("Traceback" in line for line in lines)


def test_a_picture_with_another_behind_it_is_whole(tmp_path):
    file = tmp_path / "stereo.jpg"
    first, second = photo(seed=1), photo(seed=2)
    first.save(file, "MPO", save_all=True, append_images=[second])
    with Image.open(file) as image:
        assert np.array_equal(decoding.decode(str(file)), image.convert("RGB"))


def png_without_a_chunk(content):
    starts = [i for i in range(len(content)) if content.startswith(b"IDAT", i)]
    length = int.from_bytes(content[starts[-1] - 4 : starts[-1]], "big")
    return content[: starts[-1] - 4] + content[starts[-1] + length + 8 :]


@pytest.mark.parametrize("suffix", ["png", "webp", "tif", "bmp", "ppm", "gif"])
def test_other_formats_that_were_cut_are_refused(suffix, tmp_path):
    file = tmp_path / f"cut.{suffix}"
    noise = np.random.RandomState(0).randint(0, 256, (200, 300, 3), np.uint8)
    Image.fromarray(noise).save(file)
    content = file.read_bytes()
    damages = [content[: len(content) // 2]]
    if suffix == "png":
        damages.append(png_without_a_chunk(content))
    if suffix == "gif":
        damages[0] += b"\0;"
    for damage in damages:
        file.write_bytes(damage)
        with pytest.raises(InputError, match="damaged"):
            decoding.decode(str(file))
        assert doctor._decode(str(file)).fault


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_postscript_starts_no_program(suffix, tmp_path, monkeypatch):
    ran = tmp_path / "ran"
    gs = tmp_path / "bin" / "gs"
    gs.parent.mkdir()
    gs.write_text(f"#!/bin/sh\ntouch {ran}\n")
    gs.chmod(0o755)
    monkeypatch.setenv("PATH", str(gs.parent), prepend=os.pathsep)
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    write_images(tmp_path / "Mine", ["a", "b"], n=2, size=8)
    bad = tmp_path / "Mine" / "a" / "dog" / f"bad.{suffix}"
    bad.write_bytes(POSTSCRIPT)
    Image.init()  # as if somebody had loaded every plug-in
    for _ in range(2):
        with pytest.raises(InputError, match="bad"):
            datasets.make("Mine", str(tmp_path), [], PLAIN)
    assert doctor.examine("Mine", tmp_path).faults
    assert not ran.exists()


@pytest.mark.parametrize("name", ["FITS", "TGA", "PCX", "ICO", "SGI", "JPEG2000", "EPS", "PDF"])
def test_only_formats_of_images_by_name_are_opened(name, tmp_path):
    file = tmp_path / "x.png"
    try:
        photo((32, 32)).save(file, name)
    except (OSError, KeyError, ValueError):
        file.write_bytes(b"SIMPLE  =                    T" + b" " * 3000)
    with pytest.raises(InputError, match="no image"):
        decoding.decode(str(file))
    with pytest.raises(InputError, match=r"no image .not JPEG, PNG") as error:
        decoding.sizes_of([str(file)])
    assert " at 0x" not in str(error.value) + doctor._decode(str(file)).fault


def pipe(path):
    os.mkfifo(path)


def loop(path):
    path.symlink_to(path.name)


def dangling(path):
    path.symlink_to(path.with_name("nothing.png"))


def listener(path):
    folder = os.getcwd()
    os.chdir(path.parent)  # addresses of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(path.name)
    finally:
        os.chdir(folder)


@pytest.mark.parametrize("make", [pipe, loop, dangling, listener])
@pytest.mark.parametrize("place", ["a/dog/new.png", "a/new", "new", "a/dog/deeper/new.jpg"])
def test_what_is_no_file_is_named_and_not_waited_for(make, place, tmp_path):
    write_images(tmp_path / "Mine", ["a", "b"], n=2, size=8)
    path = tmp_path / "Mine" / place
    path.parent.mkdir(exist_ok=True)
    make(path)
    with pytest.raises(InputError, match="new") as told:
        datasets.make("Mine", str(tmp_path), [], PLAIN)
    assert str(path) in str(told.value) and "\n" not in str(told.value)
    assert doctor.main(["--data_dir", str(tmp_path), "--dataset", "Mine"]) == 1


@pytest.mark.parametrize("make", [pipe, loop, dangling, listener, os.mkdir])
def test_what_a_table_names_is_not_waited_for(make, tmp_path):
    path = tmp_path / "new.png"
    make(path)
    for read in (decoding.sizes_of, lambda paths: decoding.Files(paths)[0]):
        with pytest.raises(InputError, match=r"new\.png"):
            read([str(path)])
    assert doctor._decode(str(path)).fault


def test_an_orientation_is_noted_and_not_applied(tmp_path):
    write_images(tmp_path / "Mine", ["a", "b"], n=2, size=8)
    exif = Image.Exif()
    exif[0x0112] = 6
    file = tmp_path / "Mine" / "a" / "dog" / "turned.jpg"
    photo().save(file, exif=exif)
    assert np.asarray(decoding.decode(str(file))).shape == (70, 90, 3)
    found = doctor.examine("Mine", tmp_path)
    assert not found.faults
    assert "1 images have an EXIF orientation, which is not applied" in found.lines


@pytest.mark.parametrize("orientation", range(1, 9))
def test_sizes_and_pixels_of_turned_images_agree(orientation, tmp_path):
    for suffix in ("jpg", "png", "webp", "tif"):
        exif = Image.Exif()
        exif[0x0112] = orientation
        file = tmp_path / f"x.{suffix}"
        photo().save(file, exif=exif)
        (size,) = decoding.sizes_of([str(file)])
        assert decoding.decode(str(file)).size == size
