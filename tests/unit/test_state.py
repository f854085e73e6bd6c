"""Whatever an algorithm keeps is saved with its state, or refused in one line."""

import copy
import random
from collections import OrderedDict, defaultdict, deque

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler

from domainbed import hparams_registry, testing
from domainbed.algorithms import ERM
from domainbed.engine import restoring, state

HPARAMS = hparams_registry.default_hparams("ERM", "Debug28")


def check(cls):
    testing.check_algorithm(cls, HPARAMS, input_shape=(6,), num_classes=3, num_domains=2)


class Keeps(ERM):
    """Updates depend on what `keep` made and `step` moves on."""

    def __init__(self, *args):
        super().__init__(*args)
        self.keep()

    def keep(self):
        pass

    def update(self, minibatches, unlabeled=None):
        factor = float(self.step())
        self.optimizer.param_groups[0]["lr"] = 1e-3 * (1 + abs(factor) % 7)
        return super().update(minibatches)


class Counter(Keeps):
    def keep(self):
        self.n = 0

    def step(self):
        self.n += 1
        return self.n


class LateCounter(Keeps):
    def step(self):
        self.n = getattr(self, "n", 0) + 1
        return self.n


class NumpyScalar(Keeps):
    def keep(self):
        self.n = np.float32(0.5)

    def step(self):
        self.n = self.n * np.float32(1.7)
        return self.n


class Tensors(Keeps):
    def keep(self):
        self.ema = [torch.zeros(3), {"a": torch.ones(2)}]

    def step(self):
        self.ema[0] = self.ema[0].lerp(torch.ones(3), 0.1)
        self.ema[1]["a"].mul_(1.5)
        return self.ema[0].sum() + self.ema[1]["a"].sum()


class Array(Keeps):
    def keep(self):
        self.seen = np.zeros(3)

    def step(self):
        self.seen = np.append(self.seen, len(self.seen))
        return self.seen.sum()


class Containers(Keeps):
    def keep(self):
        self.losses = deque([0.0], maxlen=3)
        self.counts = defaultdict(int)
        self.seen, self.order = {0}, OrderedDict(a=1)
        self.pair = (0, None, "text")

    def step(self):
        n = len(self.seen)
        self.losses.append(self.losses[-1] + n)
        self.counts[n] += 1
        self.seen.add(n)
        self.order.move_to_end("a")
        self.pair = (n, *self.pair[1:])
        return sum(self.losses) + sum(self.counts.values()) + self.pair[0]


class Helper(Keeps):
    def keep(self):
        class Average:
            def __init__(self, owner):
                self.owner, self.n, self.again = owner, 0, self

        self.average = Average(self)

    def step(self):
        self.average.n += 1
        return self.average.again.n + (self.average.owner is self)


class Generators(Keeps):
    def keep(self):
        self.generators = [
            random.Random(0),
            np.random.RandomState(0),
            np.random.default_rng(0),
            torch.Generator().manual_seed(0),
        ]

    def step(self):
        a, b, c, d = self.generators
        return a.random() + b.rand() + c.random() + torch.rand(1, generator=d).item()


class InnerNetwork(Keeps):
    """As Fish of public DomainBed makes it, in an update."""

    def step(self):
        if not hasattr(self, "inner"):
            self.inner = copy.deepcopy(self.network)
            self.inner_optimizer = torch.optim.SGD(self.inner.parameters(), 0.1, momentum=0.9)
        self.inner_optimizer.zero_grad()
        sum((p * p).sum() for p in self.inner.parameters()).backward()
        self.inner_optimizer.step()
        return sum(p.sum() for p in self.inner.parameters())


class NewOptimizer(Keeps):
    def keep(self):
        self.n = 0

    def step(self):
        self.n += 1
        if self.n == 3:
            self.optimizer = torch.optim.Adam(self.classifier.parameters(), lr=0.01)
        return 0


class LateBuffer(Keeps):
    def step(self):
        if not hasattr(self, "mean"):
            self.register_buffer("mean", torch.zeros(2))
            self.register_buffer("hidden", torch.zeros(1), persistent=False)
        self.mean += 1
        self.hidden += 2
        return (self.mean.sum() + self.hidden.sum()).item()


