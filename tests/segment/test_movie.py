"""Evidence over time: exclusive paths, static rims, false alarms on noise, bounded windows, causal judging."""

import itertools

import numpy as np
import pytest

from cellfm_nb.errors import InputError
from cellfm_nb.score.detection import score_detection
from cellfm_nb.seeds import rng
from cellfm_nb.segment.blobs import FWHM, detect
from cellfm_nb.segment.fit import joint_fit, start_blobs
from cellfm_nb.segment.gaps import fill
from cellfm_nb.segment.links import AMPLITUDES, Soft, World
from cellfm_nb.segment.movie import detect_movie
from cellfm_nb.segment.paths import Path, PathFinder
from cellfm_nb.segment.refit import path_priors
from cellfm_nb.segment.static import median, static_background, wide_and_ridges

UM = ["z_um", "y_um", "x_um"]
SHAPE = (12, 48, 48)


def film(scene, peak, n_frames=12, step_um=0.08, seed=0, n_objects=5):
    """Return normalised frames and true positions of puncta that diffuse."""
    draw, size = rng(seed, "film"), np.array(SHAPE) * scene.spacing_um
    start = draw.uniform(0.15, 0.85, (n_objects, 3)) * size
    walk = start + np.cumsum(draw.normal(0, step_um, (n_frames, n_objects, 3)), axis=0)
    true = np.clip(walk, 0.1, size - 0.3)
    return [scene(p, np.full(n_objects, peak), SHAPE, seed=1000 * seed + t)[0] for t, p in enumerate(true)], true


def f1(tables, true, sigma):
    pairs = ((table[UM].to_numpy(), p) for table, p in zip(tables, true, strict=True))
    return score_detection(pairs, FWHM * np.array(sigma)).f1


def test_paths_find_what_single_frames_miss(scene):
    frames, true = film(scene, 1.5, n_frames=16)
    alone = f1([detect(v, scene.spacing_um, scene.sigma_um) for v in frames], true, scene.sigma_um)
    after = f1(list(detect_movie(frames, scene.spacing_um, scene.sigma_um)), true, scene.sigma_um)
    assert after > alone + 0.1 and after > 0.8
    apart = [film(scene, 1.5, n_frames=1, seed=10 + k) for k in range(16)]            # as faint, but no path
    lone = list(detect_movie([f[0] for f, _ in apart], scene.spacing_um, scene.sigma_um))
    assert f1(lone, [p[0] for _, p in apart], scene.sigma_um) < after - 0.1


@pytest.mark.parametrize("peak, shape, blank", [(40, SHAPE, None), (8, (1, 64, 64), None), (8, SHAPE, 3)])
def test_what_stands_out_by_itself_needs_no_path(peak, shape, blank):
    um, psf = (0.25, 0.1, 0.1), (0.33, 0.13, 0.13)
    draw = rng(0, "bright film")
    true = np.array([[0.5 * (shape[0] - 1) * 0.25, y, x] for y in (1, 2.3, 3.6) for x in (1, 2.3, 3.6)])
    grid = np.moveaxis(np.indices(shape), 0, -1) * um
    spots = peak * sum(np.exp(-0.5 * (((grid - p) / psf) ** 2).sum(-1)) for p in true)
    frames = [((spots + draw.normal(size=shape)) * (t != blank)).astype(np.float32) for t in range(6)]
    count = [len(table) for table in detect_movie(frames, um, psf)]
    assert all(n == 0 if t == blank else 9 <= n <= 11 for t, n in enumerate(count)), count


@pytest.mark.parametrize("window, margin", [(12, 6), (4, 6), (3, -1)])
def test_a_window_without_a_middle_is_refused(scene, window, margin):
    with pytest.raises(InputError, match="window"):
        next(detect_movie([], scene.spacing_um, scene.sigma_um, window=window, margin=margin))


