"""What a user meets: several calls into one data set, folders of frames, copies, odd options, Ctrl-C."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
import zarr

from cellfm_nb.curate import many_task
from cellfm_nb.curate.decisions import Decisions
from cellfm_nb.curate.loader import ShardLoader
from cellfm_nb.curate.many import Recipe, curate_command, curate_movies, find_movies
from cellfm_nb.curate.shards import ShardIndex
from cellfm_nb.errors import InputError
from cellfm_nb.movie import Movie, import_movie, vendor
from cellfm_nb.movie.source import RAW_SCAN
from cellfm_nb.provenance import outside_digest

from .test_many import RECIPE, SPACING, write_movie
from .twin import puncta

SMALL = {"workers": 0, "crop_shape": "8,16,16", "n_crops": 4}


def write_stack(path, seed=0, shape=(10, 40, 40)):
    path.parent.mkdir(exist_ok=True)
    tifffile.imwrite(path, puncta(shape, seed=seed, n=12), imagej=True, resolution=(10, 10),
                     metadata={"axes": "ZYX", "spacing": 0.25, "unit": "um"})


def held(out):
    """The folders of a data set's movies; movies.csv, index.json and quality.csv must name the same."""
    table = pd.read_csv(out / "movies.csv", keep_default_na=False)
    index = ShardIndex.load(out / "index.json")
    folders = {Path(shard["name"]).parent.name for shard in index.shards}
    assert folders == set(table.folder[table.crops > 0]) == set(pd.read_csv(out / "quality.csv").movie)
    assert len(index) == table.crops.sum()
    return folders


# folders

FRAMES = {"cameras": ["CamA_ch0_stack{t:04d}_488nm", "CamB_ch1_stack{t:04d}_560nm"],
          "dyes": ["cell_GFP_t{t:04d}", "cell_mCherry_t{t:04d}"], "plain": ["cell_{t}"]}


@pytest.mark.parametrize("kind", FRAMES)
def test_frames_of_a_folder_are_one_movie(tmp_path, kind):
    for t in range(2):
        for name in FRAMES[kind]:
            write_stack(tmp_path / "cell" / f"{name.format(t=t)}.tif")
    assert find_movies(tmp_path) == [tmp_path / "cell"]
    assert Movie.open(tmp_path / "cell").shape[:2] == (2, len(FRAMES[kind]))


@pytest.mark.parametrize("stray", ["MAX_cell.tif", "cell_t0001_copy.tif", "other_t0000.tif"])
def test_frames_that_do_not_fit_fail_their_folder(tmp_path, stray):
    for t in range(3):
        write_stack(tmp_path / "cell" / f"cell_t{t:04d}.tif", t)
    write_stack(tmp_path / "cell" / stray, 9)
    with pytest.raises(InputError) as error:
        Movie.open(tmp_path / "cell")
    table = curate_movies(find_movies(tmp_path), tmp_path / "set", RECIPE, workers=0)
    assert table.status.tolist() == ["failed"] and not held(tmp_path / "set")
    assert table.reason[0].startswith(f"{error.value.what[:-1]}: {error.value.got}")
    assert error.value.do in table.reason[0]


def test_stacks_without_frame_words_are_movies(tmp_path):
    for name in ("alpha", "beta"):
        write_stack(tmp_path / "m" / f"{name}.tif")
    assert len(find_movies(tmp_path)) == 2


def test_links_are_followed_once(tmp_path):
    write_movie(tmp_path / "a" / "cell.ome.tif", 1)
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "again.ome.tif").symlink_to(tmp_path / "a" / "cell.ome.tif")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert find_movies(tmp_path) == [tmp_path / "a" / "cell.ome.tif"] == find_movies(tmp_path / "a")


# several calls


@pytest.fixture()
def two(tmp_path):
    """Two movies and a data set of both."""
    for i in range(2):
        write_movie(tmp_path / f"m{i}.ome.tif", i, n=1)
    curate_movies([tmp_path / "m0.ome.tif", tmp_path / "m1.ome.tif"], tmp_path / "set", RECIPE, workers=0)
    return tmp_path, tmp_path / "set"


