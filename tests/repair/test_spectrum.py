"""Values that stand alone, in any weight; healthy encoders of unusual make; what cannot be repaired is refused."""

import copy

import pytest
import torch
import torch.nn.functional as F

from cellfm_nb.encoder import Encoder, EncoderConfig
from cellfm_nb.errors import InputError
from cellfm_nb.movie import write_frames
from cellfm_nb.repair import (
    anomaly_map,
    clip_spectrum,
    compare,
    detect,
    gaps,
    plant_defect,
    repair,
    trace,
    write_repair,
)
from cellfm_nb.repair.plant import PLACES
from cellfm_nb.repair.spectrum import singular_values, standing_out, weights_of
from cellfm_nb.seeds import torch_rng

from .test_repair import equal


@pytest.mark.parametrize("shape", [(20, 30), (30, 20), (12, 12)])
def test_singular_values_against_svd(shape):
    matrix = torch.randn(shape, generator=torch_rng(0, "m"), dtype=torch.float64)
    assert torch.allclose(singular_values(matrix), torch.linalg.svdvals(matrix))


def test_low_rank_is_not_a_gap_but_two_large_values_are():
    low_rank = torch.cat([torch.linspace(2, 1, 12), torch.zeros(20)])
    assert standing_out(low_rank)[1] == 0
    two = torch.cat([torch.tensor([90.0, 80.0]), torch.linspace(2, 1, 30)])
    assert standing_out(two) == (pytest.approx(40.0), 2)


def made(**config):
    return Encoder(EncoderConfig(width=32, depth=2, heads=4, **config), seed=3).eval()


@pytest.mark.parametrize("config", [{}, {"mlp": "swiglu", "qk_norm": True}, {"position": "rope", "stem": "patch",
                                    "registers": 2}, {"position": "sincos", "layer_scale": 1e-2}])
@pytest.mark.parametrize("where", PLACES)
def test_a_defect_is_found_and_cut_wherever_it_is(volume, where, config):
    encoder = made(**({"position": "none"} | config), **({} if "position" not in config else {"patch": (4, 8, 8)}))
    planted, direction = plant_defect(encoder, volume, 1, strength=6, seed=5, where=where)
    table = detect(planted, [volume])
    assert table["alarm"].tolist() == [False, True]
    mended, after = repair(planted, [volume])
    before, effect = (compare(encoder, planted, e, volume, 1) for e in (planted, mended))
    assert before["planted_cosine"] < 0.9 and abs(effect["norm_ratio"] - 1) < 0.1 and effect["planted_cosine"] > 0.97
    assert effect["other_cosine"] > 0.99 and not after["alarm_after"].any()
    assert equal(repair(mended, [volume])[0], mended)  # twice is once


def test_several_blocks_at_once(encoder, volume):
    first, _ = plant_defect(encoder, volume, 0, strength=5, seed=5, where="fc2")
    both, _ = plant_defect(first, volume, 2, strength=5, seed=6)
    mended, table = repair(both, [volume])
    assert table["alarm"].tolist() == [True, False, True]
    assert compare(encoder, both, mended, volume, 2)["planted_cosine"] > 0.97


def test_control_the_attention_alone_shows_nothing_of_a_defect_in_the_mlp(encoder, volume):
    planted, _ = plant_defect(encoder, volume, 1, strength=5, seed=5, where="fc2")
    found = gaps(planted.blocks[1])
    assert found["output"] < 2 and found["value"] < 2 and found["fc2"] > 5


@pytest.mark.parametrize("where", ["output", "fc2", "value+output"])
def test_a_bias_that_has_adapted_is_put_right(encoder, volume, where):
    """As after a training with the defect: the bias takes back what all tokens are given on the mean."""
    planted, direction = plant_defect(encoder, volume, 1, strength=5, seed=2, where=where, dense=True)
    block = planted.blocks[1]
    layer, gain = (block.mlp.fc2, block.gamma2) if where == "fc2" else (block.attention.proj, block.gamma1)
    given = (trace(planted, volume)[0][2] - trace(encoder, volume)[0][2]) @ direction.float()
    with torch.no_grad():
        layer.bias -= given.mean() * direction.float() / gain
    kept = copy.deepcopy(block)
    clip_spectrum(block)
    off = compare(encoder, planted, planted, volume, 1)
    assert (block(torch.zeros(1, 1, 32)) - encoder.blocks[1](torch.zeros(1, 1, 32))).norm() < 0.1 * given.abs().mean()
    assert not torch.equal(layer.bias, getattr(kept.mlp if where == "fc2" else kept.attention,
                                               "fc2" if where == "fc2" else "proj").bias) and off["other_p1"] > 0.97