def test_noise_gives_no_paths(scene):
    noise = [rng(k, "noise film").normal(size=SHAPE).astype(np.float32) for k in range(12)]
    assert sum(map(len, detect_movie(noise, scene.spacing_um, scene.sigma_um))) <= 6          # in twelve frames


def test_windows_change_little_and_order_is_kept(scene):
    frames, true = film(scene, 3.0, n_frames=14)
    whole = list(detect_movie(frames, scene.spacing_um, scene.sigma_um))
    parts = list(detect_movie(frames, scene.spacing_um, scene.sigma_um, window=8, margin=2))
    assert len(whole) == len(parts) == 14
    assert abs(f1(whole, true, scene.sigma_um) - f1(parts, true, scene.sigma_um)) < 0.06


def test_frames_are_read_as_they_are_needed(scene):
    frames, _ = film(scene, 5.0, n_frames=8)
    read = itertools.count()
    counted = (v for v in [*frames, *frames] if next(read) >= 0)
    tables = detect_movie(counted, scene.spacing_um, scene.sigma_um, window=6, margin=1)
    next(tables)
    assert next(read) <= 8


def test_causal_knows_no_future(scene):
    frames, _ = film(scene, 3.0, n_frames=7)
    first = [t[UM].to_numpy() for t in detect_movie(frames[:5], scene.spacing_um, scene.sigma_um, causal=True)]
    longer = [t[UM].to_numpy() for t in detect_movie(frames, scene.spacing_um, scene.sigma_um, causal=True)]
    assert len(first) == 5 and len(longer) == 7
    for a, b in zip(first, longer, strict=False):
        np.testing.assert_array_equal(a, b)


def test_static_background_is_the_rim_and_not_the_spot():
    rim = np.zeros((12, 40, 40), np.float32)
    rim[:, :, 18:24] = 1
    spot = np.zeros_like(rim)
    spot[5:7, 8:11, 8:11] = 5
    block = np.array([1, 2, 2])
    coarse = [(rim + spot).reshape(12, 20, 2, 20, 2).mean((2, 4))] * 6
    static = static_background(coarse, block, rim.shape)
    assert static[6, 20, 20] > 0.9 and abs(static[6, 9, 9]) < 0.05
    assert not static_background(coarse[:3], block, rim.shape).any()                  # too few frames to tell


@pytest.mark.parametrize("n", [1, 3, 5, 7, 11])
def test_median_of_arrays_is_that_of_numpy(n):
    arrays = rng(n, "median").normal(size=(n, 4, 5))
    np.testing.assert_array_equal(median(list(arrays)), np.median(arrays, axis=0))


def test_noise_and_a_slow_spot_are_no_ridge_but_a_faint_rim_is():
    draw, shape, n = rng(0, "static"), (20, 40, 40), 24
    rim, grid = np.zeros(shape), np.moveaxis(np.indices(shape), 0, -1)
    rim[:, 20] = 0.7
    frames = [(draw.normal(0, 0.5, shape) + rim + 5 * np.exp(-0.5 * (((grid - [10, 8, 10 + t / 4]) / 1.2) ** 2).sum(-1))
               ).astype(np.float32) for t in range(n)]
    static = static_background(frames, np.ones(3, int), shape)
    _, plain = wide_and_ridges(frames[1:])                  # what no comparison of the halves would take
    far = static[:, 30:], plain[:, 30:]
    assert far[0].std() < 0.5 * far[1].std()
    assert static[:, 20, 5:35].mean() > 0.5                 # the rim is taken
    assert static[10, 8, 8:18].mean() < 0.8 * plain[10, 8, 8:18].mean()               # and the spot is less dimmed


