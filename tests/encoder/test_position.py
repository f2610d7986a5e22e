"""Positions: none, added or turned (E2, E8 of the reference); and the other options of a block."""

import pytest
import torch
import torch.nn.functional as F

from cellfm_nb.encoder import Encoder, EncoderConfig
from cellfm_nb.encoder.position import KINDS, Position, interpolation, rotate, whole
from cellfm_nb.errors import InputError
from cellfm_nb.seeds import torch_rng

SMALL = dict(width=48, depth=2, heads=2)


def encoder(**changes):
    return Encoder(EncoderConfig(**{**SMALL, **changes}), seed=3).eval()


def volume(*shape, batch=2):
    return torch.randn(batch, 1, *shape, generator=torch_rng(0, "volume", *shape))


@pytest.mark.parametrize("kind", KINDS)
def test_any_size_runs_and_permuting_tokens_is_seen_only_with_positions(kind):  # E2
    e = encoder(position=kind, position_grid=(2, 3, 2))
    grid = (2, 3, 4)
    tokens = torch.randn(1, 24, 48, generator=torch_rng(0, "tokens"))
    order = torch.randperm(24, generator=torch_rng(0, "order"))
    code, angles = e.position.added(whole(grid), grid), e.position.angles(0, 24, grid, 0)

    def run(x):
        x = x if code is None else x + code.flatten(0, 2)
        for block in e.blocks:
            x = block(x, angles)
        return x

    same = torch.allclose(run(tokens[:, order]), run(tokens)[:, order], atol=1e-5)
    assert same == (kind == "none")
    for shape in ((8, 16, 16), (9, 17, 30)):
        assert torch.isfinite(e(volume(*shape)).patches).all()


def test_rotations_know_distances_only():  # E2: translating every token leaves the logits
    position = Position("rope", 48, 24, (2, 2, 2))
    grid = (5, 6, 7)
    q, k = torch.randn(2, 210, 24, generator=torch_rng(0, "qk")).unbind(0)
    angles = position.angles(0, 210, grid, 0)
    near = torch.tensor([0, 1, 8, 50])
    far = near + 42 + 7 + 2  # one plane, one row and two tokens further
    q4, k4 = q[:4], k[:4]
    first = rotate(q4, angles[near]) @ rotate(k4, angles[near]).T
    moved = rotate(q4, angles[far]) @ rotate(k4, angles[far]).T
    torch.testing.assert_close(first, moved, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(first, q4 @ k4.T, atol=1e-2)
    torch.testing.assert_close(rotate(q, angles).norm(dim=-1), q.norm(dim=-1))


def test_prefix_rows_are_not_turned():
    position = Position("rope", 48, 24, (2, 2, 2))
    angles = position.angles(0, 11, (2, 2, 2), 3)
    assert (angles[:4] == 0).all() and (angles[4:] != 0).any(dim=1).all()  # three without a place, then the corner
    assert torch.equal(position.angles(5, 9, (2, 2, 2), 3), angles[5:9])


def test_the_learned_code_is_itself_on_its_own_grid():  # E8
    position = Position("learned", 48, 24, (3, 4, 5))
    with torch.no_grad():
        position.code.normal_(generator=torch_rng(0, "code"))
    assert torch.equal(position.added(whole((3, 4, 5)), (3, 4, 5)), position.code)
    got = position.added(whole((6, 9, 7)), (6, 9, 7))
    want = F.interpolate(position.code.permute(3, 0, 1, 2)[None], (6, 9, 7), mode="trilinear")[0].permute(1, 2, 3, 0)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("n", [1, 2, 5, 12])
def test_interpolation_weights_sum_to_one(n):
    torch.testing.assert_close(interpolation(slice(0, n), n, 4).sum(1), torch.ones(n))


@pytest.mark.parametrize("kind", ["sincos", "learned"])
def test_a_part_of_the_grid_has_the_code_of_the_whole(kind):
    position, grid = Position(kind, 48, 24, (2, 3, 3)), (4, 5, 6)
    if kind == "learned":
        torch.nn.init.normal_(position.code, generator=torch_rng(0, "code"))
    code = position.added(whole(grid), grid)
    part = (slice(1, 3), slice(0, 4), slice(5, 6))
    torch.testing.assert_close(position.added(part, grid), code[part])
    assert torch.cdist(code.flatten(0, 2), code.flatten(0, 2)).fill_diagonal_(9).min() > 1e-3  # all tokens differ


def test_a_head_too_narrow_for_rotations_is_refused():
    with pytest.raises(InputError, match="narrow"):
        EncoderConfig(width=16, heads=4, position="rope")
    with pytest.raises(InputError, match="position"):
        EncoderConfig(position="absolute")


@pytest.mark.parametrize("changes", [dict(mlp="swiglu"), dict(qk_norm=True), dict(position="rope", qk_norm=True)])
def test_other_blocks_save_load_and_keep_their_size(changes, tmp_path):
    e, x = encoder(**changes), volume(8, 16, 16)
    again = Encoder.from_pretrained(e.save_pretrained(tmp_path))
    assert torch.equal(again(x).patches, e(x).patches) and again.config == e.config
    assert abs(e.n_parameters / encoder().n_parameters - 1) < 0.02


def test_normed_queries_bound_the_logits():
    e, x = encoder(qk_norm=True), torch.randn(1, 9, 48, generator=torch_rng(0, "x"))
    with torch.no_grad():
        e.blocks[0].attention.qkv.weight *= 1000
    q, k, _ = e.blocks[0].attention.qkv(x)
    assert (q @ k.transpose(-1, -2)).abs().max() <= 24 * 1.01  # |q| = |k| = sqrt(d)
    plain = encoder()
    with torch.no_grad():
        plain.blocks[0].attention.qkv.weight *= 1000
    q, k, _ = plain.blocks[0].attention.qkv(x)
    assert (q @ k.transpose(-1, -2)).abs().max() > 24 * 1.01


def test_checkpointing_changes_memory_not_gradients():
    grads = []
    for checkpointing in (False, True):
        e = encoder(position="rope").train()
        e.checkpointing = checkpointing
        e(volume(8, 16, 16)).patches.square().mean().backward()
        grads.append([p.grad.clone() for p in e.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))
