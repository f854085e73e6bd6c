"""Algorithms by name; what is known of one before its class is imported is a `Method`.

Adding an algorithm takes one decorator::

    from domainbed.algorithms import ERM, register
    from domainbed.hparams_registry import HParam

    @register(hparams=[HParam("mine_lambda", 1.0, lambda r: 10 ** r.uniform(-1, 1))])
    class Mine(ERM):
        ...
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from domainbed.algorithms.builtin import BUILTIN
from domainbed.hparams_registry import SPACES, Space
from domainbed.registry import Registry, resolve

if TYPE_CHECKING:
    from domainbed.jobs import Job, Need

# fmt: off
ALGORITHMS = [
    "ERM", "ERMPlusPlus", "Fish", "IRM", "GroupDRO", "Mixup", "MLDG", "CORAL", "MMD", "DANN",
    "CDANN", "MTL", "SagNet", "ARM", "VREx", "RSC", "SD", "ANDMask", "SANDMask", "IGA", "SelfReg",
    "Fishr", "TRM", "IB_ERM", "IB_IRM", "CAD", "CondCAD", "Transfer", "CausIRL_CORAL",
    "CausIRL_MMD", "EQRM", "RDM", "ADRMX", "URM",
]
"""DomainBed's algorithms, in the order of its tables."""
# fmt: on

C = TypeVar("C", bound=type)


def no_needs(job: Job) -> list[Need]:
    """Most algorithms need no other run."""
    return []


TRAIN = "domainbed.engine.trainer:train"


@dataclass(frozen=True)
class Method:
    """What the benchmark knows of an algorithm without importing torch.

    cls: the class, or "module:Class". needs: the runs that a job must find finished. execute:
    what a run does, as "module:function" of a `domainbed.engine.run.Run`; the training loop unless
    the algorithm is made from finished runs. takes: the optional arguments of a sweep that are
    part of its runs; one that takes "n_hparams" is made of all hparams seeds at once.
    """

    cls: type | str
    needs: Callable[[Job], list[Need]] = no_needs
    execute: str = TRAIN
    takes: tuple[str, ...] = ()

    channels_last: bool = False
    """Whether parameters of convolutions may lie channels last, which is faster on many devices.

    Flat views of such parameters and of their gradients fail, so a class has to say so.
    """

    @property
    def trains(self) -> bool:
        """Whether a run trains, rather than being made from finished runs."""
        return self.execute == TRAIN

    def load(self) -> type:
        """Import the class."""
        return resolve(self.cls) if isinstance(self.cls, str) else self.cls


REGISTRY: Registry[Method] = Registry("algorithm", home="domainbed.algorithms")


def add(name: str, cls: type | str, hparams: Space = (), **method: Any) -> None:
    """Register an algorithm by name; `method` holds further fields of `Method`."""
    REGISTRY[name] = Method(cls, **method)
    SPACES[name] = hparams


def register(name: str | None = None, hparams: Space = (), **method: Any) -> Callable[[C], C]:
    """Return a class decorator that registers an algorithm with its hparam table."""

    def decorate(cls: C) -> C:
        add(name or cls.__name__, cls, hparams, **method)
        return cls

    return decorate


def get_method(name: str) -> Method:
    """Look an algorithm up; raises `UnknownNameError` with the nearest names."""
    return REGISTRY[name]


def get_algorithm_class(name: str) -> type:
    """The class of an algorithm, as DomainBed's function of this name."""
    return REGISTRY[name].load()


for _name, (_module, _hparams) in BUILTIN.items():
    add(_name, f"domainbed.algorithms.{_module}:{_name}", _hparams, channels_last=True)


def __getattr__(name: str) -> type:
    """`from domainbed.algorithms import ERM` imports torch only when a class is asked for."""
    if name == "Algorithm":
        return resolve("domainbed.algorithms.base:Algorithm")
    if name in REGISTRY._items:
        return get_algorithm_class(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
