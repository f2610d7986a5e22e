"""Randomness keyed by purpose."""

import torch

from cellfm_nb.seeds import int_seed, rng, torch_rng


def test_equal_keys_equal_draws_other_keys_others():
    assert (rng(0, "noise", 3).normal(size=4) == rng(0, "noise", 3).normal(size=4)).all()
    seeds = {int_seed(s, p, i) for s in (0, 1) for p in ("a", "b") for i in range(10)}
    assert len(seeds) == 40


def test_key_parts_do_not_run_together():
    assert int_seed(0, "a", "b") != int_seed(0, "ab") and int_seed(1, "1") != int_seed(11)


def test_torch_generator_is_its_own():
    torch.manual_seed(0)
    a = torch.rand(3, generator=torch_rng(0, "view"))
    torch.manual_seed(1)
    assert torch.equal(a, torch.rand(3, generator=torch_rng(0, "view")))


def test_value_is_frozen():  # results must not change between versions
    assert int_seed(0, "simulate") == 788394865377686548