def test_a_second_call_keeps_the_movies_of_the_first(two, capsys):
    folder, out = two
    sides = ShardIndex.load(out / "index.json").about["split"]
    write_movie(folder / "m2.ome.tif", 2, n=1)
    table = curate_movies([folder / "m2.ome.tif"], out, RECIPE, workers=0)
    assert table.status.tolist() == ["done", "kept", "kept"] and len(held(out)) == 3
    assert sides.items() <= ShardIndex.load(out / "index.json").about["split"].items()
    assert len(ShardLoader(out / "index.json")) == 18
    # another recipe: the earlier ones are left out, and said; the first recipe has them back
    other = Recipe(**(vars(RECIPE) | {"n_crops": 4}))
    table = curate_movies([folder / "m2.ome.tif"], out, other, workers=0)
    assert table.status.tolist() == ["done", "left out", "left out"] and len(held(out)) == 1
    assert table.reason.str.contains("another recipe").sum() == 2
    table = curate_movies([folder / "m2.ome.tif"], out, RECIPE, workers=0)
    assert table.status.tolist() == ["done", "kept", "kept"] and len(held(out)) == 3
    # a movie that is another now replaces what it was
    write_movie(folder / "m2.ome.tif", 3, n=1)
    table = curate_movies([folder / "m2.ome.tif"], out, RECIPE, workers=0)
    assert table.status.tolist() == ["done", "kept", "kept"] and len(held(out)) == 3
    assert curate_command([folder / "m0.ome.tif"], out, workers=0, crop_shape=(8, 16, 16), n_crops=6) == 0
    assert "of earlier calls left out" in capsys.readouterr().out  # max_bytes is of the recipe too


def test_a_deleted_folder_takes_its_movie_out(two):
    folder, out = two
    shutil.rmtree(next(out.glob("m1-*")))
    assert len(curate_movies([folder / "m0.ome.tif"], out, RECIPE, workers=0)) == len(held(out)) == 1


def test_damaged_shards_of_earlier_calls_are_left_out(two):
    folder, out = two
    shard = next(out.glob("m1-*/crops-000000.tar"))
    shard.write_bytes(shard.read_bytes()[:-1024])
    table = curate_movies([folder / "m0.ome.tif"], out, RECIPE, workers=0)
    assert table.status.tolist() == ["unchanged", "left out"] and len(held(out)) == 1


def test_a_movie_rejected_by_its_readers_leaves_the_index(two):
    folder, out = two
    for name in ("m0", "m1"):
        path = folder / f"{name}.ome.tif"
        Decisions(out / "decisions.csv").decide("ann", name, outside_digest(path), 0, "reject", "out of focus")
        table = curate_movies([path], out, RECIPE, workers=0)
        assert table.status[0] == "failed" and "out of focus" in table.reason[0]
    assert not held(out)  # every movie failed, and no crop of theirs stays


def test_a_file_that_cannot_be_read_now_keeps_its_crops(two, capsys):
    folder, out = two
    (folder / "m0.ome.tif").rename(folder / "away")
    table = curate_movies([folder / "m0.ome.tif", folder / "m1.ome.tif"], out, RECIPE, workers=0)
    assert table.status.tolist() == ["kept", "unchanged"] and "no such file" in table.reason[0] and len(held(out)) == 2
    # its content changed for the worse: that is no failure to read it
    (folder / "m0.ome.tif").write_bytes((folder / "away").read_bytes()[:-5000])
    table = curate_movies([folder / "m0.ome.tif"], out, RECIPE, workers=0)
    assert table.status.tolist() == ["failed", "kept"] and len(held(out)) == 1
    (folder / "m0.ome.tif").unlink()
    with pytest.raises(InputError, match="no movie"):
        curate_movies([folder / "m0.ome.tif"], out, RECIPE, workers=0)
    assert len(held(out)) == 1


def test_a_movie_in_two_formats_counts_once(two):
    folder, out = two
    import_movie(folder / "copy.ome.zarr", folder / "m0.ome.tif", spacing_um=(0.3, 0.1, 0.1))
    table = curate_movies([folder / "copy.ome.zarr", folder / "m1.ome.tif"], out, RECIPE, workers=0)
    assert dict(zip(table.name, table.status, strict=True)) == {"copy": "failed", "m1": "unchanged", "m0": "kept"}
    assert "a copy of m0-" in table.reason[0] and len(held(out)) == 2


def test_the_digest_of_voxels_sees_every_frame_of_a_small_movie(monkeypatch):
    from cellfm_nb.curate import many_fit

    frames = np.stack([puncta((10, 40, 40), seed=s, n=12) for s in range(5)])

    def digest(array):
        return many_fit.voxel_digest(Movie.from_array(array, spacing_um=SPACING))

    changed = frames.copy()
    changed[1, 2, 3, 4] += 1
    assert digest(frames) == digest(frames.astype(np.float32)) == digest(frames.astype(">i4")) != digest(changed)
    monkeypatch.setattr(many_fit, "FEW_VOXELS", 0)
    assert digest(frames) == digest(changed) != digest(frames[::-1])


