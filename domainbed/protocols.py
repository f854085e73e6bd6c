"""Protocols: named choices under which numbers can be compared.

`default` has DomainBed's spaces of 2024 and measures validation splits on un-augmented images.
`domainbed-2020` and `domainbed-2024` are the public benchmark's before and after mid-2024, with
validation splits of training domains measured on augmented images and MNIST domains partitioned
by the run's seed. `ratatouille` is that of Rame et al. 2023 (arXiv 2212.10445).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from domainbed.hparams_registry import Plain
from domainbed.registry import UnknownNameError


@dataclass(frozen=True)
class Protocol:
    """Choices that numbers depend on; `steps` and `checkpoint_freq` by dataset."""

    name: str
    hparams: Mapping[str, Plain] = field(default_factory=dict)
    steps: Mapping[str, int] = field(default_factory=dict)
    checkpoint_freq: Mapping[str, int] = field(default_factory=dict)
    val_augment: bool = False
    partition_by_seed: bool = False
    pooled_validation: bool = False
    """Whether a greedy search counts all validation samples alike, not all domains."""


DEFAULT = "default"
_PAPER = ("PACS", "OfficeHome", "TerraIncognita")
_PLAIN_RESNET = {"resnet50_augmix": False, "freeze_bn": True}

PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(DEFAULT),
        Protocol("domainbed-2020", _PLAIN_RESNET, val_augment=True, partition_by_seed=True),
        Protocol("domainbed-2024", val_augment=True, partition_by_seed=True),
        Protocol(
            "ratatouille",
            {**_PLAIN_RESNET, "lp_steps": 201},  # its code counts after the step
            steps={"DomainNet": 15001},
            checkpoint_freq={**dict.fromkeys(_PAPER, 100), "VLCS": 50, "DomainNet": 500},
            pooled_validation=True,
        ),
    )
}


def set_name(name: str | None) -> str | None:
    """The name of a protocol as an argument of a job, which leaves the default one out."""
    return None if name == DEFAULT else name


def get_protocol(name: str | None) -> Protocol:
    """Look a protocol up; None is the default one."""
    try:
        return PROTOCOLS[name or DEFAULT]
    except KeyError:
        raise UnknownNameError("protocol", name, PROTOCOLS) from None
