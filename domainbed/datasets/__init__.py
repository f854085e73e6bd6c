"""Datasets by name. Classes load when asked for, so listing names costs nothing.

Adding a dataset takes one decorator::

    from domainbed.datasets import MultipleDomainDataset, register

    @register()
    class Mine(MultipleDomainDataset):
        ENVIRONMENTS = ["day", "night"]

        def __init__(self, root, test_envs, hparams):
            self.datasets = [...]  # one for each environment, items (x, y)
            self.input_shape, self.num_classes = (3, 224, 224), 7

A folder of images needs no class: `<data_dir>/<name>/<domain>/<class>/<image>` is dataset `name`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from domainbed.datasets.base import MultipleDomainDataset
from domainbed.registry import InputError, Registry, UnknownNameError

if TYPE_CHECKING:
    from domainbed.hparams_registry import HParam

# fmt: off
DATASETS = [
    "Debug28", "Debug224", "ColoredMNIST", "RotatedMNIST", "VLCS", "PACS", "OfficeHome",
    "TerraIncognita", "DomainNet", "SVIRO", "WILDSCamelyon", "WILDSFMoW", "SpawriousO2O_easy",
    "SpawriousO2O_medium", "SpawriousO2O_hard", "SpawriousM2M_easy", "SpawriousM2M_medium",
    "SpawriousM2M_hard",
]
"""DomainBed's datasets, in the order of its tables."""

_MODULES = {
    "debug": ["Debug28", "Debug224"],
    "mnist": ["ColoredMNIST", "RotatedMNIST"],
    "image_folder": ["VLCS", "PACS", "OfficeHome", "TerraIncognita", "DomainNet", "SVIRO"],
    "wilds_domains": ["WILDSCamelyon", "WILDSFMoW"],
    "spawrious": [
        "SpawriousO2O_easy", "SpawriousO2O_medium", "SpawriousO2O_hard",
        "SpawriousM2M_easy", "SpawriousM2M_medium", "SpawriousM2M_hard",
    ],
    "digits": ["RotatedDigits", "InkDigits", "NoisyDigits", "PlacedDigits"],
}
# fmt: on

REGISTRY: Registry[type[MultipleDomainDataset]] = Registry("dataset", home="domainbed.datasets")
register = REGISTRY.register

for _module, _names in _MODULES.items():
    for _name in _names:
        REGISTRY[_name] = f"domainbed.datasets.{_module}:{_name}"


def get_dataset_class(name: str) -> type[MultipleDomainDataset]:
    """Look a registered dataset up; raises `UnknownNameError` with the nearest names."""
    return REGISTRY[name]


def num_environments(name: str) -> int:
    """The number of environments of a registered dataset."""
    return len(environments(name))


def is_small(name: str) -> bool:
    """Whether a dataset's images are small (28 x 28); False for an unknown name."""
    return name in REGISTRY and getattr(REGISTRY[name], "SMALL_IMAGES", False)


def hparam_space(name: str) -> list[HParam]:
    """The hyper-parameters that a dataset overrides or adds; none for an unknown name."""
    return getattr(REGISTRY[name], "hparam_space", list)() if name in REGISTRY else []


def find(name: str, data_dir: str | Path | None) -> type[MultipleDomainDataset]:
    """The registered dataset of that name, or one made of the folder `<data_dir>/<name>`.

    Raises `UnknownNameError` when there is neither.
    """
    if name in REGISTRY:
        return REGISTRY[name]
    is_plain = name not in ("", "..") and Path(name).name == name
    if data_dir is not None and is_plain and (Path(data_dir) / name).is_dir():
        from domainbed.datasets.image_folder import from_folder

        return from_folder(name, data_dir)
    where = "--data_dir" if data_dir is None else str(data_dir)
    hint = f"A folder of that name in {where} would also do."
    raise UnknownNameError("dataset", name, REGISTRY, hint)


def environments(name: str, data_dir: str | Path | None = None) -> list[str]:
    """The names of a dataset's environments, in the order of --test_envs."""
    names = find(name, data_dir).ENVIRONMENTS
    if not names:
        raise InputError(f"Dataset {name!r} names no environments; set ENVIRONMENTS in its class")
    return list(names)


def needs_files(name: str) -> bool:
    """Whether a dataset reads files of --data_dir, as one that is not registered must."""
    return name not in REGISTRY or REGISTRY[name].NEEDS_FILES


def check(name: str, data_dir: str | Path | None) -> None:
    """Raise `InputError` if a dataset's files are not there or not as expected; quick, no torch."""
    cls = find(name, data_dir)
    if hasattr(cls, "check"):  # classes written for public DomainBed need no base of ours
        cls.check(data_dir)


def available(kind: str, data_dir: str | Path | None) -> list[str]:
    """Registered datasets of a KIND that pass `check`, in order of registration."""
    return [
        name
        for name in REGISTRY
        if getattr(REGISTRY[name], "KIND", None) == kind and _passes(name, data_dir)
    ]


@lru_cache
def _passes(name: str, data_dir: str | Path | None) -> bool:
    try:
        check(name, data_dir)
    except InputError:
        return False
    return True


def make(
    name: str, data_dir: str | Path | None, test_envs: Sequence[int], hparams: Mapping[str, Any]
) -> MultipleDomainDataset:
    """Check and build a dataset; test env -1 stands for none.

    Random datasets (Debug*, *MNIST) draw from torch's global generator: seed it first.
    """
    cls = find(name, data_dir)
    names = environments(name, data_dir)
    for env in test_envs:
        if not -1 <= env < len(names):
            listed = ", ".join(f"{i} {env_name}" for i, env_name in enumerate(names))
            raise InputError(
                f"--test_envs was given {env}, but {name} has environments 0 to "
                f"{len(names) - 1} ({listed}); give one of these, or -1 for none"
            )
    check(name, data_dir)
    return cls(data_dir, list(test_envs), hparams)


def __getattr__(name: str) -> type[MultipleDomainDataset]:
    """`from domainbed.datasets import PACS` loads the module of that class only."""
    if name in REGISTRY._items:
        return REGISTRY[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
