"""Many movies on Dask: one corrupted, one worker killed; the rest done, one reported, the same bytes as alone."""

import hashlib
import os
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cellfm_nb.curate import encoder_frame, fit_movie_noise, many_run, many_task, read_shards
from cellfm_nb.curate.decisions import Decisions
from cellfm_nb.curate.loader import ShardLoader
from cellfm_nb.curate.many import Recipe, curate_command, curate_movies, find_movies
from cellfm_nb.curate.shards import ShardIndex
from cellfm_nb.errors import InputError, Unreachable
from cellfm_nb.movie import Movie
from cellfm_nb.provenance import outside_digest

from .twin import puncta

RECIPE = Recipe(crop_shape=(8, 16, 16), n_crops=6, max_bytes=20_000)
SPACING = (0.25, 0.1, 0.1)


def write_movie(path, seed, n=2):
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = np.stack([puncta((10, 40, 40), seed=10 * seed + t, n=12) for t in range(n)])
    Movie.from_array(frames, spacing_um=SPACING, dt_s=2.0, name=path.name.split(".")[0]).save(path)


@pytest.fixture(scope="module")
def movies(tmp_path_factory):
    """Five movies, the third cut short."""
    folder = tmp_path_factory.mktemp("movies")
    for i in range(5):
        write_movie(folder / f"cell {i}.ome.tif", i)
    os.truncate(folder / "cell 2.ome.tif", 40_000)
    return folder


@pytest.fixture(scope="module")
def alone(movies, tmp_path_factory):
    """The data set made in this process."""
    folder = tmp_path_factory.mktemp("alone")
    return folder, curate_movies(find_movies(movies), folder, RECIPE, workers=0)


def tree(folder):
    """{file: sha256} of a data set, without what may differ from run to run (seconds) and the locks."""
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in folder.rglob("*") if p.is_file() and p.name != "movies.csv" and not p.name.startswith(".")}


def test_one_bad_movie_is_reported_and_the_others_are_done(alone):
    folder, table = alone
    assert table.status.tolist() == ["done", "done", "failed", "done", "done"]
    assert "cut short" in table.reason[2] and "Copy it again" in table.reason[2]
    assert pd.read_csv(folder / "movies.csv", keep_default_na=False).reason.tolist() == table.reason.tolist()
    assert (table.crops[table.status == "done"] == 6).all() and not list(folder.glob(".partial*"))
    for name in table.folder[table.status == "done"]:
        shards = sorted(p.name for p in (folder / name).iterdir())
        assert shards[0] == "crops-000000.tar" and len(shards) > 3 and shards[-2:] == ["index.json", "quality.csv"]


def test_the_index_covers_every_crop_and_both_sides(alone):
    """P4 over the merged data set."""
    folder, _ = alone
    loader = ShardLoader(folder / "index.json")
    keys = [loader[i][1]["key"] for r in range(3) for i in loader.order(0, r, 3)]
    assert len(keys) == len(set(keys)) == len(loader) == 24
    train, validation = (loader.index.split(s) for s in ("train", "validation"))
    assert {s["movie"] for s in train.shards}.isdisjoint(s["movie"] for s in validation.shards)
    assert sorted(train.keys + validation.keys) == sorted(keys)
    seen = [told["key"] for _, told in ShardLoader(train, folder).epoch(0)]
    assert sorted(seen) == sorted(train.keys)
    plain = [m["key"] for s in train.shards for _, m in read_shards(folder / s["name"], train)]
    assert plain == train.keys  # the streaming reader knows a shard by its folder and name
    table = pd.read_csv(folder / "quality.csv")
    assert table["rank"].tolist() == [1, 2, 3, 4] and table.score.is_monotonic_decreasing


