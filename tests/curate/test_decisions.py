import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import cohen_kappa_score

from cellfm_nb.curate.agreement import agreement, cohen_kappa
from cellfm_nb.curate.decisions import Decisions, apply_decisions
from cellfm_nb.curate.quality import write_quality
from cellfm_nb.errors import InputError
from cellfm_nb.movie import Movie
from cellfm_nb.workspace import Workspace

from .twin import puncta

MOVIE = ("cell_1", "d" * 64)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "curate" / "decisions.csv"


def rule(n=5):
    return pd.DataFrame({"frame": range(n), "verdict": "accept", "by": "rule", "reason": ""})


def test_every_click_is_on_disk_and_the_state_is_rebuilt(path):
    book = Decisions(path)
    for frame, verdict in ((0, "accept"), (1, "reject"), (1, "unsure")):
        book.decide("ann", *MOVIE, frame, verdict, "blurred, I think\nsecond line")
        assert path.read_text().count("\n") == 1 + len(book.log)
    again = Decisions(path)
    assert again.log == book.log and not again.notes
    assert again.current("ann").verdict.tolist() == ["accept", "unsure"]  # the last word of a reader wins
    assert again.log[1].reason == "blurred, I think second line"


def test_a_reader_is_known_again_however_typed(path):
    book = Decisions(path)
    book.decide(" Ann  Li ", *MOVIE, 0, "accept")
    book.decide("Ann Li", *MOVIE, 0, "reject")
    assert book.current("Ann  Li").verdict.tolist() == ["reject"] and len(book.current()) == 1
    assert apply_decisions(rule(), book, reader=" Ann Li").by[0] == "Ann Li"


def test_undo_is_recorded_and_what_was_said_before_holds_again(path):
    book = Decisions(path)
    book.decide("ann", *MOVIE, 1, "reject")
    book.decide("ann", *MOVIE, 1, "accept")
    book.decide("bob", *MOVIE, 1, "unsure")  # another reader's words are not Ann's to take back
    book.undo("ann")
    assert Decisions(path).current("ann").verdict.tolist() == ["reject"]
    book.undo("ann")
    assert Decisions(path).current("ann").empty and book.undo("ann") is None
    assert Decisions(path).current("bob").verdict.tolist() == ["unsure"]
    assert len(Decisions(path).log) == 5  # nothing was erased


def test_a_line_torn_by_a_crash_is_left_out_and_said(path):
    book = Decisions(path)
    book.decide("ann", *MOVIE, 0, "accept")
    book.decide("ann", *MOVIE, 1, "reject", "dark")
    whole = path.read_bytes()
    for cut in range(1, len(whole) - whole.rindex(b"\n", 0, -1)):
        path.write_bytes(whole[:-cut])
        torn = Decisions(path)
        assert len(torn.log) == 1 and (len(torn.notes) == 1 or whole[:-cut].endswith(b"\n"))
    path.write_bytes(whole[:-3])
    Decisions(path).decide("ann", *MOVIE, 2, "unsure")
    assert [d.frame for d in Decisions(path).log] == [0, 2] and not Decisions(path).notes


def test_other_files_and_lines_are_refused_or_said(path, tmp_path):
    for text in ("a,b\n1,2\n", "one line of a diary", "\n"):
        (tmp_path / "other.csv").write_text(text)
        with pytest.raises(InputError, match="no file of decisions"):
            Decisions(tmp_path / "other.csv").decide("ann", *MOVIE, 0, "accept")
        assert (tmp_path / "other.csv").read_text() == text
    book = Decisions(path)
    book.decide("ann", *MOVIE, 0, "accept")
    with open(path, "a") as stream:
        stream.write("half,a,line\n")
    assert len(Decisions(path).log) == 1 and "line 3" in Decisions(path).notes[0]
    for bad in (("ann", "maybe"), (" ", "accept")):
        with pytest.raises(InputError, match="no decision"):
            book.decide(bad[0], *MOVIE, 0, bad[1])


def test_readers_over_the_rule(path):
    book = Decisions(path)
    book.decide("ann", *MOVIE, 1, "reject", "out of focus")
    book.decide("ann", *MOVIE, 2, "accept")
    book.decide("bob", *MOVIE, 2, "reject")
    book.decide("bob", "cell_2", "e" * 64, 0, "reject")  # another movie
    book.decide("bob", *MOVIE, 3, "reject", channel=1)  # another channel
    table = apply_decisions(rule(), book, movie=MOVIE[1])
    assert table.verdict.tolist() == ["accept", "reject", "unsure", "accept", "accept"]
    assert table.by.tolist() == ["rule", "ann", "ann, bob", "rule", "rule"]
    assert table.reason[1] == "out of focus" and table.reason[2] == "ann: accept; bob: reject"
    assert apply_decisions(rule(), book, "bob", MOVIE[1]).verdict[2] == "reject"
    with pytest.raises(InputError, match="several movies"):
        apply_decisions(rule(), path)


