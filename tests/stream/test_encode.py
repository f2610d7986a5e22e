"""Streamed equals dense, whatever the blocks, chunks and stores (I2, I5), and nothing is tiled."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import zarr

from cellfm_nb.encoder import Encoder, EncoderConfig
from cellfm_nb.errors import InputError
from cellfm_nb.seeds import rng
from cellfm_nb.stream import embed, encode, run, stem
from cellfm_nb.stream.encode import StreamingEncoder

WAYS = [{}, {"mode": "online", "q_block": 7, "kv_block": 3}, {"mode": "online", "q_block": 1000, "kv_block": 1},
        {"mode": "sdpa", "q_block": 1}, {"store": "disk", "q_block": 64, "kv_block": 50},
        {"store": "memory", "mode": "online", "q_block": 143, "kv_block": 142}]


@torch.no_grad()
def largest_difference(features, encoder, volume):
    dense = encoder(torch.from_numpy(np.asarray(volume[:]))[None, None])
    return max(np.abs(features.patches.reshape(-1, encoder.config.width) - dense.patches[0].numpy()).max(),
               np.abs(features.saliency.reshape(-1, encoder.config.heads) - dense.saliency[0].numpy().T).max(),
               np.abs(features.cls - dense.cls[0].numpy()).max())


def small_chunks(monkeypatch, voxels):
    original = encode.plan

    def planned(*args, **kwargs):
        from dataclasses import replace

        from cellfm_nb.stream.plan import chunk_of

        plan, config = original(*args, **kwargs), args[1]
        return replace(plan, chunk=chunk_of(plan.grid, config.patch, voxels))

    monkeypatch.setattr(encode, "plan", planned)


@pytest.mark.parametrize("way", WAYS)
def test_streamed_equals_dense(encoder, volume, way):
    features = StreamingEncoder(encoder, **way).encode(volume, progress=False)
    assert features.patches.shape == (4, 5, 7, 32) and features.saliency.shape == (4, 5, 7, 4)
    assert features.patches.dtype == features.saliency.dtype == features.cls.dtype == np.float32
    assert largest_difference(features, encoder, volume) < 1e-5


@pytest.mark.parametrize("changes", [dict(position="sincos"), dict(position="learned", registers=2), dict(mlp="swiglu"),
                                     dict(position="rope", registers=2, qk_norm=True)], ids=str)
def test_every_kind_of_encoder_streams(volume, monkeypatch, changes):
    small_chunks(monkeypatch, 2_000)
    other = Encoder(EncoderConfig(width=32, depth=2, heads=4, **changes), seed=1).eval()
    for way in WAYS[:3]:
        features = StreamingEncoder(other, **way).encode(volume, progress=False)
        assert largest_difference(features, other, volume) < 1e-5


@pytest.mark.parametrize("voxels", [1, 2_000, 9_000])
def test_chunks_leave_no_seam(encoder, volume, monkeypatch, voxels):
    small_chunks(monkeypatch, voxels)
    assert largest_difference(StreamingEncoder(encoder).encode(volume, progress=False), encoder, volume) < 1e-5


def test_control_without_a_halo_there_are_seams(encoder, volume, monkeypatch):
    """Mutation: a chunk is read without what lies around it."""
    small_chunks(monkeypatch, 2_000)
    whole = embed.cut
    monkeypatch.setattr(embed, "cut", lambda grid, chunk, halo, *how: whole(grid, chunk, (0, 0, 0), *how))
    assert largest_difference(StreamingEncoder(encoder).encode(volume, progress=False), encoder, volume) > 1e-3


@pytest.mark.parametrize(("patch", "lateral_um"), [((4, 8, 8), 0.1), ((4, 8, 8), 0.2), ((3, 5, 4), 0.1)])
def test_tile_by_tile_the_filters_give_the_tokens_of_the_stem(patch, lateral_um, monkeypatch):
    """Rows of voxels are filtered in pairs that are averaged later (.1 um), that are not (.2 um), or not in pairs."""
    monkeypatch.setattr(stem, "TILE", 1000)
    own = Encoder(EncoderConfig((0.25, lateral_um, lateral_um), patch, 16, 1, 2, stem_channels=5), seed=1).stem
    x = torch.from_numpy(rng(0, "tiles").normal(size=[3 * patch[0], 4 * patch[1], 5 * patch[2]]).astype(np.float32))
    with torch.no_grad():
        whole, grid = own(x[None, None])
        tiles = stem.filter_tokens(own, F.pad(x, [m for m in own.reach[::-1] for _ in "<>"]))
    assert tiles.shape == (*grid, 16) and torch.allclose(tiles.flatten(0, 2), whole[0], atol=1e-5)


def test_control_keys_left_out_are_noticed(encoder, volume, monkeypatch):
    """The original's kernel reads the first keys of each block only: on a real encoder the features change."""
    whole = run.online_softmax_attention
    monkeypatch.setattr(run, "online_softmax_attention",
                        lambda q, blocks, *how: whole(q, ((k[:, :2], v[:, :2]) for k, v in blocks), *how))
    features = StreamingEncoder(encoder, mode="online", kv_block=32).encode(volume, progress=False)
    assert largest_difference(features, encoder, volume) > 1e-2