def test_a_crop_is_found_again_in_its_movie(alone, movies):
    """P1: digest, frame, channel, origin and spacing lead from the voxels back to the voxels."""
    loader = ShardLoader(alone[0] / "index.json")
    paths = {outside_digest(p): p for p in movies.iterdir()}
    for i in (0, 9, 23):
        crop, told = loader[i]
        movie = Movie.open(paths[told["movie_sha256"]])
        again, spacing = encoder_frame(movie, told["frame"], fit_movie_noise(movie), told["channel"])
        place = tuple(slice(o, o + n) for o, n in zip(told["origin_px"], crop.shape, strict=True))
        assert np.array_equal(again[place].astype(np.float16), crop) and list(spacing) == told["spacing_um"]


def test_readers_decisions_change_the_data_set(tmp_path):
    write_movie(tmp_path / "a.ome.tif", 1)
    out, path = tmp_path / "set", tmp_path / "a.ome.tif"
    for verdict, frames in ((None, {0, 1}), ("reject", {1})):
        if verdict:
            Decisions(out / "decisions.csv").decide("ann", "a", outside_digest(path), 0, verdict, "a bubble")
            Decisions(out / "decisions.csv").decide("ann", "b", "e" * 64, 1, verdict)  # of another movie
        assert curate_movies([path], out, RECIPE, workers=0).status[0] == "done"
        loader = ShardLoader(out / "index.json")
        assert {loader[i][1]["frame"] for i in range(len(loader))} == frames
    assert curate_movies([path], out, RECIPE, workers=0).status[0] == "unchanged"


def test_dask_loses_nothing_when_a_worker_is_killed(movies, alone, tmp_path):
    from dask.distributed import Client, LocalCluster

    marker = tmp_path / "killed"

    def kill_yourself_once(dask_worker):
        from cellfm_nb.curate import many_task

        write = many_task.write_shards

        def then_die(prefix, samples, *rest):
            index = write(prefix, samples, *rest)  # quality and shards are there, the index is not
            if "cell-3" in str(prefix) and not marker.exists():
                marker.write_text(f"{os.getpid()} {prefix.parent}")
                os.kill(os.getpid(), signal.SIGKILL)
            return index

        many_task.write_shards = then_die

    with LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None,
                      silence_logs=50) as cluster, Client(cluster) as client:
        client.run(kill_yourself_once)
        table = curate_movies(find_movies(movies), tmp_path / "set", RECIPE, address=cluster.scheduler_address)
    pid, left = marker.read_text().split(maxsplit=1)
    assert int(pid) != os.getpid() and ".partial-cell-3" in left  # it was in the midst
    assert (table.status == "failed").tolist() == [False, False, True, False, False]
    assert tree(tmp_path / "set") == tree(alone[0]) and not list((tmp_path / "set").glob(".partial*"))


def test_a_movie_that_kills_every_worker_is_reported(monkeypatch):
    from dask.distributed import KilledWorker

    class Future:
        def result(self):
            raise KilledWorker("cell", None, 3)

        def release(self):
            pass

    class Client:
        def __init__(self, *a, **k):
            pass

        __enter__ = lambda self: self  # noqa: E731
        __exit__ = wait_for_workers = lambda *a, **k: None  # noqa: E731

        def submit(self, *a, **k):
            return Future()

    monkeypatch.setattr("dask.distributed.Client", Client)
    monkeypatch.setattr("dask.distributed.as_completed", iter)
    (_, row), = many_run.run_on_dask([Path("cell.tif")], Path("x"), RECIPE, "tcp://127.0.0.1:1", 1)
    assert row["status"] == "failed" and "killed" in row["reason"]


