"""Losses at drawn hyper-parameters are those of public DomainBed."""

import json

import pytest
import torch
from conftest import GOLDEN
from public_updates import run

ROWS = json.loads((GOLDEN / "public_draws.json").read_text())


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['algorithm']}-{row['draw_seed']}")
def test_losses_at_drawn_hparams(row):
    actual = run(row)
    for step, expected in enumerate(row["updates"]):
        assert actual["updates"][step] == pytest.approx(expected, rel=2e-4, abs=1e-5), step
    torch.testing.assert_close(actual["logits"], row["logits"], rtol=1e-3, atol=1e-3)
