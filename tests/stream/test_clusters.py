"""The approximation is exact where it must be, close where it says so, and knows when it is not (I7)."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cellfm_nb.encoder import Encoder, EncoderConfig
from cellfm_nb.seeds import rng, torch_rng
from cellfm_nb.stream import clusters as module
from cellfm_nb.stream.attention import online_softmax_attention
from cellfm_nb.stream.clusters import Fit, collect, lloyd, nearest, probe_mass, represent
from cellfm_nb.stream.encode import StreamingEncoder
from cellfm_nb.stream.estimate import SAFETY, estimate
from cellfm_nb.stream.plan import attended, plan

SMALL = Fit(probes=32, heavy=8, sample=400, iterations=3)


def draw(*shape, key="x"):
    return torch.randn(*shape, generator=torch_rng(0, "clusters", key))


def blocks_of(k, v, size=97):
    return lambda: ((k[:, i:i + size], v[:, i:i + size]) for i in range(0, k.shape[1], size))


def approximate(q, k, v, clusters, fit=SMALL, first=1):
    few = represent(blocks_of(k, v), q[:, :fit.probes], k.shape[1], first, clusters, q.shape[-1] ** -0.5,
                    torch_rng(1), fit)
    return online_softmax_attention(q, [tuple(few)])[0], few


@pytest.fixture(scope="module")
def bright():
    """Keys of an image with few bright tokens: a broad background, and a few far keys that some queries look for."""
    k, v, q = draw(2, 1500, 16, key="k"), draw(2, 1500, 16, key="v"), draw(2, 200, 16, key="q")
    few = torch.randperm(1500, generator=torch_rng(2))[:12]
    k[:, few] = 3.0 * k[:, few] + 2.0
    v[:, few] += 4.0
    return q * 1.5, k, v


def test_identical_keys_make_it_exact():
    base_k, base_v = draw(2, 5, 8, key="k"), draw(2, 5, 8, key="v")
    pick = torch.randint(0, 5, (600,), generator=torch_rng(0))
    q, k, v = draw(2, 50, 8, key="q"), base_k[:, pick], base_v[:, pick]
    out, _ = approximate(q, k, v, clusters=64)
    assert torch.allclose(out, F.scaled_dot_product_attention(q, k, v), atol=1e-5)


def test_as_many_representatives_as_keys_make_it_exact(bright):
    q, k, v = bright
    out, few = approximate(q, k, v, clusters=1500)
    assert few.k.shape[1] == 1500 and torch.allclose(out, F.scaled_dot_product_attention(q, k, v), atol=1e-5)


def error_of(out, bright):
    exact = F.scaled_dot_product_attention(*bright)
    return float((out - exact).norm() / exact.norm())


def test_every_key_is_in_one_representative(bright):
    q, k, v = bright
    _, few = approximate(q, k, v, clusters=64)
    count = few.bias.exp()
    assert torch.allclose(count.sum(-1), torch.tensor(1500.0)) and few.k.shape[1] == 1 + 8 + 64
    total = (count.transpose(1, 2) * few.v).sum(1)  # values are summed, none forgotten
    assert torch.allclose(total, v.sum(1), atol=1e-2)
    assert (few.k[:, 0] == k[:, 0]).all() or (few.k[:, :9] == k[:, :1]).all(-1).any(1).all()  # CLS stays itself


def test_control_without_the_log_count_it_is_wrong(bright):
    """Mutation: forget the bias, and a cluster of a hundred keys weighs as much as one key."""
    q, k, v = bright
    out, few = approximate(q, k, v, clusters=64)
    forgotten, _ = online_softmax_attention(q, [(few.k, few.v, few.bias.clamp(max=0))])
    assert error_of(out, bright) < 0.25 and error_of(forgotten, bright) > 2 * error_of(out, bright)


def test_fitting_where_attention_looks_is_what_helps(bright, monkeypatch):
    """Control: plain k-means of the same size, every key alike, as the finding says."""
    q, k, v = bright
    ours = error_of(approximate(q, k, v, clusters=32)[0], bright)
    monkeypatch.setattr(module, "probe_mass", lambda blocks, probes, rows, scale: torch.full((2, 1500), 1 / 1500))
    plain = error_of(approximate(q, k, v, clusters=32, fit=Fit(32, 0, 400, 3))[0], bright)
    assert ours < 0.7 * plain


def test_more_clusters_less_error(bright):
    errors = [error_of(approximate(*bright, clusters=m)[0], bright) for m in (8, 64, 512)]
    assert errors[0] > errors[1] > errors[2]


def test_masses_are_the_softmax(bright):
    q, k, v = bright
    mass = probe_mass(blocks_of(k, v), q, 1500, 0.25)
    assert torch.allclose(mass, (q @ k.transpose(1, 2) * 0.25).softmax(-1).mean(1), atol=1e-6)


def test_collects_rows_in_the_order_asked(bright):
    _, k, v = bright
    rows = torch.stack([torch.randint(0, 1500, (40,), generator=torch_rng(h)) for h in range(2)])
    found = collect(blocks_of(k, v), rows)
    for part, whole in zip(found, (k, v), strict=True):
        assert torch.equal(part, torch.stack([whole[h, rows[h]] for h in range(2)]))


def test_lloyd_is_as_good_as_scikit_learn():
    from sklearn.cluster import KMeans

    centres = 5 * draw(1, 6, 4, key="centres")
    points = (centres[:, torch.arange(600) % 6] + 0.3 * draw(1, 600, 4, key="noise"))
    best = min(float((points[0] - found[0, nearest(points, found)[0]]).square().sum())
               for found in (lloyd(points, 6, 10, torch_rng(s)) for s in range(8)))
    assert best < 1.05 * KMeans(6, n_init=8, random_state=0).fit(points[0].numpy()).inertia_


@pytest.fixture(scope="module")
def sharp():
    """An encoder whose heads look somewhere, and a volume with something to look at: 1,440 tokens."""
    encoder = Encoder(EncoderConfig(width=32, depth=2, heads=2, stem_channels=6), seed=1).eval()
    with torch.no_grad():
        for block in encoder.blocks:
            block.attention.qkv.weight.add_(0.25 * torch.randn(96, 32, generator=torch_rng(0, "sharp")))
    volume = rng(0, "sharp").normal(size=(40, 96, 96)).astype(np.float32)
    for z, y, x in rng(1, "sharp").integers(4, 36, size=(20, 3)):
        volume[z - 2:z + 2, 2 * y:2 * y + 6, 2 * x:2 * x + 6] += 15
    return encoder, volume


def cosines(a, b):
    return F.cosine_similarity(*(torch.from_numpy(f.patches).double().flatten(0, 2) for f in (a, b)), dim=1)


def test_estimate_tells_the_true_error(sharp):
    encoder, volume = sharp
    exact = StreamingEncoder(encoder, mode="online").encode(volume, progress=False)
    assert exact.error is None and exact.plan.exact
    for m, fit in ((4, Fit(heavy=0)), (16, SMALL), (128, SMALL)):
        close = StreamingEncoder(encoder, mode="clusters", clusters=m, tolerance=None, fit=fit).encode(
            volume, progress=False)
        true = 1 - float(cosines(exact, close).mean())
        assert true / SAFETY < 1 - close.error.mean < SAFETY * true
        assert close.error.error > 0.9 * (1 - float(cosines(exact, close).quantile(0.01)))  # I7: believed >= true
        assert np.abs(exact.saliency - close.saliency).max() < 0.02 and f"{m} clusters" in close.said


def test_past_the_tolerance_it_grows_then_is_exact_and_says_so(sharp):
    encoder, volume = sharp
    exact = StreamingEncoder(encoder, mode="online").encode(volume, progress=False)
    loose = StreamingEncoder(encoder, mode="clusters", clusters=8, tolerance=1.0).encode(volume, progress=False)
    assert loose.error is not None and "exactly" not in loose.said and "tolerance" not in loose.said
    strict = StreamingEncoder(encoder, mode="clusters", clusters=8, tolerance=1e-9).encode(volume, progress=False)
    assert "8 clusters" in strict.said and "32 clusters" in strict.said and strict.said.count("over the tolerance") == 2
    assert strict.said.endswith("every key counted") and strict.error is None
    assert np.abs(strict.patches - exact.patches).max() < 1e-5


@pytest.mark.parametrize("changes", [dict(position="rope"), dict(position="sincos"), dict(registers=3)], ids=str)
def test_encoders_with_positions_get_an_error_that_is_held(sharp, changes):
    _, volume = sharp
    encoder = Encoder(EncoderConfig(width=32, depth=2, heads=2, stem_channels=6, **changes), seed=1).eval()
    exact = StreamingEncoder(encoder, mode="online").encode(volume, progress=False)
    close = StreamingEncoder(encoder, mode="clusters", clusters=64, tolerance=0.01).encode(volume, progress=False)
    assert 1 - float(cosines(exact, close).quantile(0.01)) < 0.01
    assert np.abs(exact.cls - close.cls).max() < 0.05


def test_same_seed_same_features_whatever_the_blocks(sharp):
    encoder, volume = sharp
    fixed = dict(mode="clusters", clusters=16, tolerance=None)
    runs = [StreamingEncoder(encoder, **fixed, **way).encode(volume, progress=False) for way
            in ({}, {"q_block": 100, "kv_block": 333}, {"store": "disk"})]
    assert all(np.abs(run.patches - runs[0].patches).max() < 1e-3 for run in runs[1:])


def test_estimate_of_equal_descriptors_is_no_error():
    same = estimate(draw(300, 8), draw(300, 8))
    assert same.error < 1e-12 and same.share == 1 and "300 sampled tokens" in str(same)


def test_three_hundred_times_fewer_operations_at_a_million_tokens():
    """The formula of the findings, with our heavy keys, probes and carried queries: also at the width of ViT-S."""
    n = 1_000_000
    for d in (128, 384):
        exact, few = 4.0 * n * n * d + 24.0 * n * d * d, 4.0 * n * d * attended(256) + 24.0 * n * d * d
        assert exact / few > 300
    config = EncoderConfig()
    p = plan((400, 800, 800), config, mode="clusters", flops_per_s=1e11, memory_bytes=2**40)
    assert p.tokens == n and p.choices[0].flops / p.flops > 300
