"""The neighbourhood of a token on grids of any shape (S4, S5, S7), and the original's transposed grid caught."""

import pytest
import torch

from cellfm_nb.repair.neighbours import interior, neighbour_loss, neighbour_target
from cellfm_nb.seeds import torch_rng

GRID = (3, 5, 4)  # z, y, x


def ramp(grid=GRID):
    """Tokens that are their own (z, y, x) in three channels, far from the direction in a fourth."""
    axes = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij")
    return torch.stack([*axes, torch.zeros(grid)], dim=-1).reshape(1, -1, 4)


FOURTH = torch.tensor([0.0, 0, 0, 1])


def test_on_a_ramp_the_target_is_the_token_itself():
    inside = interior(GRID)
    assert inside.sum() == 1 * 3 * 2
    assert torch.allclose(neighbour_target(ramp(), GRID, FOURTH)[:, inside], ramp()[:, inside])


def test_control_a_transposed_grid_is_caught():
    """The original views tokens that run z, y, x as (H, W, D): the ramp is then not its own mean."""
    swapped = (GRID[1], GRID[2], GRID[0])
    inside = interior(swapped)
    assert not torch.allclose(neighbour_target(ramp(), swapped, FOURTH)[:, inside], ramp()[:, inside])


def test_a_constant_field_has_no_loss():
    tokens = torch.ones(1, 60, 4, dtype=torch.float64)
    assert neighbour_loss(tokens, GRID, FOURTH, torch.ones(1, 60, dtype=torch.bool)) < 1e-12


@pytest.mark.parametrize("where", [(1, 1, 1), (1, 3, 2), (1, 2, 1)])
def test_a_planted_token_is_pulled_to_its_neighbours_and_does_not_pull_them(where):
    tokens = torch.ones(1, 60, 4, dtype=torch.float64)
    tokens[..., 3] = 0
    index = (where[0] * GRID[1] + where[1]) * GRID[2] + where[2]  # x runs fastest
    tokens[0, index] = 100 * FOURTH.double()
    target = neighbour_target(tokens, GRID, FOURTH)
    assert (target[0, index] - torch.tensor([1.0, 1, 1, 0])).norm() < 0.1
    beside = index + (1 if where[2] < GRID[2] - 1 else -1)
    assert target[0, beside, 3] < 0.1  # its weight is exp(-1 / 0.1)


def test_loss_ignores_sign_and_length_of_the_direction():
    tokens = torch.randn(2, 60, 4, generator=torch_rng(0), dtype=torch.float64)
    flagged = torch.rand(2, 60, generator=torch_rng(1)) < 0.3
    losses = [neighbour_loss(tokens, GRID, d, flagged) for d in (FOURTH, -FOURTH, 3 * FOURTH)]
    assert losses[0] > 0 and torch.allclose(losses[0], torch.stack(losses))


def test_no_gradient_through_the_target_and_none_from_the_border():
    tokens = torch.randn(1, 60, 4, generator=torch_rng(0), requires_grad=True)
    flagged = torch.zeros(1, 60, dtype=torch.bool)
    flagged[0, [0, 27]] = True  # a corner, and (1, 1, 3)
    assert neighbour_loss(tokens, GRID, FOURTH, flagged) == 0  # both on the border
    flagged[0, 26] = True  # (1, 1, 2), inside
    neighbour_loss(tokens, GRID, FOURTH, flagged).backward()
    assert tokens.grad[0].abs().sum(1).nonzero().flatten().tolist() == [26]


def test_thin_grids_have_no_border_across_their_thin_axis():
    assert interior((1, 4, 4)).sum() == 4 and interior((2, 3, 1)).sum() == 2 and interior((1, 1, 1)).all()
