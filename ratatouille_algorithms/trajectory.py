"""Averages of the weights along one training run, kept while it runs.

    moving average  the mean of all iterates from update `ma_start` on (SMA, Arpit et al. 2021,
                    arXiv 2110.10832)
    SWAD            the mean of what lies between a start and an end that the validation loss
                    tells (Cha et al. 2021, arXiv 2102.08604): of segments, as its code chooses
                    them, or of iterates, as algorithm 1 of the paper does

Iterates are the weights after each update. Those since the last checkpoint are one segment, and
only means of segments are kept, so memory does not grow with the run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

State = dict[str, torch.Tensor]


class Mean:
    """The mean of states by name, n of them so far; integers are those of the last one."""

    def __init__(self) -> None:
        self.n = 0
        self.state: State = {}

    def add(self, state: Mapping[str, torch.Tensor], n: int = 1) -> None:
        """Count a state n times."""
        if not n:
            return
        if not self.n:
            self.state = {name: tensor.detach().clone() for name, tensor in state.items()}
        self.n += n
        floats = [name for name, tensor in state.items() if tensor.is_floating_point()]
        mine, theirs = ([some[name].detach() for name in floats] for some in (self.state, state))
        if floats:
            torch._foreach_lerp_(mine, theirs, n / self.n)
        for name in state.keys() - set(floats):
            self.state[name].copy_(state[name])

    @staticmethod
    def of(means: Iterable[Mean]) -> Mean:
        """The mean of all that the means are of."""
        total = Mean()
        for mean in means:
            total.add(mean.state, mean.n)
        return total

    def saved(self) -> dict[str, Any]:
        """All that `restored` needs."""
        return {"n": self.n, "state": self.state}

    @staticmethod
    def restored(saved: Mapping[str, Any]) -> Mean:
        """The mean that was `saved`."""
        mean = Mean()
        mean.n, mean.state = saved["n"], dict(saved["state"])
        return mean


class Rule:
    """Chooses segments by validation losses; those that may still be chosen are `open`."""

    def __init__(self, n_converge: int, n_tolerance: int, tolerance: float) -> None:
        self.n_converge, self.n_tolerance = n_converge, n_tolerance
        self.tolerance = tolerance
        self.threshold: float | None = None
        self.has_ended = False
        self.settled = Mean()
        self.open: list[Mean] = []
        self.losses: list[float] = []

    def add(self, segment: Mean, loss: float) -> None:
        """Take the iterates up to a checkpoint, and the validation loss there."""
        raise NotImplementedError(f"{type(self).__name__} must define add")

    def mean(self) -> Mean:
        """The mean so far."""
        raise NotImplementedError(f"{type(self).__name__} must define mean")

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs."""
        means = {"settled", "open"}
        return {
            **{key: value for key, value in vars(self).items() if key not in means},
            "settled": self.settled.saved(),
            "open": [segment.saved() for segment in self.open],
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from what was saved."""
        vars(self).update(saved)
        self.settled = Mean.restored(saved["settled"])
        self.open = [Mean.restored(segment) for segment in saved["open"]]


class Code(Rule):
    """What the code does that SWAD's published figures come from; each segment counts once.

    A run converges at the first checkpoint where none of the last n_converge losses is below the
    first of them; the threshold is (1 + tolerance) times their mean. Of the last n_tolerance
    checkpoints then, those but the last n_converge - 1 are looked back at: what follows the last
    loss above the threshold, less the segment right after that, is chosen. From then on each
    checkpoint chooses the segment n_tolerance - 1 checkpoints back, if it is not before the first
    of the n_converge; so a segment can be chosen twice. The run ends when the last n_tolerance
    losses are all above the threshold. If it does not, the segments that are left are chosen in
    turn while some loss from theirs on is not above it. A run that never converges has its last
    segment.
    """

    def __init__(self, n_converge: int, n_tolerance: int, tolerance: float) -> None:
        super().__init__(n_converge, n_tolerance, tolerance)
        self.n_segments = self.first = 0

    def add(self, segment: Mean, loss: float) -> None:
        """Take the iterates up to a checkpoint, and the validation loss there."""
        if self.has_ended:
            return
        once = Mean()
        once.add(segment.state)
        self.open.append(once)
        self.losses.append(loss)
        self.n_segments += 1
        n_kept = max(self.n_converge, self.n_tolerance)
        del self.open[:-n_kept], self.losses[:-n_kept]
        if self.threshold is None:
            self._look_for_start()
        else:
            tail = self.losses[-self.n_tolerance :]
            self.has_ended = min(tail) > self.threshold
            if not self.has_ended and self.n_segments - len(tail) >= self.first:
                self._choose(self.open[-len(tail)])

    def _choose(self, *segments: Mean) -> None:
        for segment in segments:
            self.settled.add(segment.state)

    def _look_for_start(self) -> None:
        recent = self.losses[-self.n_converge :]
        if len(recent) < self.n_converge or recent[0] > min(recent):
            return
        self.threshold = (1 + self.tolerance) * sum(recent) / len(recent)
        self.first = self.n_segments - self.n_converge
        more = self.n_tolerance - self.n_converge
        if more < 0:
            start = len(self.open) - self.n_converge + 1
            chosen = self.open[start : start - more]
        else:
            tail = self.losses[-self.n_tolerance :][: more + 1]
            above = [i for i, loss in enumerate(tail) if loss > self.threshold]
            start = above[-1] + 1 if above else 0
            chosen = self.open[-self.n_tolerance :][start + 1 : more + 1] if more else []
        self.fallback = self.open[-self.n_converge]
        self._choose(*chosen)

    def mean(self) -> Mean:
        """The mean so far."""
        if self.threshold is None:
            return Mean.of(self.open[-1:])
        total = Mean.of([self.settled])
        if not self.has_ended:
            rest = self.losses[-self.n_tolerance :][1:]
            for i in range(len(rest)):
                if min(rest[i:]) > self.threshold:
                    break
                total.add(self.open[i - len(rest)].state)
        return total if total.n else Mean.of([self.fallback])

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs."""
        state = super().state_dict()
        return {**state, "fallback": self.fallback.saved()} if "fallback" in state else state

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from what was saved."""
        super().load_state_dict(saved)
        if "fallback" in saved:
            self.fallback = Mean.restored(saved["fallback"])


class Paper(Rule):
    """The mean of the iterates from a start to an end, as algorithm 1 of the paper says.

    It starts at the first checkpoint whose loss the next n_converge - 1 do not fall below, and ends
    before the first n_tolerance checkpoints in a row whose losses are all above (1 + tolerance)
    times the mean loss of those n_converge. Where it finds no start, it is the mean of the whole
    run; where it finds no end, it goes on to the last segment.
    """

    def add(self, segment: Mean, loss: float) -> None:
        """Take the iterates up to a checkpoint, and the validation loss there."""
        if self.has_ended:
            return
        self.open.append(segment)
        self.losses.append(loss)
        if self.threshold is None:
            self._look_for_start()
        elif len(self.losses) >= self.n_tolerance:
            if min(self.losses[-self.n_tolerance :]) > self.threshold:
                self.has_ended = True
                del self.open[-self.n_tolerance :]
        longest = self.n_converge if self.threshold is None else self.n_tolerance
        self.losses = self.losses[-max(self.n_converge, self.n_tolerance) :]
        while len(self.open) >= longest:
            self.settled = Mean.of([self.settled, self.open.pop(0)])

    def _look_for_start(self) -> None:
        recent = self.losses[-self.n_converge :]
        if len(recent) == self.n_converge and recent[0] == min(recent):
            self.threshold = (1 + self.tolerance) * sum(recent) / len(recent)
            self.settled = Mean()  # what was before the start

    def mean(self) -> Mean:
        """The mean so far."""
        return Mean.of([self.settled, *self.open])


RULES: dict[str, type[Rule]] = {"code": Code, "paper": Paper}


class Trajectory:
    """Follows a run: both averages of its iterates."""

    def __init__(self, hparams: Mapping[str, Any]) -> None:
        self.start = hparams["ma_start"]
        self.swad = RULES[hparams["swad_rule"]](
            hparams["swad_n_converge"], hparams["swad_n_tolerance"], hparams["swad_tolerance"]
        )
        self.n_updates = 0
        self.moving = Mean()
        self.segment = Mean()
        self.recent = Mean()

    def add(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take the weights after an update."""
        if self.n_updates == self.start:
            self._flush()
        self.recent.add(state)
        self.n_updates += 1

    def checkpoint(self, loss: float) -> None:
        """Take the validation loss of the weights that were added last."""
        self._flush()
        self.swad.add(self.segment, loss)
        self.segment = Mean()

    def _flush(self) -> None:
        self.segment.add(self.recent.state, self.recent.n)
        if self.n_updates > self.start:
            self.moving.add(self.recent.state, self.recent.n)
        self.recent = Mean()

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs."""
        means = {key: getattr(self, key).saved() for key in ("moving", "segment", "recent")}
        return {**means, "n_updates": self.n_updates, "swad": self.swad.state_dict()}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from what was saved."""
        for key in ("moving", "segment", "recent"):
            setattr(self, key, Mean.restored(saved[key]))
        self.n_updates = saved["n_updates"]
        self.swad.load_state_dict(saved["swad"])
