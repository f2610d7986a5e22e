"""Boxes to learn from (P2, P3, P6 of the reference): inside, full of signal, spread, and overlapping on wish."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
from scipy import ndimage

from cellfm_nb.bench.crops import scene
from cellfm_nb.curate import choose_crops, fit_noise, fitting_crop, normalize, signal_fraction, signal_mask
from cellfm_nb.curate.crops import binomial, box_means, box_sums, overlap
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


def test_signal_by_the_true_mask():
    """P3: a cell of 5% of the volume, half as many stray points around it, the truth hidden from all choosers."""
    held = {m: [] for m in METHODS}
    for seed in (1, 2):
        _, volume, truth = scene(0.05, seed)
        for m in METHODS:
            boxes = choose_crops(volume, (24, 64, 64), 4 if m != "random" else 64, m, np.random.default_rng(seed))
            held[m].append(box_means(truth, boxes[["z0", "y0", "x0"]].to_numpy(), np.array((24, 64, 64))))
    held = {m: np.concatenate(x) for m, x in held.items()}
    assert held["content"].mean() > 3 * held["random"].mean() and held["content"].min() > 0
    assert held["content"].mean() > 1.8 * held["kmeans"].mean()
    assert (held["kmeans"] == 0).any() and (held["random"] == 0).any()


def corners(boxes):
    return boxes[["z0", "y0", "x0"]].to_numpy()


def test_views_of_a_place_share_what_was_asked_for(sparse):  # N5
    for seed in range(5):
        boxes = choose_crops(sparse, CROP, 9, "content", np.random.default_rng(seed), views_per_place=3,
                             min_overlap=0.2, max_overlap=0.5)
        assert boxes.place.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2] and (boxes.signal > 0).all()
        for _, place in boxes.groupby("place"):
            for a, b in itertools.combinations(corners(place), 2):
                assert 0.2 <= overlap(a, b[None], np.array(CROP))[0] <= 0.5
    assert len(choose_crops(sparse, CROP, 7, views_per_place=2)) == 7


def test_places_do_not_repeat_while_there_are_others():
    """Negative control: k-means and random boxes know no such limit."""
    volume = puncta((24, 128, 128), n=80, gradient=0, peak=150)
    volume = normalize(volume, fit_noise(volume), (0.25, 0.1, 0.1))

    def largest(method):
        boxes = corners(choose_crops(volume, CROP, 20, method, np.random.default_rng(0), max_overlap=0.4, richness=0.3))
        return max(overlap(a, b[None], np.array(CROP))[0] for a, b in itertools.combinations(boxes, 2))

    assert largest("content") <= 0.4 < largest("random")


def test_richness_decides_how_dim_a_place_may_be():
    """A cell of 40 puncta and one of 8: only a low richness looks at the second."""
    volume = puncta((24, 128, 128), n=0, gradient=0)
    volume[:, 8:40, 8:40] = puncta((24, 32, 32), n=40, gradient=0, peak=150)
    volume[:, 88:120, 88:120] = puncta((24, 32, 32), n=8, gradient=0, peak=150)
    volume = normalize(volume, fit_noise(volume), (0.25, 0.1, 0.1))

    def at_the_second(richness):
        boxes = choose_crops(volume, CROP, 16, "content", np.random.default_rng(0), richness=richness)
        return ((boxes.y0 > 60) & (boxes.x0 > 60)).sum()

    assert at_the_second(0.8) == 0 < at_the_second(0.05)


@pytest.mark.parametrize("shape", [(24, 30, 41), (1, 30, 41), (2, 5, 5)])
def test_smoothing_is_about_a_gaussian_of_one_voxel(shape):  # oracle: scipy
    a = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    want = a
    for axis in range(3):
        want = ndimage.correlate1d(want, np.array([1, 4, 6, 4, 1]) / 16, axis, mode="reflect")
    assert np.allclose(binomial(a), want, atol=1e-5)
    assert np.corrcoef(binomial(a).ravel(), ndimage.gaussian_filter(a, 1.0).ravel())[0, 1] > 0.98


def test_box_sums_are_sums_over_boxes():
    a = np.random.default_rng(0).integers(0, 9, (7, 9, 8))
    sums = box_sums(a, (2, 3, 8))
    assert sums.shape == (6, 7, 1) and sums[4, 2, 0] == a[4:6, 2:5].sum()


def test_content_crops_spread(sparse):
    mask = signal_mask(sparse)
    covered = np.zeros(mask.shape, bool)
    boxes = choose_crops(sparse, CROP, 8)
    for b in boxes.itertuples():
        covered[b.z0 : b.z1, b.y0 : b.y1, b.x0 : b.x1] = True
    assert (covered & mask).sum() > 0.9 * mask.sum()
    assert len(boxes.drop_duplicates(["z0", "y0", "x0"])) == 8


def test_no_signal_falls_back_and_says_so():  # P6
    noise = np.random.default_rng(0).normal(size=(16, 48, 48)).astype(np.float32)
    noise[signal_mask(noise)] = 0
    for volume, method in ((noise, "content"), *itertools.product((0 * noise, 0 * noise + 7), ("content", "kmeans"))):
        boxes = choose_crops(volume, CROP, 5, method)
        assert len(boxes) == 5 and (boxes.chosen_by == "random: no signal").all()


def test_one_voxel_of_signal_is_enough():  # P2
    volume = np.random.default_rng(0).normal(size=(16, 48, 48)).astype(np.float32)
    volume[signal_mask(volume)] = 0
    volume[15, 47, 0] = 100
    boxes = choose_crops(volume, CROP, 40, "content")
    assert (boxes.signal > 0).all() and (boxes.chosen_by == "content").all()


def test_a_volume_of_one_crop(sparse):
    boxes = choose_crops(sparse, sparse.shape, 2)
    assert (boxes[["z0", "y0", "x0"]] == 0).all(None)


def test_bad_input(sparse):
    with pytest.raises(InputError, match="smaller than a crop"):
        choose_crops(sparse, (25, 24, 24), 2)
    with pytest.raises(InputError, match="content, kmeans, random"):
        choose_crops(sparse, CROP, 2, "best")
    with pytest.raises(InputError, match="not finite"):  # P6
        choose_crops(np.where(sparse > 3, np.nan, sparse), CROP, 2)
    with pytest.raises(InputError, match="max_overlap 0.1"):
        choose_crops(sparse, CROP, 2, min_overlap=0.5, max_overlap=0.1)
    with pytest.raises(InputError, match="room to move a crop"):
        choose_crops(sparse, sparse.shape, 2, views_per_place=2)
    assert fitting_crop((17, 192, 279), (24, 64, 64), (16, 32, 32)) == (16, 64, 64)
    with pytest.raises(InputError, match="smaller than a crop"):
        fitting_crop((15, 192, 279), (24, 64, 64), (16, 32, 32))


def test_choosing_crops_needs_no_monai():
    code = "import sys, cellfm_nb.curate; assert not {'monai', 'torch', 'sklearn'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