def test_control_a_transposed_grid_is_noticed(encoder, volume):
    features = StreamingEncoder(encoder).encode(volume, progress=False)
    swapped = encode.Features(features.patches.transpose(2, 1, 0, 3), features.saliency, features.cls, features.plan)
    assert largest_difference(swapped, encoder, volume) > 1e-2


def test_reads_a_zarr_array_chunk_by_chunk(encoder, volume, tmp_path, monkeypatch):
    array = zarr.create_array(tmp_path / "v.zarr", shape=volume.shape, chunks=(8, 16, 16), dtype="float32")
    array[:] = volume
    small_chunks(monkeypatch, 2_000)
    assert largest_difference(StreamingEncoder(encoder).encode(array, progress=False), encoder, volume) < 1e-5


@pytest.mark.parametrize("shape", [(1, 1, 1), (4, 8, 8), (3, 100, 9)])
def test_any_size(encoder, shape):
    volume = np.ones(shape, np.float32)
    assert largest_difference(StreamingEncoder(encoder).encode(volume, progress=False), encoder, volume) < 1e-5


def test_saliency_is_a_probability(encoder, volume):
    total = StreamingEncoder(encoder).encode(volume, progress=False).saliency.sum((0, 1, 2))
    assert ((total > 0) & (total < 1)).all()  # the rest goes to CLS and the registers


def test_bfloat16_store_stays_close(encoder, volume):
    if encoder.config.stem == "dog":
        pytest.skip("its pooling does not exist in bfloat16 on a CPU")
    low = copy.deepcopy(encoder).bfloat16()
    features = StreamingEncoder(low, store="disk").encode(volume, progress=False)
    dense = StreamingEncoder(encoder).encode(volume, progress=False)
    assert np.median(np.abs(features.patches - dense.patches)) < 2e-2


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_voxels_are_refused(encoder, volume, bad):
    spoiled = volume.copy()
    spoiled[3, 20, 40] = bad
    with pytest.raises(InputError, match="NaN or infinite"):
        StreamingEncoder(encoder).encode(spoiled, progress=False)


def test_only_volumes(encoder):
    with pytest.raises(InputError, match="only a volume"):
        StreamingEncoder(encoder).encode(np.zeros((2, 3)), progress=False)


def test_log_length_temperature_scales_the_logits(encoder, volume):
    """I8: nothing at the length of the training; elsewhere the dense encoder with scaled queries."""
    plain = StreamingEncoder(encoder).encode(volume, progress=False)
    same = StreamingEncoder(encoder, native_tokens=140).encode(volume, progress=False)
    assert np.array_equal(same.patches, plain.patches)
    stretched, factor = copy.deepcopy(encoder), np.log(140) / np.log(20)
    with torch.no_grad():
        for block in stretched.blocks:
            block.attention.qkv.weight[:32] *= factor
            block.attention.qkv.bias[:32] *= factor
    warm = StreamingEncoder(encoder, native_tokens=20).encode(volume, progress=False)
    assert largest_difference(warm, stretched, volume) < 1e-5 < np.abs(warm.patches - plain.patches).max()


def test_slabs_are_the_features_piece_by_piece(encoder, volume):
    whole, slabs = StreamingEncoder(encoder).encode(volume, progress=False), {}
    told = StreamingEncoder(encoder).encode(volume, progress=False, planes=3,
                                            slab=lambda z, *parts: slabs.update({z: parts}))
    assert told.patches is None and sorted(slabs) == [0, 3] and np.array_equal(told.cls, whole.cls)
    for i, part in enumerate((whole.patches, whole.saliency)):
        assert np.array_equal(np.concatenate([slabs[0][i], slabs[3][i]]), part)


def test_hooks_that_look_at_all_tokens_are_refused():
    hooked = Encoder(EncoderConfig(width=16, depth=1, heads=2, stem="patch"))
    hooked.blocks[0].mlp.fc2.register_forward_pre_hook(lambda layer, given: None)  # as test-time registers do
    with pytest.raises(InputError, match="test-time registers"):
        StreamingEncoder(hooked)
