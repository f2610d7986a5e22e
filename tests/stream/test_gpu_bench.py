"""What a GPU will be asked runs here at sizes that mean nothing, so that no minute of a GPU is lost to a mistake."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from cellfm_nb.bench import gpu

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="here the bench itself runs")


def test_every_row_comes_and_says_nothing_of_targets_but_agreement():
    rows = list(gpu.rows())
    assert [row.metric for row in rows].count("TFLOP/s") == 2 and "1st percentile" in rows[-1].metric
    assert all(np.isfinite([row.ours, *row.peers.values()]).all() for row in rows)
    assert {row.metric for row in rows if row.target is not None} == {"max difference"} and all(
        row.ok for row in rows if row.target is not None)


def test_the_volume_is_the_same_however_it_is_read():
    volume = gpu.Noise((70, 80, 90))
    whole = volume[0:70, 0:80, 0:90]
    assert np.array_equal(volume[8:70, 60:80, 0:90], whole[8:70, 60:80]) and whole.std() > 0.9


def test_the_kernel_is_asked_as_on_a_gpu():
    pytest.importorskip("triton", reason="triton is not installed: pip install 'cellfm_nb[gpu]'")
    code = ("from cellfm_nb.bench import gpu; gpu.pick_backend = lambda device: 'triton'; "
            "print([row.ok for row in gpu.attention_rows('cpu', gpu.DRY)])")
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "TRITON_INTERPRET": "1"},
                          capture_output=True, text=True)
    assert done.stdout.strip() == "[True, None, True, None]", done.stderr[-2000:]
