"""Linking: what must hold for any movie (K1-K7 of the references), and that crowded movies are linked well."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cellfm_nb.errors import InputError
from cellfm_nb.score.tracks import score_tracks
from cellfm_nb.seeds import rng
from cellfm_nb.track import link_objects, link_with
from cellfm_nb.track.link import EVENT_COLUMNS, TRACK_COLUMNS

from .conftest import POSITION, SPACING, link_set, table


def brownian(n: int, frames: int, seed: int, size: float = 12.0, step: float = 0.1) -> dict[int, dict[int, tuple]]:
    generator = rng(seed, "test", "brownian")
    x = generator.uniform(0, size, (n, 3)) + np.cumsum(generator.normal(0, step, (frames, n, 3)), axis=0)
    return {k: {t: tuple(x[t, k]) for t in range(frames)} for k in range(n)}


def test_a_still_movie_is_linked_perfectly() -> None:
    x = rng(0, "test", "still").uniform(0, 8, (30, 3))
    objects = table({k: {t: tuple(x[k]) for t in range(6)} for k in range(30)})
    linking = link_objects(objects, SPACING, 2.0)
    assert link_set(linking.tracks) == link_set(objects, "true_id")
    assert len(linking.events) == 0


def test_order_and_labels_of_the_objects_do_not_matter(scene: tuple) -> None:
    objects = scene[1]
    one = link_objects(objects, SPACING, 2.0)
    other = link_objects(objects.sample(frac=1, random_state=3).assign(label=7), SPACING, 2.0)
    assert link_set(one.tracks) == link_set(other.tracks)
    assert one.events[EVENT_COLUMNS].equals(other.events[EVENT_COLUMNS])


def test_units_do_not_matter(scene: tuple) -> None:
    objects = scene[1]
    larger = objects.assign(**{c: 10 * objects[c] for c in POSITION})
    one, other = link_objects(objects, SPACING, 2.0), link_objects(larger, tuple(10 * s for s in SPACING), 2.0)
    back = other.tracks.assign(**{c: other.tracks[c] / 10 for c in POSITION})
    assert link_set(one.tracks) == link_set(back)
    assert one.events["parents"].tolist() == other.events["parents"].tolist()


def test_time_reversed_movie_gives_the_same_links(scene: tuple) -> None:
    objects = scene[1]
    forth = link_set(link_objects(objects, SPACING, 2.0).tracks)
    back = link_objects(objects.assign(frame=19 - objects["frame"]), SPACING, 2.0).tracks
    back = link_set(back.assign(frame=19 - back["frame"]))
    assert len(forth & back) / len(forth | back) > 0.99


@pytest.mark.parametrize("gap", [1, 2, 4])
def test_a_gap_of_max_gap_frames_is_closed_and_one_more_is_not(gap: int) -> None:
    paths = brownian(12, 24, seed=4)
    for t in range(8, 8 + gap):
        del paths[5][t]
    for t in range(8, 8 + gap + 1):
        del paths[7][t]
    tracks = link_objects(table(paths), SPACING, 2.0, max_gap_frames=gap).tracks
    assert tracks["gap"].max() == gap
    assert tracks["track_id"].nunique() == 13                         # the longer gap, and only it, cuts a track
    assert len(link_set(table(paths), "true_id") - link_set(tracks)) == 1


def crossing() -> pd.DataFrame:
    """Two objects that pass within a fraction of a step of each other, and a third that tells how things move."""
    generator = rng(6, "test", "crossing")
    paths: dict[int, dict[int, tuple]] = {k: {} for k in range(8)}
    for t in range(21):
        jitter = generator.normal(0, 0.12, (8, 3))
        paths[0][t], paths[1][t] = tuple([4, 4, 4] + jitter[0]), tuple([4, 4, 4.1] + jitter[1])
        for k in range(2, 8):
            paths[k][t] = tuple(np.array([1.5 * k, 9, 3]) + jitter[k])
    return table(paths, {0: 100.0, 1: 300.0, 2: 150.0, 3: 250.0, 4: 120.0, 5: 200.0, 6: 90.0, 7: 330.0})


def test_mass_tells_apart_what_motion_cannot() -> None:
    """Two objects on one spot: with their masses all links are right, by position alone many are wrong (control)."""
    objects = crossing()
    true = link_set(objects, "true_id")
    wrong = {identity: len(link_set(link_objects(objects, SPACING, 2.0, identity=identity).tracks) - true)
             for identity in ("mass", "none")}
    assert wrong["mass"] == 0 and wrong["none"] >= 5


def test_directed_motion_tells_apart_what_nearest_cannot() -> None:
    """A crowd that moves in straight lines, a step as long as the way to the neighbour (control: Hungarian)."""
    generator = rng(7, "test", "crowd")
    x, v = generator.uniform(0, 5, (90, 3)), generator.normal(size=(90, 3))
    v *= 0.9 / np.linalg.norm(v, axis=1, keepdims=True)
    objects = table({k: {t: tuple(x[k] + t * v[k]) for t in range(10)} for k in range(90)})
    true = link_set(objects, "true_id")
    ours = link_set(link_objects(objects, SPACING, 2.0).tracks)
    peer = link_set(link_with("hungarian", objects, SPACING, 2.0, radius_um=1.0))
    assert len(ours & true) / len(true) > 0.96 > 0.94 > len(peer & true) / len(true)


def test_objects_too_far_apart_are_never_linked() -> None:
    """One object vanishes, another appears far away: no virtual partner, no link (control: forced linking links)."""
    paths = brownian(10, 20, seed=8)
    paths[3] = {t: p for t, p in paths[3].items() if t < 10}
    paths[10] = {t: (40.0, 40.0, 40.0) for t in range(10, 20)}
    objects = table(paths)
    tracks = link_objects(objects, SPACING, 2.0).tracks
    jump = tracks.sort_values(["track_id", "frame"]).groupby("track_id")[POSITION].diff().abs().max().max()
    forced = link_with("hungarian", objects, SPACING, 2.0, radius_um=100.0)
    assert jump < 1.0 < forced.sort_values(["track_id", "frame"]).groupby("track_id")["x_um"].diff().abs().max()


@pytest.mark.parametrize("name", ["scene", "dense_scene"])
def test_scenes_are_linked_better_than_by_trackpy(name: str, request: pytest.FixtureRequest) -> None:
    truth, objects = request.getfixturevalue(name)
    least = {"scene": (0.99, 0.98, 0.85, 0.8), "dense_scene": (0.96, 0.88, 0.8, 0.7)}[name]
    linking = link_objects(objects, SPACING, 2.0)
    ours = score_tracks(truth.positions, linking.tracks, 0.3, true_events=truth.events, found_events=linking.events)
    peer = max(score_tracks(truth.positions, link_with("trackpy adaptive", objects, SPACING, 2.0, radius_um=r), 0.3,
                            true_events=truth.events).link_f1 for r in (0.5, 0.8, 1.2, 1.6))
    assert ours.link_f1 > peer
    assert (ours.link_f1, ours.hota, ours.split_f1, ours.merge_f1) > (0, 0, 0, 0)
    assert all(got >= bound for got, bound in
               zip((ours.link_f1, ours.hota, ours.split_f1, ours.merge_f1), least, strict=True))


def test_positions_alone_are_enough_for_the_default_scene(scene: tuple) -> None:
    truth, objects = scene
    linking = link_objects(objects[["frame", *POSITION]], SPACING, 2.0)
    assert score_tracks(truth.positions, linking.tracks, 0.3, true_events=truth.events).link_f1 > 0.97


def test_scales_are_those_of_the_scene(scene: tuple) -> None:
    value = link_objects(scene[1], SPACING, 2.0).scale_table().set_index("quantity")["value"]
    assert value["diffusion coefficient"] == pytest.approx(0.005, rel=0.15)
    assert value["bleaching time"] == pytest.approx(120, rel=0.4)
    assert value["unseen between two detections"] == pytest.approx(100 * 0.03, rel=0.6)


def test_bleaching_is_told_of_the_masses_whatever_the_light_that_links_go_by(scene: tuple) -> None:
    rooted = scene[1].assign(light=np.sqrt(scene[1]["mass"]), light_sd=0.05 * np.sqrt(scene[1]["mass"]))
    value = link_objects(rooted, SPACING, 2.0).scale_table().set_index("quantity")["value"]
    assert value["bleaching time"] == pytest.approx(120, rel=0.4)  # half as fast in the roots: 240


def test_confidence_is_honest(dense_scene: tuple) -> None:
    """Links said to be certain are right; doubtful ones are wrong more often."""
    _, objects = dense_scene
    tracks = link_objects(objects, SPACING, 2.0).tracks
    true = link_set(objects, "true_id")
    rows = [tuple(r) for r in tracks[["frame", *POSITION]].to_numpy().round(9)]
    at = np.flatnonzero(tracks["track_id"].diff() == 0)
    right = np.array([(rows[k - 1], rows[k]) in true for k in at])
    sure = tracks["score"].to_numpy()[at]
    assert right[sure > 0.99].mean() > 0.985
    assert right[sure < 0.8].mean() < right[sure > 0.99].mean() - 0.05


@pytest.mark.parametrize("rho", [0.5, 1.0, 3.0])
def test_no_density_is_too_much(rho: float) -> None:
    """Steps as long as the distance between neighbours, and longer: trackpy raises here, we link what can be linked."""
    generator = rng(9, "test", "density")
    side = 150 ** (1 / 3) / 0.554
    x = generator.uniform(0, side, (150, 3)) + np.cumsum(generator.normal(0, rho / 1.73, (5, 150, 3)), axis=0)
    objects = pd.DataFrame(x.reshape(-1, 3), columns=POSITION).assign(frame=np.repeat(np.arange(5), 150))
    tracks = link_objects(objects, (0.1, 0.1, 0.1), 1.0).tracks
    assert len(tracks) == 750 and not tracks.duplicated(["track_id", "frame"]).any()


@pytest.mark.parametrize("objects", [table({0: {3: (1, 1, 1)}, 1: {3: (2, 2, 2)}}), table({})])
def test_one_frame_or_nothing_is_said_in_one_sentence(objects: pd.DataFrame) -> None:
    linking = link_objects(objects, SPACING, 2.0)
    assert "nothing to link" in linking.message
    assert linking.tracks.columns.tolist() == TRACK_COLUMNS and linking.events.columns.tolist() == EVENT_COLUMNS
    assert len(linking.tracks) == len(objects) and len(linking.events) == 0 and len(linking.scale_table()) == 0


def test_empty_frames_duplicate_positions_and_single_objects_are_no_error() -> None:
    paths = brownian(6, 12, seed=10)
    objects = table({k: {t: p for t, p in path.items() if t not in (5, 6)} for k, path in paths.items()})
    tracks = link_objects(objects, SPACING, 2.0).tracks
    assert tracks["track_id"].nunique() == 6
    doubled = pd.concat([objects, objects[objects["true_id"] == 0]], ignore_index=True)
    assert len(link_objects(doubled, SPACING, 2.0).tracks) == len(doubled)
    assert link_objects(objects[objects["true_id"] == 0], SPACING, 2.0).tracks["track_id"].nunique() == 1


def test_a_flat_movie_is_linked_like_any_other() -> None:
    paths = {k: {t: (0.0, *p[1:]) for t, p in path.items()} for k, path in brownian(20, 10, seed=11).items()}
    objects = table(paths)
    true = link_set(objects, "true_id")
    assert len(link_set(link_objects(objects, SPACING, 2.0).tracks) & true) / len(true) > 0.97


def test_descriptors_can_serve_as_identity() -> None:
    objects = crossing().drop(columns="mass")
    generator = rng(12, "test", "descriptor")
    means = generator.normal(0, 1, (8, 3))
    values = means[objects["true_id"]] + generator.normal(0, 0.2, (len(objects), 3))
    objects = objects.assign(d0=values[:, 0], d1=values[:, 1], d2=values[:, 2])
    true = link_set(objects, "true_id")
    assert len(link_set(link_objects(objects, SPACING, 2.0, identity="descriptor").tracks) - true) == 0


@pytest.mark.parametrize(("change", "words"), [
    (dict(spacing_um=(0.1, -1, 0.1)), "spacing"), (dict(dt_s=0.0), "time step"), (dict(max_gap_frames=-1), "gap"),
    (dict(identity="smell"), "identity")])
def test_bad_settings_are_refused(change: dict, words: str) -> None:
    settings = dict(spacing_um=SPACING, dt_s=2.0) | change
    with pytest.raises(InputError, match=words):
        link_objects(table(brownian(3, 3, seed=13)), **settings)


def test_bad_tables_are_refused() -> None:
    objects = table(brownian(3, 3, seed=14))
    with pytest.raises(InputError, match="lacks columns"):
        link_objects(objects.drop(columns="z_um"), SPACING, 2.0)
    objects.loc[2, "y_um"] = np.nan
    with pytest.raises(InputError, match="not finite"):
        link_objects(objects, SPACING, 2.0)


@pytest.mark.parametrize(("column", "identity"), [("mass", "mass"), ("mass", "descriptor"), ("d0", "descriptor")])
def test_an_identity_that_is_not_finite_is_refused(column: str, identity: str) -> None:
    objects = table(brownian(5, 4, seed=15)).assign(d0=1.0)
    objects.loc[3, column] = np.nan
    with pytest.raises(InputError, match="not finite"):
        link_objects(objects, SPACING, 2.0, identity=identity)
    assert len(link_objects(objects, SPACING, 2.0, identity="none").tracks) == 20


def test_scales_of_another_linking_are_refused(scene: tuple) -> None:
    scales = link_objects(scene[1], SPACING, 2.0, events=False).scales
    for other in (dict(max_gap_frames=2), dict(max_gap_frames=6), dict(identity="none")):
        with pytest.raises(InputError, match="another linking"):
            link_objects(scene[1], SPACING, 2.0, scales=scales, **other)


def test_frames_are_whole_numbers() -> None:
    objects = table(brownian(5, 4, seed=16))
    assert link_objects(objects.astype({"frame": float}), SPACING, 2.0).tracks["frame"].dtype == int
    for bad in (2.5, np.nan, np.inf):
        with pytest.raises(InputError, match="whole numbers"):
            link_objects(objects.assign(frame=objects["frame"].where(objects.index != 3, bad)), SPACING, 2.0)
