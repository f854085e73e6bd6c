"""Pools of ingredients: fine-tuned weights that people share and recycle, each with a card.

What planning needs is here and imports no torch; `sources` adds, `verify` measures, `hub` shares.
"""

from ratatouille_algorithms.pool.cards import CARD, FILES, Card, is_same_dataset
from ratatouille_algorithms.pool.lock import LOCK
from ratatouille_algorithms.pool.pool import (
    Ingredient,
    entries,
    get,
    is_pool,
    open_one,
    pinned,
    read,
    usable,
    why_not,
)

__all__ = [
    "CARD",
    "FILES",
    "LOCK",
    "Card",
    "Ingredient",
    "entries",
    "get",
    "is_pool",
    "is_same_dataset",
    "open_one",
    "pinned",
    "read",
    "usable",
    "why_not",
]