def test_leftovers_are_cleaned_when_nobody_holds_them(two):
    from filelock import FileLock

    folder, out = two
    for name in ("x-0123abcd", "y-0123abcd"):
        (out / f".partial-{name}").mkdir()
        (out / f".{name}.lock").touch()
    (out / ".notes").touch()
    with FileLock(out / ".y-0123abcd.lock"):
        curate_movies([folder / "m0.ome.tif"], out, RECIPE, workers=0)
    assert {p.name for p in out.glob(".*")} == {".partial-y-0123abcd", ".y-0123abcd.lock", ".notes"}
    curate_movies([folder / "m0.ome.tif"], out, RECIPE, workers=0)
    assert [p.name for p in out.glob(".*")] == [".notes"]


# what does not fit


def test_a_raw_stage_scan_is_refused(tmp_path):
    path = "Metadata Information Image Dimensions Z ZAxisShear".split()
    xml = "<r>" + "".join(f"<{n}>" for n in path) + "Skew60" + "".join(f"</{n}>" for n in reversed(path)) + "</r>"
    assert vendor._czi_says(xml).notes[0].startswith(RAW_SCAN)
    movie = Movie.from_array(puncta((10, 40, 40), n=12), "zyx", spacing_um=SPACING)
    movie.notes = (f"{RAW_SCAN} (Skew60): z is the step of the stage",)
    movie.save(tmp_path / "scan.ome.zarr")
    import_movie(tmp_path / "again.ome.zarr", tmp_path / "scan.ome.zarr")  # the mark travels with the notes
    assert Movie.open(tmp_path / "again.ome.zarr").raw_scan
    row = many_task.curate_movie(tmp_path / "again.ome.zarr", tmp_path / "set", RECIPE)
    assert row["status"] == "failed" and "cellfm deskew" in row["reason"] and "Skew60" in row["reason"]
    raw_ok = Recipe(**(vars(RECIPE) | {"raw_ok": True}))
    assert many_task.curate_movie(tmp_path / "again.ome.zarr", tmp_path / "set", raw_ok)["status"] == "done"
    movie.notes += ("deskewed here: 2.5 px along x per plane",)
    assert not movie.raw_scan


@pytest.mark.parametrize("target, status, word", [((0.05, 0.1, 0.1), "failed", "micrometre"), ((0.1, 0.1, 0.1), "done",
                         "2.5 times"), ((0.2, 0.1, 0.1), "done", ""), ((250, 100, 100), "failed", "crop")])  # fmt: skip
def test_a_target_far_finer_than_the_movie_is_refused(tmp_path, target, status, word):
    write_movie(tmp_path / "a.ome.tif", 1, n=1)
    row = many_task.curate_movie(tmp_path / "a.ome.tif", tmp_path / "set", Recipe((8, 16, 16), 2, target_um=target))
    assert row["status"] == status and word in row["reason"] and bool(word) == bool(row["reason"])


