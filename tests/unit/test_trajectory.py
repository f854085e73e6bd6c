"""Averages along a run against all iterates kept and averaged in float64."""

import copy
import json

import pytest
import torch
from conftest import GOLDEN
from hypothesis import given, settings
from hypothesis import strategies as st
from swad_members import counted

from ratatouille_algorithms.trajectory import Mean, Paper, Trajectory

MEMBERS = json.loads((GOLDEN / "swad_members.json").read_text())


def hparams(start=0, n_converge=3, n_tolerance=6, tolerance=0.3, rule="paper"):
    return {
        "swad_rule": rule,
        "ma_start": start,
        "swad_n_converge": n_converge,
        "swad_n_tolerance": n_tolerance,
        "swad_tolerance": tolerance,
    }


def iterates(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        {"w": torch.randn(3, 2, generator=generator), "count": torch.tensor(i)} for i in range(n)
    ]


def mean(states):
    return torch.stack([state["w"].double() for state in states]).mean(0).float()


@pytest.mark.parametrize("start", [0, 1, 4, 10, 22])
def test_the_moving_average_is_the_mean_of_all_iterates_from_its_start(start):
    states, trajectory = iterates(23), Trajectory(hparams(start))
    for i, state in enumerate(states):
        trajectory.add(state)
        if i % 5 == 0:
            trajectory.checkpoint(1.0)
    trajectory.checkpoint(1.0)
    assert trajectory.moving.n == 23 - start
    torch.testing.assert_close(trajectory.moving.state["w"], mean(states[start:]))
    assert trajectory.moving.state["count"] == 22


@settings(deadline=None, max_examples=200)
@given(
    losses=st.lists(st.integers(0, 8).map(lambda n: n / 4), min_size=1, max_size=30),
    n_converge=st.integers(1, 4),
    n_tolerance=st.integers(1, 7),
    tolerance=st.sampled_from([0.0, 0.2, 0.3]),
)
def test_swad_is_the_mean_of_the_iterates_that_the_paper_says(
    swad_range, losses, n_converge, n_tolerance, tolerance
):
    states = iterates(2 * len(losses))
    trajectory = Trajectory(hparams(0, n_converge, n_tolerance, tolerance))
    for i, loss in enumerate(losses):
        for state in states[2 * i : 2 * i + 2]:
            trajectory.add(state)
        trajectory.checkpoint(loss)
    first, last = swad_range(losses, n_converge, n_tolerance, tolerance)
    found = trajectory.swad.mean()
    assert found.n == 2 * (last - first + 1)
    torch.testing.assert_close(found.state["w"], mean(states[2 * first : 2 * last + 2]))


def test_swad_averages_the_segments_that_its_code_does():
    for row in MEMBERS:
        assert counted(row) == row["members"], row
    assert sum(max(row["members"]) > 1 for row in MEMBERS) > 10  # some count twice


def test_losses_that_rise_end_swad_where_they_began_to():
    swad, states = Paper(3, 6, 0.3), iterates(14)
    for state, loss in zip(states, [9, 4, 1, 1, 1, 1] + [2] * 8):
        segment = Mean()
        segment.add(state)
        swad.add(segment, loss)
    assert swad.has_ended
    torch.testing.assert_close(swad.mean().state["w"], mean(states[2:6]))


@pytest.mark.parametrize("rule", ["code", "paper"])
@pytest.mark.parametrize("cut", [1, 3, 4, 9, 14, 22])
def test_a_restored_trajectory_goes_on_as_an_undisturbed_one(cut, rule):
    losses = [5, 3, 3, 4, 9, 9, 9, 9, 9, 9, 9, 9]
    one, two = (Trajectory(hparams(3, rule=rule)) for _ in range(2))
    for i, state in enumerate(iterates(24)):
        if i == cut:
            saved, two = copy.deepcopy(two.state_dict()), Trajectory(hparams(3, rule=rule))
            two.load_state_dict(saved)
        for trajectory in (one, two):
            trajectory.add(state)
            if i % 2:
                trajectory.checkpoint(losses[i // 2])
    for name in ("moving", "segment", "recent"):
        assert getattr(one, name).n == getattr(two, name).n
    assert torch.equal(one.moving.state["w"], two.moving.state["w"])
    assert torch.equal(one.swad.mean().state["w"], two.swad.mean().state["w"])