def test_complaint_14_flags_are_never_lost(path):
    """fastbook #359, #660; fastai #3084, #1539: flags lost on switching category, empty labels."""
    book = Decisions(path)
    for movie in ("a" * 64, "b" * 64, "a" * 64):  # to and fro between movies and channels, each time a new session
        for channel in (0, 1):
            for frame in range(3):
                Decisions(path).decide("ann", movie[0], movie, frame, ("accept", "reject", "unsure")[frame],
                                       channel=channel)
    book.reload()
    for movie in ("a" * 64, "b" * 64):
        for channel in (0, 1):
            table = apply_decisions(rule(3), book, movie=movie, channel=channel)
            assert table.verdict.tolist() == ["accept", "reject", "unsure"] and (table.by == "ann").all()
    table = pd.read_csv(path)
    assert len(table) == 18 and table.drop(columns="reason").notna().all(axis=None)
    assert table.verdict.isin(["accept", "reject", "unsure"]).all()
    # the wrong variant: a dictionary by frame alone, as such widgets keep it, forgets on every switch
    flags = {frame: verdict for frame, verdict in zip(table.frame, table.verdict, strict=True)}
    assert len(flags) == 3


def test_the_table_is_made_again_when_a_decision_is_added(tmp_path, capsys):
    ws = Workspace.open(tmp_path / "run")
    frames = np.stack([puncta((8, 48, 48), seed=s, n=10) for s in range(3)])
    Movie.from_array(frames, spacing_um=(0.25, 0.1, 0.1)).save(tmp_path / "movie.ome.zarr")
    book = Decisions(ws.path("curate/decisions.csv"))
    from cellfm_nb.curate.quality import read_quality
    from cellfm_nb.provenance import outside_digest

    def make():
        out = ws.make("curate/quality.csv", write_quality, tmp_path / "movie.ome.zarr",
                      decisions=ws.path("curate/decisions.csv"))
        return read_quality(out), capsys.readouterr().out

    assert (make()[0].by == "rule").all() and "unchanged" in make()[1]
    book.decide("ann", "movie", outside_digest(tmp_path / "movie.ome.zarr"), 1, "reject", "a bubble")
    table, said = make()
    assert "written" in said and table.by[1] == "ann" and table.verdict[1] == "reject" and table.reason[1] == "a bubble"


@pytest.mark.parametrize("seed", range(5))
def test_kappa_is_sklearns(seed):
    rng = np.random.default_rng(seed)
    a = rng.choice(["accept", "reject", "unsure"], 60, p=[0.6, 0.3, 0.1])
    b = np.where(rng.random(60) < 0.6, a, rng.choice(["accept", "reject", "unsure"], 60))
    found = cohen_kappa(a, b)
    assert found.kappa == pytest.approx(cohen_kappa_score(a, b), abs=1e-12) and found.n == 60 and not found.note
    assert found.equal == pytest.approx((a == b).mean()) and found.kappa < found.equal  # chance is taken off


def test_kappa_says_when_it_is_undefined(path):
    same = cohen_kappa(["accept"] * 4, ["accept"] * 4)
    assert np.isnan(same.kappa) and same.n == 4 and same.equal == 1 and "chance" in same.note
    assert cohen_kappa([], []).n == 0 and "no frame" in cohen_kappa([], []).note
    assert cohen_kappa(["accept"] * 3, ["reject"] * 3).kappa == cohen_kappa_score(["accept"] * 3, ["reject"] * 3)
    with pytest.raises(InputError):
        cohen_kappa(["accept"], [])
    book = Decisions(path)
    for frame in range(4):
        book.decide("ann", *MOVIE, frame, "accept" if frame else "reject")
    for frame in range(1, 6):
        book.decide("bob", *MOVIE, frame, "accept" if frame != 2 else "reject")
    book.decide("bob", *MOVIE, 0, "reject")
    found = agreement(book, "ann", "bob")  # frames 0-3; of a frame decided by one alone nothing is known
    assert found.n == 4 and found.kappa == pytest.approx(cohen_kappa_score([0, 1, 1, 1], [0, 1, 0, 1]))
    assert agreement(book, "ann", "eve").n == 0
