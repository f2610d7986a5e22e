import numpy as np
import pytest

from cellfm_nb.curate import choose_crops, fit_noise, fitting_crop, normalize, signal_fraction, signal_mask
from cellfm_nb.errors import InputError

from .twin import puncta

CROP = (12, 24, 24)
METHODS = ("content", "kmeans", "random")


@pytest.fixture(scope="module")
def sparse():
    """Puncta in a cell of 6% of the field, noise around it."""
    volume = puncta((24, 128, 128), n=0, gradient=0)
    volume[:, 70:102, 20:52] = puncta((24, 32, 32), n=30, gradient=0, peak=150)
    return normalize(volume, fit_noise(volume), (0.25, 0.1, 0.1))


@pytest.mark.parametrize("method", METHODS)
def test_boxes_are_inside_and_repeat_with_the_seed(sparse, method):
    """P2."""
    boxes = choose_crops(sparse, CROP, 9, method, np.random.default_rng(1))
    low, high = boxes[["z0", "y0", "x0"]].to_numpy(), boxes[["z1", "y1", "x1"]].to_numpy()
    assert len(boxes) == 9 and (low >= 0).all() and (high <= sparse.shape).all() and (high - low == CROP).all()
    assert boxes.equals(choose_crops(sparse, CROP, 9, method, np.random.default_rng(1)))
    assert not boxes.equals(choose_crops(sparse, CROP, 9, method, np.random.default_rng(2)))
    mask = signal_mask(sparse)
    b = boxes.iloc[4]
    assert b.signal == pytest.approx(mask[b.z0 : b.z1, b.y0 : b.y1, b.x0 : b.x1].mean())
    assert signal_fraction(sparse, boxes) == pytest.approx(boxes.signal.mean())


def test_content_crops_hold_the_signal(sparse):
    """P3, and never an empty one; negative controls: random crops are empty at times, k-means crops hold less."""
    signal = {m: np.concatenate([choose_crops(sparse, CROP, 8, m, np.random.default_rng(s)).signal for s in range(5)])
              for m in METHODS}
    assert signal["content"].mean() > 3 * signal["random"].mean()
    assert signal["content"].mean() > 1.2 * signal["kmeans"].mean()
    assert signal["content"].min() > 0 and signal["random"].min() == 0


def test_content_crops_spread(sparse):
    mask = signal_mask(sparse)
    covered = np.zeros(mask.shape, bool)
    boxes = choose_crops(sparse, CROP, 8)
    for b in boxes.itertuples():
        covered[b.z0 : b.z1, b.y0 : b.y1, b.x0 : b.x1] = True
    assert (covered & mask).sum() > 0.9 * mask.sum()
    assert len(boxes.drop_duplicates(["z0", "y0", "x0"])) == 8


def test_no_signal_falls_back_and_says_so():
    noise = np.random.default_rng(0).normal(size=(16, 48, 48)).astype(np.float32)
    noise[signal_mask(noise)] = 0
    boxes = choose_crops(noise, CROP, 5)
    assert len(boxes) == 5 and (boxes.chosen_by == "random: no signal").all()


def test_a_volume_of_one_crop(sparse):
    boxes = choose_crops(sparse, sparse.shape, 2)
    assert (boxes[["z0", "y0", "x0"]] == 0).all(None)


def test_bad_input(sparse):
    with pytest.raises(InputError, match="smaller than a crop"):
        choose_crops(sparse, (25, 24, 24), 2)
    with pytest.raises(InputError, match="content, kmeans, random"):
        choose_crops(sparse, CROP, 2, "best")
    assert fitting_crop((17, 192, 279), (24, 64, 64), (16, 32, 32)) == (16, 64, 64)
    with pytest.raises(InputError, match="smaller than a crop"):
        fitting_crop((15, 192, 279), (24, 64, 64), (16, 32, 32))
