"""Cards of ingredients: what is written is read back, and nothing else gets through."""

import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domainbed.registry import InputError
from ratatouille_algorithms.pool import cards
from ratatouille_algorithms.pool.cards import Card, Foundation

CARD = Card(
    name="ink",
    sha256="0" * 64,
    size=3,
    foundation=Foundation("letters", "1" * 64),
    backbone="mnist_cnn",
    input_shape=(1, 28, 28),
    datasets_seen=("InkDigits",),
    licence="MIT",
    steps=101,
    id_acc=0.75,
    hparams={"lr": 1e-5, "freeze_bn": True, "backbone": "auto"},
)
TEXT = cards.render(CARD)


def lines_of(most):
    return st.text(max_size=most).filter(lambda text: text.isprintable() and text.strip() == text)


NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,30}", fullmatch=True)
HPARAMS = st.dictionaries(
    st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,20}", fullmatch=True),
    st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | lines_of(50),
    max_size=5,
)
CARDS = st.builds(
    Card,
    name=NAMES,
    sha256=st.from_regex("[0-9a-f]{64}", fullmatch=True),
    size=st.integers(0, 2**50),
    foundation=st.builds(Foundation, lines_of(50), st.just("1" * 64)),
    backbone=st.just("resnet50.a1_in1k"),
    input_shape=st.sampled_from([(5,), (3, 224, 224)]),
    datasets_seen=st.none() | st.lists(NAMES, min_size=1, max_size=3).map(tuple),
    task=lines_of(100),
    licence=lines_of(50),
    how=lines_of(200),
    steps=st.none() | st.integers(0, 2**40),
    id_acc=st.none() | st.floats(0, 1),
    hparams=HPARAMS,
)


@settings(deadline=None)
@given(CARDS)
def test_what_is_written_is_read_back(card):
    text = cards.render(card)
    assert cards.parse(text, "card") == card
    assert cards.parse(text.replace("\n", "\r\n"), "card") == card


def parsed_or_refused(text):
    """A card, or None for text that is refused in one line of characters that print."""
    try:
        card = cards.parse(text, "card.toml")
    except InputError as error:
        assert str(error).isprintable() and str(error).startswith("card.toml ")
        return None
    assert isinstance(card, Card)
    return card


@settings(deadline=None, max_examples=300)
@given(st.text() | st.text(alphabet="[]{}=\"'\\.,#\n -_0123456789abctu\x1b\u202e"))
def test_any_text_is_refused_in_one_line(text):
    assert parsed_or_refused(text) is None
    parsed_or_refused(TEXT + text)
    parsed_or_refused(text + "\n" + TEXT)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_a_mutated_card_is_a_card_or_refused(data):
    start = data.draw(st.integers(0, len(TEXT)))
    end = data.draw(st.integers(start, min(len(TEXT), start + 30)))
    parsed_or_refused(TEXT[:start] + data.draw(st.text(max_size=20)) + TEXT[end:])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(sorted({**cards.REQUIRED, **cards.OPTIONAL})), VALUES)
def test_any_value_is_a_cards_or_refused(key, value):
    values = {
        **vars(CARD),
        "foundation": vars(CARD.foundation),
        "input_shape": [1, 28, 28],
        "datasets_seen": ["InkDigits"],
    }
    for name in ("task", "how", "code_version"):
        values.pop(name)
    assert cards.check(values, "card") == CARD
    try:
        card = cards.check({**values, key: value}, "card")
    except InputError as error:
        assert str(error).isprintable() and key in str(error)
    else:
        assert cards.parse(cards.render(card), "card") == card


@settings(deadline=None, max_examples=100)
@given(content=st.binary(max_size=300))
def test_any_bytes_in_the_place_of_a_card_are_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "card.toml"
    path.write_bytes(content)
    with pytest.raises(InputError):
        cards.read(path)


