"""Splits and merges: planted ones are found (K8), mass that is not conserved speaks against them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cellfm_nb.seeds import rng
from cellfm_nb.track import link_objects

from .conftest import SPACING, table


def planted(masses: tuple[float, float], kind: str = "split", seed: int = 0) -> pd.DataFrame:
    """Forty objects far apart; ten of them split in two at frame 10 (or merge, time reversed)."""
    generator = rng(seed, "test", "events")
    sites = np.stack(np.meshgrid(*[np.arange(4) * 3.0] * 3), -1).reshape(-1, 3)[:40]
    paths, mass = {}, {}
    for k, site in enumerate(sites):
        x = site + np.cumsum(generator.normal(0, 0.06, (20, 3)), axis=0)
        if k >= 10:
            paths[k], mass[k] = {t: tuple(x[t]) for t in range(20)}, 100 * np.exp(0.35 * generator.normal())
            continue
        apart = np.array([0, 0, 0.25])
        whole = 100 * np.exp(0.35 * generator.normal())
        paths[k], mass[k] = {t: tuple(x[t]) for t in range(10)}, whole
        for side, number in ((-1, 100 + 2 * k), (1, 101 + 2 * k)):
            y = x[9] + np.cumsum(generator.normal(0, 0.06, (10, 3)), axis=0)
            paths[number] = {10 + t: tuple(y[t] + side * apart) for t in range(10)}
            mass[number] = whole * masses[side > 0]
    objects = table(paths, mass)
    objects["mass"] *= np.exp(0.05 * generator.normal(size=len(objects)))
    return objects if kind == "split" else objects.assign(frame=19 - objects["frame"])


@pytest.mark.parametrize("kind", ["split", "merge"])
def test_planted_events_are_found(kind: str) -> None:
    events = link_objects(planted((0.6, 0.4), kind), SPACING, 2.0).events
    assert set(events["kind"]) == {kind} and set(events["status"]) == {"candidate"}
    hits = events[(events["frame"] == 10) & events["score"].gt(0.9)]
    assert 2 * len(hits) / (len(events) + 10) >= 0.9


def test_no_event_is_seen_where_there_is_none(scene: tuple) -> None:
    """Objects that only move, blink and vanish make no events."""
    objects = planted((0.5, 0.5))
    objects = objects[objects["true_id"].between(10, 99)]
    objects = objects[rng(3, "test", "blink").uniform(size=len(objects)) > 0.05]
    assert len(link_objects(objects, SPACING, 2.0).events) == 0


def test_mass_that_is_not_conserved_speaks_against_a_split() -> None:
    """Children as heavy as the parent each: not a split. Positions alone cannot tell (control)."""
    kept, gained = planted((0.6, 0.4)), planted((1.0, 1.0))
    confident = [link_objects(objects, SPACING, 2.0).events["score"].sum() for objects in (kept, gained)]
    blind = [len(link_objects(objects, SPACING, 2.0, identity="none").events) for objects in (kept, gained)]
    assert confident[0] > 9 and confident[1] < 0.7 * confident[0]
    assert blind[0] == pytest.approx(blind[1], abs=1)


def test_events_and_tracks_agree(dense_scene: tuple) -> None:
    """Parents end before the event's frame, children begin at it, each track has at most one event at each end."""
    linking = link_objects(dense_scene[1], SPACING, 2.0)
    span = linking.tracks.groupby("track_id")["frame"].agg(["min", "max"])
    parent_of = linking.tracks.groupby("track_id")["parent_id"].first()
    seen: dict[str, list[int]] = {"parents": [], "children": []}
    for e in linking.events.itertuples():
        parents, children = ([int(k) for k in text.split(";")] for text in (e.parents, e.children))
        assert (len(parents), len(children)) == {"split": (1, 2), "merge": (2, 1)}[e.kind]
        assert (span.loc[parents, "max"] < e.frame).all() and (span.loc[children, "min"] == e.frame).all()
        assert all(parent_of[c] == (parents[0] if e.kind == "split" else -1) for c in children)
        seen["parents"] += parents
        seen["children"] += children
    assert all(len(ids) == len(set(ids)) for ids in seen.values()) and len(linking.events) > 10


def test_events_can_be_left_out(scene: tuple) -> None:
    linking = link_objects(scene[1], SPACING, 2.0, events=False)
    assert len(linking.events) == 0 and (linking.tracks["parent_id"] == -1).all()
