"""Segments that public SWAD averages: set SWAD_UPSTREAM to a checkout of it.

https://github.com/khanrc/swad
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from swad_members import counted

UPSTREAM = os.environ.get("SWAD_UPSTREAM")
SCRIPT = Path(__file__).parents[1] / "public_swad.py"


@pytest.mark.skipif(not UPSTREAM, reason="SWAD_UPSTREAM names no checkout of SWAD")
def test_400_curves_average_the_same_segments(tmp_path):
    command = [sys.executable, str(SCRIPT), UPSTREAM, "400"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    rows = json.loads(done.stdout)
    assert len(rows) == 400
    for row in rows:
        assert counted(row) == row["members"], row
