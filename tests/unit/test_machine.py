"""Freed memory is kept for a job, and given back after it."""

import subprocess
import sys

import pytest

COUNT = """
import ctypes, resource, sys
from contextlib import nullcontext
import torch
from domainbed.lib.machine import freed_memory_kept

def rss():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

before = rss()
with freed_memory_kept() if sys.argv[1] == "kept" else nullcontext():
    for i in range(20):
        if i == 10:
            first = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(20_000_000)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - first
print(faults, rss() - before)
"""


def measure(how):
    command = [sys.executable, "-c", COUNT, how]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    faults, more = map(int, out.split())
    return faults, more


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts pages as Linux does")
def test_a_tensor_takes_the_pages_of_the_last_one_until_the_end():
    returned, _ = measure("returned")
    kept, more = measure("kept")
    assert kept < returned / 10
    assert more < 40e6  # of the 80 MB of a tensor