def unusual(encoder, kind):
    changed = copy.deepcopy(encoder)
    with torch.no_grad():
        for block in changed.blocks:
            proj = block.attention.proj
            if kind == "low rank":
                u, s, vt = torch.linalg.svd(proj.weight)
                s[8:] = 0
                proj.weight.copy_((u * s) @ vt)
            elif kind == "dead head":
                proj.weight[:, :8] = 0
            elif kind == "one loud channel":
                block.norm1.weight[3] = block.norm2.weight[5] = 8.0
            elif kind == "silent channels":
                block.gamma1[::2] = 0
                block.gamma2[1::2] = 0
            elif kind == "nearly nothing":
                proj.weight.copy_(1e-4 * torch.outer(proj.weight[:, 0], proj.weight[0]))
            elif kind == "large steps":
                proj.weight *= 10
            elif kind == "steep spectrum":
                u, s, vt = torch.linalg.svd(block.mlp.fc2.weight, full_matrices=False)
                block.mlp.fc2.weight.copy_((u * s[0] * 0.5 ** torch.arange(32)) @ vt)
    return changed


@pytest.mark.parametrize("kind", ["low rank", "dead head", "one loud channel", "silent channels", "nearly nothing",
                                  "large steps", "steep spectrum"])
def test_unusual_but_healthy_encoders_are_left_alone_to_the_bit(encoder, volume, kind):
    strange = unusual(encoder, kind)
    mended, table = repair(strange, [volume])
    assert not equal(strange, encoder) and not table["alarm"].any() and equal(mended, strange)


def test_silent_channels_do_not_break_the_clip(encoder, volume):
    planted, _ = plant_defect(encoder, volume, 1, strength=5, seed=2)
    silent = unusual(planted, "silent channels")
    clip_spectrum(silent.blocks[1])
    assert all(torch.isfinite(p).all() for p in silent.parameters())
    assert max(standing_out(torch.linalg.svdvals(w.matrix()))[0] for w in weights_of(silent.blocks[1])) <= 5


def test_the_map_shows_the_planted_tokens_where_they_are(encoder, volume):  # S5: the grid is (3, 6, 5)
    planted, direction = plant_defect(encoder, volume, 1, strength=8, seed=2, where="neuron")
    clean, (dirty, grid) = trace(encoder, volume)[0][2], (lambda t: (t[0][2], t[1]))(trace(planted, volume))
    hit = (dirty - clean).norm(dim=1) > clean.norm(dim=1)
    shown = anomaly_map(dirty, grid, direction)
    z, y, x = (i.numpy() for i in torch.unravel_index(hit.nonzero().flatten(), grid))
    inside = (z == 1) & (y > 0) & (y < 5) & (x > 0) & (x < 4)
    assert grid == (3, 6, 5) and shown.shape == grid and shown[0].max() == 0 and hit.any()
    assert (shown[z[inside], y[inside], x[inside]] > 0.5).all() and (shown > 0.5).sum() == inside.sum()


def test_trace_sees_what_the_encoder_computes(volume):
    for config in ({"position": "sincos"}, {"position": "learned"}, {"position": "rope", "registers": 3}):
        encoder = made(**config)
        states, grid = trace(encoder, volume)
        seen = encoder(torch.from_numpy(volume)[None, None])
        assert torch.equal(encoder.norm(states[-1]), seen.patches[0]) and grid == seen.grid


def test_other_shapes_are_refused(encoder, volume):
    headless = copy.deepcopy(encoder)
    headless.blocks = torch.nn.ModuleList()
    foreign = copy.deepcopy(encoder)
    foreign.blocks[1] = torch.nn.TransformerEncoderLayer(32, 4)
    narrow = copy.deepcopy(encoder)
    narrow.blocks[0].attention.proj = torch.nn.Linear(32, 16)
    for broken, words in ((headless, "without blocks"), (foreign, "expected shape"), (narrow, "expected shape")):
        with pytest.raises(InputError, match=words):
            repair(broken, [volume])
    with pytest.raises(InputError, match="no volume"):
        repair(encoder, [])
    with pytest.raises(InputError, match="no such place"):
        plant_defect(encoder, volume, 0, where="stem")


@pytest.mark.parametrize("damage", ["another architecture", "not finite"])
def test_nothing_is_written_for_what_is_refused(encoder, volume, tmp_path, damage):
    write_frames(tmp_path / "m.ome.zarr", volume[None, None], (1, 1, *volume.shape), volume.dtype,
                 encoder.config.spacing_um, 1.0, "m")
    broken = copy.deepcopy(encoder)
    if damage == "not finite":
        broken.blocks[0].attention.qkv.weight.data[0, 0] = torch.inf
    else:
        broken.blocks.append(copy.deepcopy(broken.blocks[0]))  # the description still says three
    broken.save_pretrained(tmp_path / "in")
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError):
        write_repair(*(tmp_path / "out" / n for n in ("encoder.safetensors", "config.json", "defects.csv")),
                     tmp_path / "in" / "encoder.safetensors", tmp_path / "m.ome.zarr",
                     lambda movie, t, target_um: (movie.frame(t), movie.spacing_um))
    assert not list((tmp_path / "out").iterdir())


def test_a_bias_without_a_defect_stays(encoder):
    assert clip_spectrum(copy.deepcopy(encoder.blocks[0])) == 0
    loud = copy.deepcopy(encoder.blocks[0])
    loud.attention.proj.bias.data += 50 * F.one_hot(torch.tensor(3), 32)
    before = loud.attention.proj.bias.clone()
    assert clip_spectrum(loud) == 0 and torch.equal(loud.attention.proj.bias, before)