def test_dark_marks_that_stay_hide_no_object():
    um, psf, shape, draw = (0.25, 0.1, 0.1), (0.33, 0.13, 0.13), (12, 72, 72), rng(0, "marks")
    grid = np.moveaxis(np.indices(shape), 0, -1) * um
    place = [np.array([1.4, y, x]) for y in (1, 2.3, 3.6, 4.9, 6.2) for x in (1, 2.3, 3.6, 4.9)]
    spots = [np.exp(-0.5 * (((grid - p) / psf) ** 2).sum(-1)) for p in place]
    bright, dark = sum(spots[::2]), sum(spots[1::2])
    frames = [(8 * (bright - dark) + draw.normal(size=shape)).astype(np.float32) for _ in range(8)]
    # the marks' bright surrounds may be taken for objects: .85 over six draws, .90 when every ridge was taken away
    assert f1(list(detect_movie(frames, um, psf)), [np.array(place[::2])] * 8, psf) > 0.8


def test_a_path_does_not_bridge_two_objects_by_clutter():
    share = np.full(len(AMPLITUDES), 1 / len(AMPLITUDES))
    world = World(2.75, (2.9, -0.5, -0.25), 0.02, share, 0.3, 0.7, np.array([0.25, 0.13, 0.13]))
    there = [np.zeros(3)] * 4 + [np.array([0, 0.6, 0])] + [np.array([0, 1.2, 0])] * 4
    frames = [Soft(p[None], np.array([3.0 if t == 4 else 20.0])) for t, p in enumerate(there)]
    finder = PathFinder(frames, world)
    value = finder.forward()
    route, _ = finder.trace(np.array([8]), np.array([0]), value)
    assert (route >= 0).all()                               # the best single path goes through everything
    nodes = sorted([[t for t, _ in p.nodes] for p in PathFinder(frames, world).extract()])
    assert nodes == [[0, 1, 2, 3], [5, 6, 7, 8]]


@pytest.mark.parametrize("there", [True, False])
def test_a_gap_is_filled_where_the_map_holds_the_object_and_not_where_it_does_not(there):
    spacing, sigma = np.array([0.25, 0.1, 0.1]), np.array([0.33, 0.13, 0.13])
    world = World(2.75, (2.9, -0.5, -0.25), 0.02, np.ones(len(AMPLITUDES)), 0.08, 0.2, sigma)
    place, class_ = np.array([1.5, 2.0, 2.0]), 2
    grid = np.moveaxis(np.indices((12, 40, 40)), 0, -1) * spacing
    eye = np.exp(-0.25 * (((grid - place) / sigma) ** 2).sum(-1))                     # what the filter makes of a spot
    draw, filled = rng(0, "gaps"), []
    for _ in range(20):
        maps = [AMPLITUDES[class_] * eye * (there or t in (2, 4)) - 0.5 + 0.2 * draw.normal(size=eye.shape)
                for t in range(7)]
        soft = [Soft(place[None] * (t in (2, 4)), np.array([4.5])) for t in range(7)]
        chosen = [[0] if t in (2, 4) else [] for t in range(7)]
        filled.append(fill([Path([(2, 0), (4, 0)], 9.0, [class_] * 2)], soft, chosen, maps, world, spacing)[0])
    count = np.mean([[len(f) for f in frames] for frames in filled], 0)
    assert not count[[2, 4]].any()                          # nothing beside a candidate
    assert (count[[0, 1, 3, 5, 6]] > 0.9).all() if there else (count < 0.1).all()
    off = np.concatenate([f.position_um for frames in filled for f in frames]).reshape(-1, 3) - place
    assert (np.abs(off) < 0.5 * sigma).all()


def test_an_object_is_not_filled_in_beside_an_accepted_one():
    spacing, sigma = np.array([0.25, 0.1, 0.1]), np.array([0.33, 0.13, 0.13])
    world = World(2.75, (2.9, -0.5, -0.25), 0.02, np.ones(len(AMPLITUDES)), 0.08, 0.2, sigma)
    place = np.array([1.5, 2.0, 2.0])
    soft = [Soft(place[None], np.array([4.5]))] * 4         # the last two candidates belong to another path
    maps = [np.full((12, 40, 40), 4.0)] * 4
    filled, _ = fill([Path([(0, 0), (1, 0)], 9.0, [2] * 2)], soft, [[0]] * 4, maps, world, spacing)
    assert not any(map(len, filled))


