"""Freed memory stays with the process: its next tensors come without the system's page faults."""

import os
import platform
import subprocess
import sys

import pytest

COUNT = """
import ctypes, resource, torch
from cellfm_nb.encoder.host import MMAP_THRESHOLD, keep_freed_memory
ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, 65536)  # whatever the heap looks like: all goes back
kept = keep_freed_memory() if {keep} else None
def work():
    for _ in range(20):
        [torch.ones(2**20) for _ in range(10)]  # 40 MiB in pieces of 4, freed at once
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_freed_memory_is_not_cleared_again() -> None:
    def faults(keep: bool, **chosen: str) -> tuple[str, int]:
        env = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")} | chosen
        said, count = subprocess.run([sys.executable, "-c", COUNT.format(keep=keep)], capture_output=True, text=True,
                                     check=True, env=env).stdout.split()
        return said, int(count)

    (said, kept), (_, freed) = faults(True), faults(False)
    assert said == "True"
    assert kept < 100  # 200,000 pages are cleared again otherwise
    assert freed > 10 * (kept + 100)
    assert faults(True, MALLOC_TRIM_THRESHOLD_="131072") == ("False", pytest.approx(freed, rel=0.1))
