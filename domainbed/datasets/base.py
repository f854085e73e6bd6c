"""What a dataset is: a list of environments, each a sequence of (x, y)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from domainbed.registry import InputError

if TYPE_CHECKING:
    from domainbed.hparams_registry import HParam


class MultipleDomainDataset:
    """Samples of the same classes from several environments, also called domains.

    A subclass is built as `cls(root, test_envs, hparams)`, root being --data_dir, and sets
    `datasets` (for each environment something with a length and items (x float32, y)),
    `input_shape` and `num_classes`. An environment whose items are augmented may have
    `evaluation()`, which returns the same samples without augmentation.

    KIND tells which datasets can be auxiliary to each other. NEEDS_FILES: reads --data_dir.
    """

    N_STEPS = 5001
    CHECKPOINT_FREQ = 100
    N_WORKERS = 8
    ENVIRONMENTS: Sequence[str] | None = None
    INPUT_SHAPE: tuple[int, ...] | None = None
    SMALL_IMAGES = False
    KIND = "other"
    NEEDS_FILES = False

    datasets: Sequence[Any]
    input_shape: tuple[int, ...]
    num_classes: int

    def __init__(
        self, root: str | Path | None, test_envs: Sequence[int], hparams: Mapping[str, Any]
    ) -> None:
        raise NotImplementedError(f"{type(self).__name__} must define its constructor")

    @staticmethod
    def hparam_space() -> list[HParam]:
        """Hyper-parameters that this dataset adds to the common ones or overrides."""
        return []

    @classmethod
    def check(cls, data_dir: str | Path | None) -> None:
        """Raise `InputError` unless the files that the constructor reads are under `data_dir`."""
        if cls.NEEDS_FILES:
            require_data_dir(cls.__name__, data_dir)

    def __len__(self) -> int:
        return len(self.datasets)

    def __getitem__(self, env: int) -> Any:
        return self.datasets[env]


def evaluation_view(environment: Any) -> Any:
    """The same samples at the same indices without augmentation."""
    view = getattr(environment, "evaluation", None)
    return environment if view is None else view()


def require_data_dir(name: str, data_dir: str | Path | None) -> Path:
    """The folder of --data_dir as a Path; raises `InputError` if it was not given or is none."""
    if data_dir is None:
        raise InputError(f"{name} reads files; say where its folder is with --data_dir")
    if not Path(data_dir).is_dir():
        raise InputError(
            f"--data_dir was given {str(data_dir)!r}, which is not a folder; "
            f"expected the one that holds the files of {name}"
        )
    return Path(data_dir)