def test_frames_of_one_path_tell_each_other_size_and_place(scene):
    spacing, psf, n = np.array(scene.spacing_um), np.array(scene.sigma_um), 8
    place = np.array([[1.4, y, x] for y in (1, 2.2, 3.4) for x in (1, 2.2, 3.4)])
    own = 0.5 * psf[-1]
    still = World(2.75, (2.9, -0.5, -0.25), 0.02, np.ones(1), 0.02, 0.05, psf)
    frames = [scene(place, np.full(9, 3.0), SHAPE, seed=t, own_um=own)[0] for t in range(n)]
    start = start_blobs(place / spacing, np.full(9, 3.0), 0.3 * psf[-1] ** 2)
    alone = [joint_fit(v, start, spacing, psf, sweeps=6) for v in frames]
    known = path_priors(alone, [np.arange(9)] * n, [1.0] * n, still, spacing)
    shared = [joint_fit(v, b, spacing, psf, prior=k, sweeps=4) for v, b, k in zip(frames, alone, known, strict=True)]

    def errors(fits):
        return [np.std([b.extra for b in fits], 0).mean(), np.abs(np.mean([b.extra for b in fits]) - own**2),
                np.sqrt(np.mean([((b.position - start.position) * spacing)[:, 1:] ** 2 for b in fits]))]

    (spread, bias, off), (spread_alone, _, off_alone) = errors(shared), errors(alone)
    assert spread < 0.5 * spread_alone and bias < 0.1 * psf[-1] ** 2 and off < 0.9 * off_alone
    nobody = path_priors(alone, [np.full(9, -1)] * n, [1.0] * n, still, spacing)[0]   # on no path: the weak prior
    np.testing.assert_allclose(nobody.extra, 0.3 * psf[-1] ** 2)
    assert not nobody.position_precision.any()


def brute_force(finder):
    """Return the best path's score over all sequences of candidates and amplitudes (no drift)."""
    best, n = -np.inf, len(finder.frames)
    for ends in itertools.combinations(range(n + 1), 2):
        for nodes in itertools.product(*(range(len(finder.frames[t])) for t in range(*ends))):
            for c in range(len(AMPLITUDES)):
                score = finder.start[ends[0]][c] + finder.end[ends[1] - 1][c]
                for k, j in enumerate(nodes):
                    score += finder.nodes[ends[0] + k][j, c]
                    if k:
                        e = finder.edges[ends[0] + k, 1]
                        link = e.log_density[(e.source == nodes[k - 1]) & (e.target == j)]
                        score += link[0] if len(link) else -np.inf
                best = max(best, score)
    return best


@pytest.mark.parametrize("seed", range(3))
def test_first_path_is_the_best_one_and_paths_share_nothing(seed, monkeypatch):
    monkeypatch.setattr("cellfm_nb.segment.paths.DRIFT", -1e9)
    monkeypatch.setattr("cellfm_nb.segment.paths.LONGEST_GAP", 1)
    draw = rng(seed, "paths")
    frames = [Soft(draw.uniform(0, 1, (4, 3)), draw.uniform(2.8, 6, 4)) for _ in range(4)]
    share = np.full(len(AMPLITUDES), 1 / len(AMPLITUDES))
    world = World(2.75, (5.0, 0.0, -0.5), 0.01, share, 0.1, 0.24, np.array([0.25, 0.13, 0.13]))
    finder = PathFinder(frames, world)
    best = brute_force(finder)
    paths = finder.extract(-50)
    assert paths[0].score == pytest.approx(best, abs=1e-3)
    nodes = [node for p in paths for node in p.nodes]
    assert len(nodes) == len(set(nodes))