def test_killed_while_packing_the_next_run_goes_on(movies, alone, tmp_path, monkeypatch):
    """Resumable packing: what is whole is taken as it is, and the bytes are those of a run never killed."""
    write, packed = many_task.write_shards, []

    def killed_at_the_third(prefix, samples, *rest):
        packed.append(prefix.parent.name)
        index = write(prefix, samples, *rest)
        if len(packed) == 3:
            raise KeyboardInterrupt
        return index

    monkeypatch.setattr(many_task, "write_shards", killed_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        curate_movies(find_movies(movies), tmp_path, RECIPE, workers=0)
    assert not (tmp_path / "index.json").exists() and len(packed) == 3
    whole = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.tar")}
    table = curate_movies(find_movies(movies), tmp_path, RECIPE, workers=0)
    assert table.status.tolist() == ["unchanged", "unchanged", "failed", "done", "done"] and len(packed) == 5
    assert whole and all(p.stat().st_mtime_ns == t for p, t in whole.items())
    assert tree(tmp_path) == tree(alone[0])


def test_a_changed_shard_recipe_or_movie_is_made_again(tmp_path):
    write_movie(tmp_path / "a.ome.tif", 1)
    recipe, out = RECIPE, tmp_path / "set"
    assert many_task.curate_movie(tmp_path / "a.ome.tif", out, recipe)["status"] == "done"
    assert (row := many_task.curate_movie(tmp_path / "a.ome.tif", out, recipe))["status"] == "unchanged"
    shard = out / row["folder"] / "crops-000000.tar"
    data = bytearray(shard.read_bytes())
    data[700] ^= 1
    shard.write_bytes(data)
    assert many_task.curate_movie(tmp_path / "a.ome.tif", out, recipe)["status"] == "done"
    more = many_task.Recipe(**(vars(recipe) | {"n_crops": 4}))
    assert many_task.curate_movie(tmp_path / "a.ome.tif", out, more)["crops"] == 4
    write_movie(tmp_path / "a.ome.tif", 2)
    assert many_task.curate_movie(tmp_path / "a.ome.tif", out, more)["folder"] != row["folder"]


def test_copies_are_named_and_sides_are_kept(tmp_path):
    for i in range(3):
        write_movie(tmp_path / f"m{i}.ome.tif", i, n=1)
    (tmp_path / "m9.ome.tif").write_bytes((tmp_path / "m0.ome.tif").read_bytes())
    out, paths = tmp_path / "set", sorted(tmp_path.glob("*.tif"))
    table = curate_movies(paths[:2], out, RECIPE, workers=0)
    first = ShardIndex.load(out / "index.json").about["split"]
    table = curate_movies(paths, out, RECIPE, workers=0)
    assert table.status.tolist() == ["unchanged", "unchanged", "done", "failed"]
    assert "a copy of m0-" in table.reason[3]
    index = ShardIndex.load(out / "index.json")
    assert first.items() <= index.about["split"].items() and len(index.keys) == len(set(index.keys)) == 18


def test_two_channels_are_judged_and_packed_apart(tmp_path):
    frames = np.stack([np.stack([puncta((10, 40, 40), seed=s + 9 * c, n=12) for c in range(2)]) for s in range(2)])
    frames[1, 1] = 300  # one dropped frame of the second channel
    Movie.from_array(frames, "tczyx", spacing_um=SPACING).save(tmp_path / "two.ome.tif")
    curate_movies([tmp_path / "two.ome.tif"], tmp_path / "set", RECIPE, workers=0)
    loader = ShardLoader(tmp_path / "set" / "index.json")
    told = pd.DataFrame([loader[i][1] for i in range(len(loader))])
    assert told.groupby("channel").frame.unique().map(list).to_dict() == {0: [0, 1], 1: [0]}
    table = pd.read_csv(tmp_path / "set" / "quality.csv").set_index("channel")
    assert table.missing.to_dict() == {0: 0, 1: 1} and table.accepted.to_dict() == {0: 2, 1: 1}


def test_the_command(movies, tmp_path, capsys):
    status = curate_command([movies], tmp_path / "set", workers=0, crop_shape=(8, 16, 16), n_crops=6, seed=0)
    said = capsys.readouterr().out
    assert status == 1 and "cell-2: This TIFF is cut short" in said and "4 of 5 movies, 24 crops" in said
    assert curate_command([movies / "cell 0.ome.tif"], tmp_path / "set", workers=0, crop_shape=(8, 16, 16),
                          n_crops=6) == 0
    index = (tmp_path / "set" / "index.json").read_bytes()
    assert curate_command([movies / "cell 2.ome.tif"], tmp_path / "set", workers=0) == 2
    assert (tmp_path / "set" / "index.json").read_bytes() == index  # nothing readable: nothing changed
    for bad in ({"spacing": "1,2"}, {"dt": "-1"}, {"profile": "huge"}):
        with pytest.raises(InputError):
            curate_command([movies], tmp_path / "set", workers=0, **bad)
    with pytest.raises(InputError, match="no movie"):
        curate_movies([], tmp_path / "set")
    with pytest.raises(InputError, match="workers"):
        curate_movies([movies], tmp_path / "set", workers=-1)


def test_a_scheduler_that_is_not_there_is_said(movies, tmp_path, monkeypatch):
    def absent(address, timeout):
        raise OSError(f"Timed out trying to connect to {address}")

    monkeypatch.setattr("dask.distributed.Client", absent)
    with pytest.raises(Unreachable, match="tcp://127.0.0.1:9"):
        curate_movies(find_movies(movies), tmp_path, RECIPE, address="tcp://127.0.0.1:9")


def test_what_a_folder_holds(tmp_path):
    import tifffile

    (tmp_path / "stacks").mkdir()
    for t in range(3):
        tifffile.imwrite(tmp_path / "stacks" / f"t_{t:03d}.tif", np.zeros((4, 16, 16), np.uint16), imagej=True,
                         metadata={"axes": "ZYX"})
    assert find_movies(tmp_path / "stacks") == [tmp_path / "stacks"]  # frames of one movie
    (tmp_path / "plain").mkdir()
    for t in range(3):
        write_movie(tmp_path / "plain" / f"t_{t:03d}.ome.tif", t, n=2)
    assert len(find_movies(tmp_path / "plain")) == 3  # movies whose names count
    (tmp_path / "notes.txt").write_text("no movie")
    assert len(find_movies(tmp_path)) == 4
    assert find_movies(tmp_path / "gone.tif") == [tmp_path / "gone.tif"]  # said when it is opened
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no movie"):
        find_movies(tmp_path / "empty")


def test_spacing_given_and_target(movies, tmp_path, capsys):
    status = curate_command([movies / "cell 0.ome.tif"], tmp_path / "set", workers=0, crop_shape=(8, 16, 16), n_crops=2,
                            spacing="0.2,0.1,0.1", target="0.15,0.1,0.1")
    assert status == 0 and "overrides the file's" in capsys.readouterr().out
    _, told = ShardLoader(tmp_path / "set" / "index.json")[0]
    assert told["spacing_um"] == pytest.approx([0.15, 0.1, 0.1], rel=0.1)


@pytest.mark.parametrize("kind, word", [("zeros", "rejected"), ("constant", "rejected"), ("nan", ""), ("plane", "2D"),
                                        ("small", "crop"), ("absent", "no such file"), ("text", "TIFF")])
def test_odd_movies_have_a_defined_outcome(tmp_path, kind, word):
    """P6: skipped with a reason, or done without the bad frame; never an exception, never half a folder."""
    good = np.stack([puncta((10, 40, 40), seed=s, n=12) for s in range(3)])
    bad = good.astype(np.float32)
    bad[1, 2, 3, 4] = np.nan
    frames = {"zeros": good * 0, "constant": good * 0 + 7, "nan": bad, "plane": good[:, :1], "small": good[..., :12]}
    path = tmp_path / f"{kind}.ome.tif"
    if kind == "text":
        path.write_text("not a movie")
    elif kind != "absent":
        Movie.from_array(frames[kind], spacing_um=SPACING).save(path)
    row = many_task.curate_movie(path, tmp_path / "set", RECIPE)
    assert (row["status"], row["accepted"]) == (("done", 2) if kind == "nan" else ("failed", 0)), row
    assert word in row["reason"] and not list((tmp_path / "set").glob(".partial*"))
    assert len([p for p in (tmp_path / "set").glob("*") if p.name[0] != "."]) == (kind == "nan")
