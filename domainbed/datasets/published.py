"""What is known of published datasets: their classes, and how many images each domain has."""

from __future__ import annotations

from collections.abc import Sequence

from domainbed.datasets.folders import abridged

_SPAWRIOUS = (25_344, 12_672, 12_672)

COUNTS: dict[str, dict[str, tuple[int, ...]]] = {
    "VLCS": {"": (1_415, 2_656, 3_282, 3_376)},
    "PACS": {"": (2_048, 2_344, 1_670, 3_929)},
    "OfficeHome": {"": (2_427, 4_365, 4_439, 4_357)},
    "TerraIncognita": {
        "in the papers": (4_879, 9_767, 4_020, 6_122),
        "as served today": (4_741, 9_736, 3_970, 5_883),
    },
    "DomainNet": {"": (48_129, 51_605, 72_266, 172_500, 172_947, 69_128)},
    "WILDSCamelyon": {"": (59_436, 34_904, 85_054, 129_838, 146_722)},
    "SpawriousO2O_easy": {"": _SPAWRIOUS},
    "SpawriousO2O_medium": {"": _SPAWRIOUS},
    "SpawriousO2O_hard": {"": _SPAWRIOUS},
    "SpawriousM2M_easy": {"": _SPAWRIOUS},
    "SpawriousM2M_medium": {"": _SPAWRIOUS},
    "SpawriousM2M_hard": {"": _SPAWRIOUS},
}
"""Images of each environment; some datasets are about in two versions."""

N_CLASSES = {
    "VLCS": 5,
    "PACS": 7,
    "OfficeHome": 65,
    "TerraIncognita": 10,
    "DomainNet": 345,
    "SVIRO": 7,
}

# fmt: off
CLASSES = {
    "VLCS": ("bird", "car", "chair", "dog", "person"),
    "PACS": ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person"),
    "OfficeHome": (
        "Alarm_Clock", "Backpack", "Batteries", "Bed", "Bike", "Bottle", "Bucket", "Calculator",
        "Calendar", "Candles", "Chair", "Clipboards", "Computer", "Couch", "Curtains", "Desk_Lamp",
        "Drill", "Eraser", "Exit_Sign", "Fan", "File_Cabinet", "Flipflops", "Flowers", "Folder",
        "Fork", "Glasses", "Hammer", "Helmet", "Kettle", "Keyboard", "Knives", "Lamp_Shade",
        "Laptop", "Marker", "Monitor", "Mop", "Mouse", "Mug", "Notebook", "Oven", "Pan",
        "Paper_Clip", "Pen", "Pencil", "Postit_Notes", "Printer", "Push_Pin", "Radio",
        "Refrigerator", "Ruler", "Scissors", "Screwdriver", "Shelf", "Sink", "Sneakers", "Soda",
        "Speaker", "Spoon", "TV", "Table", "Telephone", "ToothBrush", "Toys", "Trash_Can",
        "Webcam",
    ),
    "TerraIncognita": (
        "bird", "bobcat", "cat", "coyote", "dog", "empty", "opossum", "rabbit", "raccoon",
        "squirrel",
    ),
}
# fmt: on
"""The names of classes, of datasets that have few; sorted as labels are."""


def class_fault(name: str, classes: Sequence[str]) -> str | None:
    """How many classes a copy of a published dataset has, if not all of them; else None."""
    n = N_CLASSES.get(name, len(classes))
    if len(classes) == n:
        return None
    return f"{len(classes)} classes, expected {n}: {abridged(classes, most=10)}"


def missing_classes(name: str, classes: Sequence[str]) -> list[str]:
    """Published classes that a copy lacks, where their names are known; case does not count."""
    there = {each.lower() for each in classes}
    return [each for each in CLASSES.get(name, ()) if each.lower() not in there]


def count_fault(name: str, environments: Sequence[str], counts: Sequence[int]) -> str | None:
    """How many images a copy of a published dataset has, if not the published ones; else None."""
    versions = COUNTS.get(name, {}).values()
    if not versions or tuple(counts) in versions:
        return None
    totals = " or ".join(f"{sum(version):,}" for version in versions)
    wrong = [
        environment
        for env, environment in enumerate(environments)
        if all(version[env] != counts[env] for version in versions)
    ]
    which = ", ".join(wrong) or "the domains, which are of different versions"
    return f"{sum(counts):,} images, expected {totals}; look at {which}"