def test_a_movie_smaller_than_a_crop_says_what_fits_and_its_notes(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", puncta((6, 40, 40)))
    row = many_task.curate_movie(tmp_path / "a.tif", tmp_path / "set", Recipe((8, 16, 16), 2, spacing_um=SPACING))
    assert row["status"] == "failed" and all(word in row["reason"] for word in (
        "6 x 40 x 40", "expected at least 8 x 16 x 16", "--crop-shape", "pages are read as z planes")), row["reason"]


def test_spacings_that_differ_are_said(two, capsys):
    folder, out = two
    assert ShardIndex.load(out / "index.json").about["notes"] == []
    other = Movie.from_array(puncta((10, 40, 40), seed=9, n=12), "zyx", spacing_um=(0.3, 0.1, 0.1))
    other.save(folder / "x.ome.tif")
    paths = sorted(folder.glob("*.tif"))
    assert curate_command(paths, out, **SMALL) == 0
    note, = ShardIndex.load(out / "index.json").about["notes"]
    assert "0.25 x 0.1 x 0.1 um in 2" in note and "0.3 x 0.1 x 0.1 um in 1" in note and note in capsys.readouterr().out
    assert curate_command(paths, out, **SMALL, target="0.25,0.1,0.1") == 0
    assert ShardIndex.load(out / "index.json").about["notes"] == []


def test_bad_calls_are_said_at_once_and_leave_nothing(two, tmp_path):
    folder, out = two
    movie, new = folder / "m0.ome.tif", tmp_path / "new" / "set"
    for bad in ({"n_crops": 0}, {"n_crops": -3}, {"crop_shape": "8,x"}, {"crop_shape": "8,16"}, {"validation": 1.5},
                {"dask": "tpc://127.0.0.1:9"}, {"dask": "tcp:/127.0.0.1:9"}, {"dask": "tcp://127.0.0.1:99999"},
                {"dask": "127.0.0.1"}):
        with pytest.raises(InputError):
            curate_command([movie], new, **(SMALL | bad))
        assert not new.parent.exists(), bad
    with pytest.raises(InputError, match="no movie"):
        curate_movies([folder / "gone.tif"], new, RECIPE, workers=2)  # no cluster is started for it
    for bad in (movie, movie / "set", Path("/proc/ds")):
        with pytest.raises(InputError, match="written"):
            curate_movies([movie], bad, RECIPE, workers=0)
    new.mkdir(parents=True)
    (new / "decisions.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="decisions"):
        curate_movies([movie], new, RECIPE, workers=0)
    assert [p.name for p in new.iterdir()] == ["decisions.csv"]


def test_lines_of_the_decisions_that_count_for_nothing_are_said(two, capsys):
    folder, out = two
    Decisions(out / "decisions.csv").decide("ann", "m9", "e" * 64, 0, "reject")
    with open(out / "decisions.csv", "a") as stream:
        stream.write("2026-01-01,ann,m0,0,0,0,maybe,\n")
    assert curate_command([folder / "m0.ome.tif"], out, **SMALL) == 0
    assert capsys.readouterr().out.count("line 3 is no decision and left out") == 1
    (out / "decisions.csv").unlink()
    (out / "decisions.csv").mkdir()
    with pytest.raises(InputError, match="can't be read"):
        curate_command([folder / "m0.ome.tif"], out, **SMALL)


def test_a_scheduler_that_does_not_answer_leaves_no_folder(two, monkeypatch):
    from cellfm_nb.errors import Unreachable

    def absent(address, timeout):
        raise OSError("Timed out")

    monkeypatch.setattr("dask.distributed.Client", absent)
    with pytest.raises(Unreachable):
        curate_movies([two[0] / "m0.ome.tif"], two[0] / "new" / "set", RECIPE, address="tcp://127.0.0.1:9")
    assert not (two[0] / "new").exists()


def test_a_folder_that_only_others_may_write(two, monkeypatch):
    import tempfile

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(InputError, match="Permission denied"):
        curate_movies([two[0] / "m0.ome.tif"], two[0] / "new" / "set", RECIPE, workers=0)
    assert not (two[0] / "new").exists()


def test_movies_of_one_name_are_told_by_their_paths(tmp_path, capsys):
    for i in range(2):
        write_movie(tmp_path / "in" / str(i) / "cell.ome.tif", i, n=1)
    write_movie(tmp_path / "in" / "own.ome.tif", 5, n=1)
    assert curate_command([tmp_path / "in"], tmp_path / "set", **SMALL) == 0
    said = capsys.readouterr().out
    assert all(f"{tmp_path}/in/{i}/cell.ome.tif" in said for i in range(2)) and f"{tmp_path}/in/own" not in said


@pytest.mark.parametrize("name", ["array", "/", None])
def test_an_image_without_a_name_goes_by_its_file(tmp_path, name):
    path = tmp_path / "cell 7.ome.zarr"
    Movie.from_array(puncta((10, 40, 40), n=12), "zyx", spacing_um=SPACING).save(path)
    group = zarr.open_group(path, mode="a")
    ome = dict(group.attrs["ome"])
    ome["multiscales"][0] |= {"name": name} if name else {}
    if name is None:
        del ome["multiscales"][0]["name"]
    group.attrs["ome"] = ome
    assert Movie.open(path).name == "cell 7"


def test_ctrl_c_ends_in_one_line(tmp_path):
    (tmp_path / "in").mkdir()
    for i in range(6):
        frames = np.stack([puncta((24, 64, 64), seed=i)] * 4)
        Movie.from_array(frames, spacing_um=SPACING).save(tmp_path / "in" / f"m{i}.ome.tif")
    command = [sys.executable, "-m", "cellfm_nb.cli", "curate", str(tmp_path / "in"), "--to", str(tmp_path / "set")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               start_new_session=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    started = time.monotonic()
    while not list(tmp_path.glob("set/.*.lock")) and time.monotonic() - started < 60:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the group
    said = [line for line in process.communicate(timeout=60)[0].splitlines() if line]
    assert process.returncode == 130, said
    assert [line for line in said if not line.startswith("movies: ")] == [
        "cellfm: stopped; the same command goes on from here."]
