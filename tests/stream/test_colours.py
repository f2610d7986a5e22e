"""Features as colours: unusual tokens are bright whatever the noise, ordinary ones dark; frames share one scale."""

import numpy as np
import pytest
from scipy.stats import ortho_group
from sklearn.metrics import roc_auc_score

from cellfm_nb.errors import InputError
from cellfm_nb.seeds import rng
from cellfm_nb.stream import fit_colours, fit_pca

D = 24


def tokens(seed=0, n=2000, rare=40):
    """Rows of noise with one strong direction of the background's level, and two kinds of rare objects."""
    draw = rng(seed, "colours")
    rows = draw.normal(size=(n, D))
    rows[:, 0] *= 3  # the level
    kind = np.zeros(n, int)
    kind[:rare], kind[rare : 2 * rare] = 1, 2
    rows[kind == 1, 5:9] += 6
    rows[kind == 2, 9:13] += 6
    return rows + 50, kind


def test_rare_objects_are_bright_and_kinds_differ_in_hue():
    rows, kind = tokens()
    colours = fit_colours(rows)(rows)
    assert colours.shape == (len(rows), 3) and colours.dtype == np.float32 and 0 <= colours.min() <= colours.max() <= 1
    assert roc_auc_score(kind > 0, colours.max(1)) > 0.95
    assert np.median(colours.max(1)[kind == 0]) < 0.02
    hue = [colours[kind == k] / colours[kind == k].max(1, keepdims=True) for k in (1, 2)]
    apart = np.linalg.norm(hue[0].mean(0) - hue[1].mean(0))
    assert apart > 2 * max(h.std(0).max() for h in hue)


def test_components_of_all_tokens_do_not_show_them():
    """Control: what the picture was before, three components of everything, is level and noise."""
    rows, kind = tokens(rare=10)
    scores = fit_pca([rows], 3).transform(rows)[:, 0]  # the level
    assert abs(roc_auc_score(kind > 0, scores) - 0.5) < 0.2
    assert roc_auc_score(kind > 0, fit_colours(rows)(rows).max(1)) > 0.95


def test_brightness_does_not_depend_on_the_axes_or_on_a_shift():
    rows, _ = tokens()
    turned = (rows - 50) @ ortho_group.rvs(D, random_state=0)
    light = fit_colours(rows)(rows).max(1)
    assert np.corrcoef(light, fit_colours(rows + 7)(rows + 7).max(1))[0, 1] > 0.999
    assert np.corrcoef(light, fit_colours(turned)(turned).max(1))[0, 1] > 0.95  # the median is taken number by number


def test_frames_share_one_scale():
    rows, _ = tokens()
    paint = fit_colours(rows)
    assert np.array_equal(paint(rows.reshape(20, 10, 10, D))[3], paint(rows[300:400].reshape(10, 10, D)))
    assert not np.allclose(paint(rows[300:400]), fit_colours(rows[300:400])(rows[300:400]))


def test_a_flat_field_is_black_and_too_few_tokens_are_said():
    assert fit_colours(np.ones((8, 3)))(np.ones((8, 3))).max() == 0
    for bad in (np.ones((3, 8)), np.ones((8, 2))):
        with pytest.raises(InputError, match="too few"):
            fit_colours(bad)
