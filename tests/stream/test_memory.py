"""Peak memory stays within what the plan said, and with a disk store it does not grow with the volume (I6)."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="memory is read from Linux's /proc")

CHILD = """
import sys, numpy as np, torch
from cellfm_nb.encoder import Encoder, EncoderConfig
from cellfm_nb.stream.encode import StreamingEncoder
mode, store, z = sys.argv[1], sys.argv[2], int(sys.argv[3])
class Empty:  # a volume that takes no memory
    def __init__(self, *shape): self.shape = shape
    def __getitem__(self, box): return np.zeros([s.stop - s.start for s in box], np.float32)
encoder = Encoder(EncoderConfig(patch=(8, 8, 8), width=192, depth=1, heads=3, stem="patch")).eval()
streamer = StreamingEncoder(encoder, store=store, mode=mode, q_block=512, kv_block=1024, clusters=64, tolerance=None)
StreamingEncoder(encoder, mode="online").encode(Empty(8, 64, 64), progress=False)  # what torch itself takes
volume = Empty(z, 256, 256)
def peak():  # of this process alone; getrusage starts at what its parent held
    return 1024 * int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
before = peak()
streamer.encode(volume, progress=False, slab=lambda *slab: None)
print(peak() - before, streamer.plan(volume.shape, collect=False).peak_bytes)
"""


def measured(mode, store, z):
    """Return bytes used at the peak and bytes planned; in a process of its own, whose memory only grows.

    Memory that is freed goes back to the system at once there, so that what is measured is what is held.
    """
    done = subprocess.run([sys.executable, "-c", CHILD, mode, store, str(z)], capture_output=True, text=True,
                          env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "262144"})
    assert done.returncode == 0, done.stderr[-1000:]
    return map(int, done.stdout.split())


@pytest.mark.parametrize(("mode", "store"), [("online", "memory"), ("online", "disk"), ("clusters", "disk")])
def test_peak_is_within_the_plan(mode, store):
    used, planned = measured(mode, store, 32)  # 4,096 tokens
    assert 0.1 * planned < used < 1.1 * planned


def test_with_a_disk_store_it_does_not_grow():
    (small, _), (large, _) = (measured("online", "disk", z) for z in (32, 96))
    assert large < 1.1 * small