class Alias(Keeps):
    def step(self):
        self.teacher = self.network
        return 0


class Views(Keeps):
    """Tensors that are detached from parameters, as state dicts have them, share their memory."""

    def step(self):
        if not hasattr(self, "views"):
            self.views = self.network.state_dict()
        return sum(view.sum().item() for view in self.views.values())


class Unregistered(Keeps):
    def keep(self):
        self.heads = [torch.nn.Linear(2, 1)]
        self.head_optimizer = torch.optim.Adam(self.heads[0].parameters(), lr=0.1)

    def step(self):
        loss = self.heads[0](torch.ones(1, 2)).square().sum()
        self.head_optimizer.zero_grad()
        loss.backward()
        self.head_optimizer.step()
        return loss


class Accumulates(ERM):
    """Steps with every second update."""

    n = 0

    def update(self, minibatches, unlabeled=None):
        x, y = (torch.cat(parts) for parts in zip(*minibatches))
        loss = torch.nn.functional.cross_entropy(self.predict(x), y)
        loss.backward()
        self.n += 1
        if self.n % 2 == 0:
            self.optimizer.step()
            self.optimizer.zero_grad()
        return {"loss": loss.item()}


class Freezes(Keeps):
    def keep(self):
        self.n = 0

    def step(self):
        self.n += 1
        if self.n == 2:
            self.featurizer.requires_grad_(False)
        return 0


class Forgets(Keeps):
    def keep(self):
        self.once = 1.0

    def step(self):
        value = getattr(self, "once", 2.0)
        vars(self).pop("once", None)
        return value


class Scaler(Keeps):
    def keep(self):
        self.scaler = torch.amp.GradScaler("cpu") if hasattr(torch.amp, "GradScaler") else None

    def step(self):
        return 0


@pytest.mark.parametrize(
    "cls",
    [Counter, LateCounter, NumpyScalar, Tensors, Array, Containers, Helper, Generators,
     InnerNetwork, NewOptimizer, LateBuffer, Alias, Views, Unregistered, Accumulates, Freezes,
     Forgets, Scaler],
)  # fmt: skip
def test_what_a_class_keeps_is_saved(cls):
    check(cls)


SCHEDULERS = {
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 5),
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda n: 0.5**n),
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=20),
    "restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 2),
    "plateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0),
    "sequence": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, 0.1), lr_scheduler.ExponentialLR(o, 0.9)], [2]
    ),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedules_go_on(name):
    class Scheduled(ERM):
        def __init__(self, *args):
            super().__init__(*args)
            self.scheduler = SCHEDULERS[name](self.optimizer)

        def update(self, minibatches, unlabeled=None):
            values = super().update(minibatches)
            self.scheduler.step(*([values["loss"]] if name == "plateau" else []))
            return {**values, "lr": float(self.optimizer.param_groups[0]["lr"])}

    check(Scheduled)


def generator():
    yield from range(100)


@pytest.mark.parametrize(
    "make, what",
    [
        (generator, "a generator"),
        (lambda: iter([1, 2]), "a list_iterator"),
        (lambda: open(__file__), "a TextIOWrapper"),
        (lambda: np.array([object()]), "a ndarray"),
    ],
)
def test_what_no_state_can_hold_is_refused(make, what):
    class Odd(Keeps):
        def keep(self):
            self.thing = make()

    algorithm = Odd((6,), 3, 2, HPARAMS)
    with pytest.raises(state.CannotSave, match=f"Odd.thing is {what}, which no state can hold; "):
        state.saved(algorithm, state.Made(algorithm))


def test_a_network_of_a_new_kind_made_in_an_update_is_refused():
    algorithm = Keeps((6,), 3, 2, HPARAMS)
    made = state.Made(algorithm)
    algorithm.late = torch.nn.Linear(5, 7)
    with pytest.raises(state.CannotSave, match=r"Keeps.late is a Linear.*make it in __init__"):
        state.saved(algorithm, made)


def test_a_state_holds_plain_values_alone():
    algorithm = Containers((6,), 3, 2, HPARAMS)
    saved = state.saved(algorithm, state.Made(algorithm))
    again = testing._through_a_file(saved)  # by the loader that takes nothing else
    restoring.load(Containers((6,), 3, 2, HPARAMS), again)