@pytest.mark.parametrize(
    "old, new, reason",
    [
        ('name = "ink"', 'name = "../ink"', "expected a folder's name"),
        ('name = "ink"', 'name = ".."', "expected a folder's name"),
        ('name = "ink"', 'name = "a/b"', "expected a folder's name"),
        ('name = "ink"', 'name = "pool.lock"', "expected a folder's name"),
        ('"MIT"', '"\\u001b[31mMIT"', "printable"),
        ('"MIT"', '"\u202eTIM"', "'\\u202e', which does not print"),
        ('"MIT"', '"\x1b[2J"', "'\\x1b', which does not print"),
        ('"MIT"', '"' + "M" * 101 + '"', "one line of 0 to 100"),
        ('"MIT"', "true", "one line"),
        ("size = 3", "size = -3", "an integer from 0"),
        ("size = 3", "size = 3.0", "an integer from 0"),
        ("size = 3", "size = true", "an integer from 0"),
        ("steps = 101", f"steps = {2**41}", "an integer from 0"),
        ("id_acc = 0.75", "id_acc = nan", "a number from 0 to 1"),
        ("id_acc = 0.75", "id_acc = 75", "a number from 0 to 1"),
        ("[1, 28, 28]", "[1, 28]", "one or three integers"),
        ("[1, 28, 28]", "[1, 28, 2000000000]", "one or three integers"),
        ('["InkDigits"]', "[]", "leave it out if they are unknown"),
        ('["InkDigits"]', '"InkDigits"', "a list of 1 to 100 datasets"),
        ('["InkDigits"]', '["--"]', "with letters or digits"),
        ('"mnist_cnn"', '"hf-hub:someone/model"', "a backbone's name"),
        ('"mnist_cnn"', '"../../mine.py"', "a backbone's name"),
        ("lr = 1e-05", "lr = inf", "finite numbers"),
        ("lr = 1e-05", f"lr = {2**63}", "64 bits"),
        ("lr = 1e-05", "lr = 1979-05-27", "finite numbers"),
        ("lr = 1e-05", "lr.lr = 1", "finite numbers"),
        ("[hparams]", "[hparams2]", "Did you mean 'hparams'"),
        ("[hparams]", "[hparams", "is not TOML"),
        ("format = 1", "format = 2", "this version reads 1"),
        ("size = 3\n", "", "does not say size"),
        ("size = 3", "size = 3\nsize = 3", "is not TOML"),
        ("size = 3", "size = " + "9" * 5000, "is not TOML"),
        ("size = 3", "x = " + "[" * 5000, "is not TOML"),
        ("size = 3", "size = 3 # " + "x" * cards.MAX_BYTES, "longer than a card may be"),
    ],
)
def test_what_is_no_card_is_refused_with_a_reason(old, new, reason):
    assert old in TEXT
    with pytest.raises(InputError) as error:
        cards.parse(TEXT.replace(old, new, 1), "card")
    assert reason in str(error.value) and len(str(error.value)) < 400


def test_a_card_of_nested_keys_does_not_take_long():
    start = time.perf_counter()
    parsed_or_refused("a" + ".a" * (cards.MAX_BYTES // 2 - 4) + "=1")
    assert time.perf_counter() - start < 5


def test_what_is_left_out_is_unknown():
    bare = replace(CARD, datasets_seen=None, licence="", steps=None, id_acc=None, hparams={})
    text = cards.render(bare)
    assert "datasets_seen" not in text and "licence" not in text
    assert cards.parse(text, "card") == bare
    assert "datasets_seen" not in bare.provenance()
    assert CARD.provenance() == {
        "foundation": {"name": "letters", "sha256": "1" * 64},
        "datasets_seen": ["InkDigits"],
    }


def test_a_dataset_is_the_same_however_it_is_spelt():
    card = replace(CARD, datasets_seen=("Office-Home", "pacs"))
    assert card.has_seen("OfficeHome") and card.has_seen("PACS") and card.has_seen("office_home")
    assert not card.has_seen("VLCS") and not replace(card, datasets_seen=None).has_seen("PACS")


def test_a_card_is_a_small_plain_file(tmp_path):
    (tmp_path / "card.toml").write_text(TEXT)
    assert cards.read(tmp_path / "card.toml") == CARD
    (tmp_path / "link.toml").symlink_to(tmp_path / "card.toml")
    (tmp_path / "large.toml").write_text(TEXT + "#" * cards.MAX_BYTES)
    (tmp_path / "latin.toml").write_bytes(TEXT.replace("MIT", "Lizenz für dich").encode("latin1"))
    for name, reason in (
        ("link", "no link"),
        ("large", "at most"),
        ("latin", "not UTF-8"),
        ("missing", "cannot be read"),
    ):
        with pytest.raises(InputError, match=reason):
            cards.read(tmp_path / f"{name}.toml")
