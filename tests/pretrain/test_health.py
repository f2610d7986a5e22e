"""Each alarm rings on a constructed collapse, and on nothing else (T6 of the reference)."""

import math

import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from cellfm_nb.pretrain.health import (
    MEASURES,
    alarms,
    cls_patch_similarity,
    collapsed,
    collapsed_since,
    dead_share,
    feature_std,
    masked_spread,
    measure,
    outlier_share,
    prototypes_used,
    rankme,
)
from cellfm_nb.seeds import torch_rng

HEALTHY = {"loss": 5.0, "entropy_patch": 0.6, "entropy_cls": 0.7, "rankme": 60.0, "feature_std": 0.6,
           "masked_spread": 0.3, "dead": 0.0, "outliers": 0.0, "prototypes": 0.6, "cls_patch": 0.2}


def normal(*shape):
    return torch.randn(*shape, generator=torch_rng(0, "features", *shape))


def test_rankme_of_known_spectra():
    assert rankme(normal(4000, 16)) == pytest.approx(16, rel=0.02)
    assert rankme(normal(500, 1) @ normal(1, 16) + 3) == pytest.approx(1, abs=1e-3)
    assert rankme(torch.ones(50, 16)) == 1
    assert rankme(normal(500, 16) + 100) == pytest.approx(rankme(normal(500, 16)), rel=1e-6)


def test_rankme_agrees_with_the_score_room():
    from cellfm_nb.score.features import rankme as other

    x = normal(300, 24) * torch.linspace(0.1, 2, 24)
    assert rankme(x) == pytest.approx(other(x.numpy()), rel=1e-4)


def test_spread_and_outliers():
    x = normal(1000, 16)
    assert feature_std(x) == pytest.approx(1, abs=0.05) and feature_std(torch.ones(9, 4)) == 0
    assert outlier_share(x) == 0
    x[:20] *= 20
    assert outlier_share(x) == pytest.approx(0.02)


def test_dead_dimensions_few_prototypes_and_cls_in_every_patch():
    x = normal(1000, 20)
    assert dead_share(x) == 0 and dead_share(torch.zeros(9, 4)) == 1
    x[:, :5] *= 0.01
    assert dead_share(x) == pytest.approx(0.25)
    targets = torch.eye(8)[torch.tensor([0, 0, 1, 1, 1, 0, 1, 0])]
    assert prototypes_used(targets) == pytest.approx(0.25) and prototypes_used(torch.eye(8)) == 1
    patches = normal(2, 30, 64)
    assert abs(cls_patch_similarity(normal(2, 64), patches)) < 0.1
    assert cls_patch_similarity(patches[:, 0], patches[:, :1].expand(2, 5, 64)) == pytest.approx(1)


def test_collapse_is_told_from_trouble():
    assert collapsed(HEALTHY | {"rankme": 1.2}, 128) and collapsed(HEALTHY | {"feature_std": 1e-4}, 128)
    assert not collapsed(HEALTHY | {"entropy_patch": 0.97, "outliers": 0.1}, 128)


def test_masked_spread():
    mask = torch.zeros(2, 8, dtype=torch.bool)
    mask[:, :4] = True
    assert masked_spread(normal(2, 8, 16), mask) > 0.5
    assert masked_spread(torch.ones(2, 8, 16), mask) == 0
    assert math.isnan(masked_spread(torch.ones(2, 8, 16), ~mask & mask))


def test_silence_when_healthy():
    assert alarms(HEALTHY, 128) == []


@pytest.mark.parametrize(("change", "word"), [
    ({"loss": math.nan}, "not a number"), ({"entropy_patch": 0.97}, "patch targets are near-uniform"),
    ({"entropy_cls": 0.95}, "cls targets are near-uniform"), ({"entropy_patch": 0.001}, "one-hot"),
    ({"rankme": 2.0}, "dimensional collapse"), ({"feature_std": 1e-4}, "complete collapse"),
    ({"masked_spread": 0.0}, "same"), ({"dead": 0.1}, "dead"), ({"outliers": 0.03}, "outlying norms"),
    ({"prototypes": 0.005}, "prototypes are ever chosen"), ({"cls_patch": 0.995}, "Patches say what CLS says")])
