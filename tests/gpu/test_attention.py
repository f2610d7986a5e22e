"""What needs a GPU: the Triton kernels in bfloat16, pinned stores that copy while others work, the encoder on CUDA."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cellfm_nb.encoder import Encoder, EncoderConfig
from cellfm_nb.seeds import rng, torch_rng
from cellfm_nb.stream import StreamingEncoder, TokenStore, online_softmax_attention, pick_backend
from cellfm_nb.stream.kernels import missing
from cellfm_nb.stream.store import stream_blocks

pytestmark = [pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
              pytest.mark.skipif(missing("cuda") is not None, reason=str(missing("cuda")))]


def draw(*shape, key="x"):
    return torch.randn(*shape, generator=torch_rng(0, "gpu", key)).cuda()


@pytest.mark.parametrize("d", [24, 32, 64, 128])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-5), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_triton_equals_sdpa_whatever_the_blocks(d, dtype, close):
    q, k, v = (draw(3, n, d, key=key).to(dtype) for n, key in ((257, "q"), (1000, "k"), (1000, "v")))
    exact = F.scaled_dot_product_attention(q.double(), k.double(), v.double())
    for size in (64, 129, 1000):
        blocks = ((k[:, i:i + size], v[:, i:i + size]) for i in range(0, 1000, size))
        out, lse = online_softmax_attention(q, blocks, backend="triton")
        assert (out.double() - exact).abs().max() < close
        assert torch.allclose(lse.double(), (q.double() @ k.double().mT / d**0.5).logsumexp(-1), atol=1e-2)


def test_a_log_count_bias_counts_keys_several_times():
    q, k, v = draw(2, 100, 64, key="q"), draw(2, 50, 64, key="k"), draw(2, 50, 64, key="v")
    count = torch.arange(1, 51, device="cuda")
    out, _ = online_softmax_attention(q, [(k, v, count.float().log().expand(2, 1, 50))], backend="triton")
    many = [part.repeat_interleave(count, dim=1) for part in (k, v)]
    assert torch.allclose(out, F.scaled_dot_product_attention(q, *many), atol=1e-5)


@pytest.mark.parametrize("kind", ["memory", "pinned", "disk"])
def test_stores_keep_rows_and_streams_keep_order(kind, tmp_path):
    values = draw(5000, 64).bfloat16()
    with TokenStore(5000, 64, torch.bfloat16, kind, "cuda", tmp_path) as store:
        for i in range(0, 5000, 700):
            store.write(i, values[i:i + 700])
        for size in (333, 5000):
            parts = []
            for rows, in stream_blocks((store,), size):
                torch.cuda._sleep(1_000_000)  # the present block is slow: the next must wait its turn
                parts.append(rows + 0)
            assert torch.equal(torch.cat(parts), values)


@pytest.mark.parametrize("way", [{"mode": "sdpa"}, {"mode": "online"}, {"store": "pinned"}, {"store": "disk"},
                                 {"mode": "online", "backend": "torch"}], ids=str)
@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-4), (torch.bfloat16, 5e-2)])
def test_streamed_equals_dense_on_a_cpu(way, dtype, close):
    encoder = Encoder(EncoderConfig(width=64, depth=2, heads=2), seed=1).eval()
    volume = rng(0, "gpu").normal(size=(24, 96, 90)).astype(np.float32)
    with torch.no_grad():
        dense = encoder(torch.from_numpy(volume)[None, None]).patches[0].numpy()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    streamer = StreamingEncoder(encoder.cuda(), dtype=dtype, q_block=100, kv_block=170, **way)
    assert streamer.plan(volume.shape).backend == pick_backend("cuda", way.get("backend", "auto"))
    assert np.abs(streamer.encode(volume, progress=False).patches.reshape(dense.shape) - dense).max() < close
