"""Queries over lists: selectors, groups and reductions."""

import pytest

from domainbed.lib.query import Q

ITEMS = Q([{"a": 1, "b": {"c": 5}}, {"a": 2, "b": {"c": 5}}, {"a": 1, "b": {"c": 7}}])


def test_selectors_are_keys_paths_lists_and_functions():
    assert ITEMS.select("a") == [1, 2, 1]
    assert ITEMS.select("b.c") == [5, 5, 7]
    assert ITEMS.select("a, b.c") == [(1, 5), (2, 5), (1, 7)] == ITEMS.select(["a", "b.c"])
    assert ITEMS.select(lambda item: -item["a"]) == [-1, -2, -1]
    with pytest.raises(TypeError, match="3"):
        ITEMS.select(3)


def test_groups_keep_order_and_lose_nothing():
    groups = ITEMS.group("b.c")
    assert groups == [(5, ITEMS[:2]), (7, ITEMS[2:])]
    assert groups.map(lambda key, some: (key, some.count())) == [(5, 2), (7, 1)]
    assert groups.filter(lambda key, some: len(some) > 1).count() == 1
    assert groups.select(lambda pair: pair[1]).flatten() == ITEMS
    assert ITEMS.group_map("a", lambda key, some: key) == [1, 2]


def test_keys_that_cannot_be_hashed_are_grouped_by_value_and_returned_as_they_are():
    items = Q([{"k": [0, 1]}, {"k": [0, 1]}, {"k": "[0, 1]"}])
    assert items.group("k").map(lambda key, some: (key, len(some))) == [([0, 1], 2), ("[0, 1]", 1)]
    assert Q([[1], "[1]", [1]]).unique() == [[1], "[1]"]


def test_filters():
    assert ITEMS.filter_equals("b.c", 5) == ITEMS[:2]
    assert ITEMS.filter_equals("a, b.c", [1, 7]) == ITEMS[2:]
    assert Q([0, None, 1]).filter_not_none() == [0, 1]
    assert Q([0.0, float("nan"), 1.0]).filter_not_nan() == [0.0, 1.0]


def test_the_first_of_equals_wins():
    assert ITEMS.argmax("a") is ITEMS[1]
    assert ITEMS.argmin("a") is ITEMS[0]
    assert ITEMS.argmin("b.c") is ITEMS[0]
    with pytest.raises(ValueError):
        Q([]).argmax("a")


def test_reductions():
    q = Q([1.0, 2.0, 6.0])
    assert (q.sum(), q.mean(), q.min(), q.max(), q.count()) == (9.0, 3.0, 1.0, 6.0, 3)
    assert q.std() == pytest.approx((14 / 3) ** 0.5)  # population, not sample
    assert type(q.mean()) is float


def test_a_query_is_a_list_to_its_reader():
    q = Q([3, 1])
    more = [2]
    assert q + more == q + Q(more) == Q([3, 1, 2]) and list(q) == [3, 1]
    assert q.sorted() == [1, 3] and q == [3, 1]
    assert repr(q) == str(q) == "[3, 1]"
    assert Q(x for x in (1, 2)) == [1, 2]