def test_one_collapse_one_alarm(change, word):
    found = alarms(HEALTHY | change, 128)
    assert len(found) == 1 and word in found[0]


D, K = 64, 32


def step(**changes):
    """What a healthy step shows to `measure`, but for the changes."""
    views, tokens = 4, 60
    mask = torch.zeros(views, tokens, dtype=torch.bool)
    mask[:, :20] = True
    patch = torch.softmax(3 * normal(views, tokens, K), dim=-1)
    return {"teacher": normal(views, tokens, D), "student": normal(views, tokens, D), "teacher_cls": normal(views, D),
            "mask": mask, "patch": patch, "cls": torch.softmax(3 * normal(2, 2, K), dim=-1)} | changes


def bent(tokens, where, how):
    tokens = tokens.clone()
    tokens[where] = how(tokens[where])
    return tokens


HEALTH = step()
COLLAPSES = {  # what is built into the tensors, and what is then said
    "complete collapse": {"teacher": 1 + 1e-3 * normal(4, 60, D)},
    "dimensional collapse": {"teacher": F.normalize(normal(4, 60, 2), dim=-1) @ normal(2, D).sign()},
    "dimensions are dead": {"teacher": bent(HEALTH["teacher"], (..., slice(0, 6)), lambda x: 1e-3 * x)},
    "outlying norms": {"teacher": bent(HEALTH["teacher"], (slice(None), slice(0, 3)), lambda x: 20 * x)},
    "patch targets are near-uniform": {"patch": torch.softmax(0.1 * normal(4, 60, K), dim=-1)},
    "patch targets are one-hot": {"patch": torch.softmax(1e4 * normal(4, 60, K), dim=-1)},
    "cls targets are near-uniform": {"cls": torch.full((2, 2, K), 1 / K)},
    "cls targets are one-hot": {"cls": torch.eye(K)[:4].view(2, 2, K)},
    "hidden tokens of a view are the same": {"student": normal(4, 1, D).expand(4, 60, D)},
    "prototypes are ever chosen": {"patch": torch.softmax(3 * normal(4, 60, 200) + 40 * torch.eye(200)[0], dim=-1)
                                   * 0.5 + 0.5 / 200},
    "Patches say what CLS says": {"teacher": 30 + normal(4, 60, D), "teacher_cls": torch.ones(4, D)},
}


def test_a_healthy_step_is_silent():  # T6
    assert tuple(measure(HEALTH)) == MEASURES and alarms({"loss": 1.0} | measure(HEALTH), D) == []


@pytest.mark.parametrize("word", COLLAPSES)
def test_each_alarm_rings_on_its_collapse(word):  # T6
    found = alarms({"loss": 1.0} | measure(step(**COLLAPSES[word])), D)
    assert any(word in line for line in found)
    if word != "complete collapse":  # which is also one of rank, and of patches that say what CLS says
        assert len(found) == 1


def test_a_falling_probe_is_told_from_noise():  # T6
    log = pd.DataFrame([HEALTHY | {"probe_ap": ap} for ap in (0.5, math.nan, 0.8, 0.78, math.nan)])
    assert alarms(log, 128) == [] and alarms(log.drop(columns="probe_ap"), 128) == []
    fallen = pd.concat([log, pd.DataFrame([HEALTHY | {"probe_ap": 0.7}, HEALTHY])])
    assert len(alarms(fallen, 128)) == 1 and "probe is falling" in alarms(fallen, 128)[0]


def test_rows_of_collapse_are_counted_from_the_end():
    bad = HEALTHY | {"rankme": 1.0}
    assert collapsed_since([bad, HEALTHY, bad, bad], 128) == 2
    assert collapsed_since([bad, bad], 128) == 2 and collapsed_since([bad, HEALTHY], 128) == 0
