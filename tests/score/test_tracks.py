"""Track scores: K9 of the references, toy graphs whose figures traccuracy and py-ctcmetrics gave, live and frozen."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cellfm_nb.errors import InputError
from cellfm_nb.score.tracks import TrackScore, event_f1, score_tracks, track_graph
from cellfm_nb.seeds import rng

PLACE = ["z_um", "y_um", "x_um"]
NO_EVENTS = pd.DataFrame(columns=["kind", "frame", *PLACE, "parents", "children"])


def table(paths: dict[int, dict[int, float]]) -> pd.DataFrame:
    """Write {track: {frame: x}} as a track table; y and z tell nothing."""
    rows = [(k, t, 1.0, 2.0, float(x)) for k, path in paths.items() for t, x in path.items()]
    return pd.DataFrame(rows, columns=["track_id", "frame", *PLACE])


def events(*rows: tuple[str, int, float, str, str]) -> pd.DataFrame:
    return pd.DataFrame([(k, t, 1.0, 2.0, x, p, c) for k, t, x, p, c in rows],
                        columns=["kind", "frame", *PLACE, "parents", "children"])


def span(a: int, b: int, x: float) -> dict[int, float]:
    return {t: x for t in range(a, b)}


TRUTH = {1: span(0, 8, 0.0), 2: span(0, 8, 10.0), 3: span(0, 4, 20.0), 4: span(4, 8, 19.6), 5: span(4, 8, 20.4)}
SPLIT = events(("split", 4, 20.0, "3", "4;5"))
CASES: dict[str, tuple[dict, pd.DataFrame]] = {
    "perfect": (TRUTH, SPLIT),
    "one id switch": (TRUTH | {1: span(0, 4, 0.0), 9: span(4, 8, 0.0)}, SPLIT),
    "two tracks swapped": (TRUTH | {1: span(0, 4, 0.0) | span(4, 8, 10.0), 2: span(0, 4, 10.0) | span(4, 8, 0.0)},
                           SPLIT),
    "split missed": ({k: v for k, v in TRUTH.items() if k not in (3, 4)} | {3: span(0, 4, 20.0) | span(4, 8, 19.6)},
                     NO_EVENTS),
    "misses and false alarms": (TRUTH | {2: span(0, 5, 10.0), 8: span(2, 5, 50.0)}, SPLIT),
    "localisation within the distance": ({k: {t: x + 0.15 for t, x in v.items()} for k, v in TRUTH.items()}, SPLIT),
}
# traccuracy 0.3.0 (PointMatcher, CTCMetrics) and py-ctcmetrics 1.3.3 (hota, idf1, mota) on these graphs
FROZEN = {
    "perfect": dict(tra=1.0, det=1.0, hota=1.0, idf1=1.0, mota=1.0, id_switches=0),
    "one id switch": dict(tra=0.9952755906, det=1.0, hota=0.9258200998, idf1=0.8571428571, mota=0.9642857143,
                          id_switches=1),
    "two tracks swapped": dict(tra=0.9842519685, det=1.0, hota=0.7867957925, idf1=0.7142857143, mota=0.9285714286,
                               id_switches=2),
    "split missed": dict(tra=0.9921259843, det=1.0, hota=0.9258200998, idf1=0.8571428571, mota=1.0, id_switches=0),
    "misses and false alarms": dict(tra=0.8818897638, det=0.8821428571, hota=0.8636942410, idf1=0.8928571429,
                                    mota=0.7857142857, id_switches=0),
    "localisation within the distance": dict(tra=1.0, det=1.0, hota=1.0, idf1=1.0, mota=1.0, id_switches=0),
}


def score(case: str) -> TrackScore:
    paths, found_events = CASES[case]
    return score_tracks(table(TRUTH), table(paths), 0.3, true_events=SPLIT, found_events=found_events)


@pytest.mark.parametrize("case", CASES)
def test_scores_equal_the_packages_frozen_figures(case: str) -> None:
    ours = score(case).as_dict()
    assert {k: ours[k] for k in FROZEN[case]} == pytest.approx(FROZEN[case], abs=1e-9)


def nx_graph(tracks: pd.DataFrame, found_events: pd.DataFrame) -> object:
    import networkx
    from traccuracy import TrackingGraph

    graph, nodes = networkx.DiGraph(), track_graph(tracks, found_events)
    for k, (t, x) in enumerate(zip(nodes.frame, nodes.position_um, strict=True)):
        graph.add_node(k, t=int(t), z=x[0], y=x[1], x=x[2])
    graph.add_edges_from(map(tuple, np.concatenate([nodes.links, nodes.descents]).tolist()))
    return TrackingGraph(graph, location_keys=("z", "y", "x"))


@pytest.mark.parametrize("case", CASES)
def test_tra_det_and_lnk_equal_traccuracys(case: str) -> None:
    pytest.importorskip("traccuracy")
    from traccuracy.matchers import PointMatcher
    from traccuracy.metrics import CTCMetrics

    paths, found_events = CASES[case]
    matched = PointMatcher(0.3).compute_mapping(nx_graph(table(TRUTH), SPLIT), nx_graph(table(paths), found_events))
    theirs = CTCMetrics().compute(matched).results
    got = score(case)
    assert (got.tra, got.det, got.lnk) == pytest.approx(tuple(theirs[name] for name in ("TRA", "DET", "LNK")))


@pytest.mark.parametrize("case", CASES)
def test_identity_scores_equal_py_ctcmetrics(case: str) -> None:
    pytest.importorskip("ctc_metrics")
    from ctc_metrics.metrics.clearmot.mota import mota
    from ctc_metrics.metrics.hota.hota import hota
    from ctc_metrics.metrics.identity_metrics.idf1 import idf1

    paths = CASES[case][0]
    truth, found = table(TRUTH), table(paths)
    lists: list[list] = [[], [], [], []]
    for t in range(8):
        here, there = truth[truth["frame"] == t], found[found["frame"] == t]
        near = [(a, b) for a, x in zip(here["track_id"], here["x_um"], strict=True)
                for b, y in zip(there["track_id"], there["x_um"], strict=True) if abs(x - y) <= 0.3]
        for part, values in zip(lists, (here["track_id"], there["track_id"], *zip(*near, strict=True)), strict=True):
            part.append(np.array(list(values)))
    ours, theirs = score(case), hota(*lists) | idf1(*lists) | mota(*lists)
    got = dict(HOTA=ours.hota, IDF1=ours.idf1, MOTA=ours.mota, IDSW=ours.id_switches)
    assert got == pytest.approx({k: float(theirs[k]) for k in got})


def test_truth_against_itself_is_one() -> None:
    got = score("perfect").as_dict()
    ones = ("link_f1", "link_precision", "link_recall", "edge_f1", "fragments", "mota", "idf1", "hota", "det_a",
            "ass_a", "tra", "det", "lnk", "split_f1")
    assert all(got[k] == 1 for k in ones) and got["id_switches"] == 0 and np.isnan(got["merge_f1"])
    assert (got["n_true"], got["n_true_links"], got["n_splits"], got["distance_um"]) == (28, 23, 1, (0.3,) * 3)


def test_one_id_switch_lowers_each_score_as_its_formula_says() -> None:
    got = score("one id switch")
    assert got.id_switches == 1 and got.mota == pytest.approx(1 - 1 / 28)
    assert got.link_recall == pytest.approx(22 / 23) and got.link_precision == 1
    assert got.fragments == pytest.approx(6 / 5)
    assert got.idf1 == pytest.approx(2 * (28 - 4) / 56)
    assert got.ass_a == pytest.approx((20 + 8 * 0.5) / 28) and got.hota == pytest.approx(np.sqrt(24 / 28))
    assert got.tra == pytest.approx(1 - 1.5 / (280 + 1.5 * 25)) and got.det == 1
    assert got.lnk == pytest.approx(1 - 1 / 25)


def test_following_a_parent_into_its_child_is_a_wrong_link_but_a_right_edge() -> None:
    got = score("split missed")
    assert got.n_found_links == 24 and got.link_precision == pytest.approx(23 / 24)
    assert got.link_recall == 1 and got.split_f1 == 0
    assert got.edge_f1 == pytest.approx(2 * 24 / (25 + 24))


def test_invisible_positions_do_not_count_and_gaps_are_bridged() -> None:
    truth = table(TRUTH)
    truth["visible"] = ~((truth["track_id"] == 1) & truth["frame"].isin([3, 4]))
    found = table(TRUTH | {1: {t: 0.0 for t in (0, 1, 2, 5, 6, 7)}})
    got = score_tracks(truth, found, 0.3)
    assert got.link_f1 == got.hota == got.mota == 1 and got.n_true == 26


def test_a_wrong_matching_distance_is_seen() -> None:
    """Control: at a distance below the localisation error nothing matches, at a generous one everything does."""
    found = table(CASES["localisation within the distance"][0])
    assert score_tracks(table(TRUTH), found, 0.1).hota == 0 and score_tracks(table(TRUTH), found, 0.2).hota == 1


def test_scores_do_not_depend_on_names_or_order() -> None:
    generator = rng(0, "test", "score")
    paths, _ = CASES["two tracks swapped"]
    found = table({(k * 37) % 101: v for k, v in paths.items()}).sample(frac=1, random_state=1)
    truth = table(TRUTH).sample(frac=1, random_state=int(generator.integers(100)))
    a, b = score_tracks(truth, found, 0.3), score("two tracks swapped")
    assert (a.link_f1, a.hota, a.idf1, a.id_switches) == (b.link_f1, b.hota, b.idf1, b.id_switches)


def test_nothing_found_and_nothing_there() -> None:
    empty = table({})
    none = score_tracks(table(TRUTH), empty, 0.3)
    assert none.link_recall == none.hota == none.tra == none.det == none.idf1 == 0
    assert score_tracks(empty, empty, 0.3).link_f1 == score_tracks(empty, empty, 0.3).hota == 1
    assert score_tracks(empty, table(TRUTH), 0.3).hota == 0


@pytest.mark.parametrize(("frame", "x", "want"), [(5, 3.0, 1.0), (6, 3.0, 1.0), (7, 3.0, 0.0), (5, 3.7, 0.0)])
def test_events_match_within_their_tolerances(frame: int, x: float, want: float) -> None:
    true, found = events(("merge", 5, 3.0, "1;2", "3")), events(("merge", frame, x, "7;8", "9"))
    assert event_f1(true, found, "merge", 0.6, 1) == want
    assert np.isnan(event_f1(true, found, "split", 0.6, 1))


def test_each_event_is_matched_once_and_rejected_ones_do_not_count() -> None:
    true = events(("split", 5, 3.0, "1", "2;3"))
    found = events(("split", 5, 3.1, "1", "2;3"), ("split", 5, 3.0, "4", "5;6"))
    assert event_f1(true, found, "split", 0.6, 1) == pytest.approx(2 / 3)
    reviewed = found.assign(status=["candidate", "rejected"])
    assert event_f1(true, reviewed, "split", 0.6, 1) == 1
    paths = table({3: span(0, 4, 20.0), 4: span(4, 8, 19.6), 5: span(4, 8, 20.4)})
    said = [track_graph(paths, SPLIT.assign(status=word)).descents.tolist() for word in ("confirmed", "rejected")]
    assert said == [[[3, 4], [3, 8]], []]
    assert event_f1(true, NO_EVENTS, "split", 0.6, 1) == 0


def test_bad_tables_are_refused() -> None:
    with pytest.raises(InputError, match="lacks columns"):
        track_graph(table(TRUTH).drop(columns="frame"))
    with pytest.raises(InputError, match="two rows in one frame"):
        track_graph(pd.concat([table(TRUTH), table({1: {0: 3.0}})]))
    with pytest.raises(InputError, match="not finite"):
        track_graph(table({1: {0: np.nan}}))
    with pytest.raises(InputError, match="radius"):
        score_tracks(table(TRUTH), table(TRUTH), 0.0)
