"""How often each segment counts in SWAD's average here."""

import math

import torch

from ratatouille_algorithms.trajectory import Code, Mean


def counted(row: dict) -> list[int]:
    """By the rule of its code, for a row of tests/golden/swad_members.json."""
    rule = Code(row["n_converge"], row["n_tolerance"], row["tolerance"])
    for i, loss in enumerate(row["losses"]):
        segment = Mean()
        for _ in range(1 + i % 3):  # how many iterates it has does not matter
            segment.add({"w": torch.eye(len(row["losses"]), dtype=torch.float64)[i]})
        rule.add(segment, loss)
    mean = rule.mean()
    counts = [round(mean.n * share) for share in mean.state["w"].tolist()]
    return [count // math.gcd(*counts) for count in counts]
