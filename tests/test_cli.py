"""The command: every kind of bad input ends in one clear message and exit status 2, with nothing half-written."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tifffile

from cellfm_nb import cli
from cellfm_nb.movie import Movie
from cellfm_nb.workspace import Workspace

PARTS = ("got:", "expected:", "what to do:")


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """An empty place to work in, as a new user would."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CELLFM_HOME", str(tmp_path))
    return tmp_path


def noise(*shape, dtype=np.uint16):
    return np.random.default_rng(0).integers(90, 200, shape).astype(dtype)


def save(path, array, axes="TZYX", spacing=True, **options):
    about = {"axes": axes} | ({"PhysicalSizeX": 0.1, "PhysicalSizeY": 0.1, "PhysicalSizeZ": 0.25} if spacing else {})
    tifffile.imwrite(path, array, ome=True, metadata=about, photometric="minisblack", **options)


def missing(at):
    return "nowhere.ome.tif"


def text(at):
    (at / "m.tif").write_text("this is no image")
    return "m.tif"


def truncated(at):
    save(at / "m.ome.tif", noise(3, 20, 48, 48))
    data = (at / "m.ome.tif").read_bytes()
    (at / "m.ome.tif").write_bytes(data[: len(data) // 2])
    return "m.ome.tif"


def flat(at):
    save(at / "m.ome.tif", noise(64, 64), "YX")
    return "m.ome.tif"


def rgb(at):
    tifffile.imwrite(at / "m.tif", noise(20, 64, 64, 3, dtype=np.uint8), photometric="rgb")
    return "m.tif"


def small(at):
    save(at / "m.ome.tif", noise(2, 6, 20, 20))
    return "m.ome.tif"


def empty_folder(at):
    (at / "frames").mkdir()
    return "frames"


def no_spacing(at):
    tifffile.imwrite(at / "m.tif", noise(3, 20, 48, 48), photometric="minisblack", metadata={"axes": "TZYX"})
    return "m.tif"


@pytest.mark.parametrize(("make", "says"), [
    (missing, "nowhere"), (text, "tif"), (truncated, ""), (flat, "z"), (rgb, "RGB"), (small, "smaller than a crop"),
    (empty_folder, ""), (no_spacing, "spacing")], ids=lambda v: getattr(v, "__name__", ""))
def test_bad_movies_are_refused_before_anything_is_written(bench, capsys, make, says):
    path = make(bench)
    before = sorted(p.name for p in bench.rglob("*"))
    assert cli.main(["run", "--movie", path]) == 2
    message = capsys.readouterr().err
    assert says in message and all(part in message for part in PARTS), message
    assert sorted(p.name for p in bench.rglob("*")) == before


@pytest.mark.parametrize(("options", "says"), [
    (["--profile", "huge"], "tiny, workshop, full"),
    (["--set", "nonsense=3"], "Unknown parameter"),
    (["--set", "nonsense"], "NAME=VALUE"),
    (["--from", "42"], "No notebook has this number"),
    (["--from", "05", "--to", "03"], "--from comes after --to"),
    (["--device", "tpu"], "auto, cpu or cuda"),
    (["--spacing", "0.25,0.1"], "spacing"),
    (["--spacing", "a,b,c"], "spacing"),
    (["--spacing=-1,0.1,0.1"], "spacing"),
    (["--dt", "soon"], "--dt"),
    (["--frames", "0:3", "--dt", "2"], "--dt and --frames without a movie"),
    (["--workspace", "file/run"], "can't be written"),
], ids=lambda v: " ".join(v) if isinstance(v, list) else "")
def test_bad_options_are_refused(bench, capsys, options, says):
    (bench / "file").write_text("")
    assert cli.main(["run", *options]) == 2
    message = capsys.readouterr().err
    assert says in message and all(part in message for part in PARTS[:2]), message
    assert not (bench / "runs").exists()


def test_cuda_without_one(bench, capsys):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert cli.main(["run", "--device", "cuda"]) == 2
    assert "No CUDA device" in capsys.readouterr().err and not (bench / "runs").exists()


def test_a_workspace_of_another_movie(bench, capsys):
    save(bench / "a.ome.tif", noise(2, 20, 48, 48))
    Workspace.open("runs/a").claim_movie(None)
    assert cli.main(["run", "--movie", "a.ome.tif", "--workspace", "runs/a"]) == 2
    assert "another movie" in capsys.readouterr().err


def test_without_a_movie_a_workspace_goes_on_with_its_own(bench, capsys, monkeypatch):
    from cellfm_nb import notebooks

    given = []
    monkeypatch.setattr(notebooks, "run_notebooks", lambda books, folder, **options: given.append(options))
    monkeypatch.setattr(notebooks, "finish", lambda ws: None)
    save(bench / "a.ome.tif", noise(2, 20, 48, 48))
    assert cli.main(["run", "--movie", "a.ome.tif", "--workspace", "runs/a"]) == 0
    assert cli.main(["run", "--workspace", "runs/a", "--from", "02", "--to", "02"]) == 0
    assert [options["movie_path"] for options in given] == ["a.ome.tif", "a.ome.tif"]
    save(bench / "a.ome.tif", noise(3, 20, 48, 48))
    capsys.readouterr()
    assert cli.main(["run", "--movie", "a.ome.tif", "--workspace", "runs/a"]) == 2
    assert "content has changed" in capsys.readouterr().err


def test_what_was_understood_is_told_before_the_run(bench, capsys, monkeypatch):
    from cellfm_nb import notebooks

    monkeypatch.setattr(notebooks, "run_notebooks", lambda *a, **options: None)
    monkeypatch.setattr(notebooks, "finish", lambda ws: None)
    tifffile.imwrite(bench / "m.tif", noise(40, 48, 48), photometric="minisblack", metadata=None)
    assert cli.main(["run", "--movie", "m.tif", "--spacing", "0.25,0.1,0.1"]) == 0
    assert "guess" in capsys.readouterr().err  # 40 pages taken for 40 planes
    tifffile.imwrite(bench / "m.tif", noise(2, 20, 48, 48), photometric="minisblack")
    assert cli.main(["run", "--movie", "m.tif", "--spacing", "0.25,0.1,0.1", "--axes", "tzyx", "--workspace", "b"]) == 0
    told = capsys.readouterr().err
    assert "2 frames" in told and "guess" not in told


def test_some_frames_of_a_movie_are_taken(bench, capsys):
    voxels = noise(7, 20, 48, 48)
    save(bench / "m.ome.tif", voxels)
    run = ["run", "--movie", "m.ome.tif", "--dt", "1.5", "--from", "01", "--to", "01", "--frames"]
    assert cli.main([*run, "1:6:2"]) == 0
    movie = Movie.open(bench / "runs" / "m" / "movie.ome.zarr")
    assert np.array_equal(movie.data[:, 0], voxels[1:6:2]) and movie.dt_s == 3.0
    assert any("frames 1 to 5, every 2." in note for note in movie.notes)
    for wrong in ("7:", "3", "5:1", "a:b", "::-1", "1:2:3:4"):
        assert cli.main([*run, wrong]) == 2
        assert "no frames of the movie" in capsys.readouterr().err
    assert Movie.open(bench / "runs" / "m" / "movie.ome.zarr").n_frames == 3  # a wrong word changed nothing


@pytest.mark.parametrize(("planes", "left_out"), [(16, set()), (6, {"02", "03"})])
def test_a_movie_too_shallow_to_train_on_takes_the_encoder_of_the_package(bench, capsys, monkeypatch, planes, left_out):
    from cellfm_nb import notebooks

    ran = []
    monkeypatch.setattr(notebooks, "run_notebooks", lambda books, *a, **options: ran.extend(books))
    monkeypatch.setattr(notebooks, "finish", lambda ws: None)
    save(bench / "m.ome.tif", noise(2, planes, 48, 48))
    assert cli.main(["run", "--movie", "m.ome.tif"]) == 0
    assert set(notebooks.listing()) - {book.name[:2] for book in ran} == left_out
    assert ("left out" in capsys.readouterr().err) == bool(left_out)
    assert cli.main(["run", "--movie", "m.ome.tif", "--from", "02", "--to", "03"]) == (2 if left_out else 0)


@pytest.mark.parametrize("fault", ["nan", "infinite", "constant"])
def test_bad_voxels_stop_the_import(bench, capsys, fault):
    movie = noise(2, 20, 48, 48).astype(np.float32)
    if fault == "constant":
        movie[:] = 7
    else:
        movie[1, 3, 4, 5] = np.nan if fault == "nan" else np.inf
    save(bench / "m.ome.tif", movie)
    assert cli.main(["run", "--movie", "m.ome.tif", "--from", "01", "--to", "01"]) == 2
    message = capsys.readouterr().err
    assert "01_meet_the_movie" in message and all(part in message for part in PARTS), message
    run = bench / "runs" / "m"
    assert not (run / "movie.ome.zarr").exists() and not list(run.rglob(".partial*"))


def test_a_failing_cell_is_told_in_one_screen(bench, capsys, monkeypatch):
    import nbformat

    from cellfm_nb import notebooks

    book = nbformat.v4.new_notebook(cells=[
        nbformat.v4.new_code_cell('workspace = "runs/demo"  # folder', id="parameters",
                                  metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("print('fine')", id="goes-well"),
        nbformat.v4.new_code_cell("1 / 0", id="divides-by-zero")])
    nbformat.write(book, bench / "00_fails.ipynb")
    monkeypatch.setattr(notebooks, "folder", lambda: bench)
    assert cli.main(["run"]) == 1
    message = capsys.readouterr().err
    assert "00_fails" in message and "divides-by-zero" in message and "ZeroDivisionError" in message
    assert len(message.splitlines()) < 50 and (bench / "runs/demo/executed/00_fails.html").exists()


def test_checksum_mismatch(bench, capsys, monkeypatch):
    monkeypatch.setenv("CELLFM_CACHE", str(bench / "cache"))
    monkeypatch.setenv("CELLFM_DATA", str(bench / "data"))
    (bench / "data").mkdir()
    archive = bench / "data" / "pycudadecon-0.5.1.tar.gz"
    archive.touch()
    os.truncate(archive, 52352942)  # the right size, the wrong bytes
    assert cli.main(["data", "fetch", "llsm_pycudadecon"]) == 2
    message = capsys.readouterr().err
    assert "sha256" in message and all(part in message for part in PARTS)


def test_pretrain_trains_on_a_data_set_alone_and_under_torchrun(bench, capsys):
    from cellfm_nb.curate import write_shards
    from cellfm_nb.encoder import Encoder

    rng, about = np.random.default_rng(0), {"spacing_um": [0.25, 0.1, 0.1]}
    (bench / "crops").mkdir()
    write_shards(bench / "crops" / "crops", [(f"c-{i}", rng.normal(size=(16, 32, 32)).astype(np.float16), about)
                                             for i in range(6)]).save(bench / "crops" / "index.json")
    small = ["--device", "cpu", *(f"--set={s}" for s in ("steps=2", "batch=2", "width=32", "depth=1", "heads=2"))]
    assert cli.main(["pretrain", "crops", "--to", "one", *small]) == 0
    one = Encoder.from_pretrained(bench / "one")
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m",
                           "cellfm_nb.cli", "pretrain", "crops", "--to", "two", *small], env=env, capture_output=True,
                          text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    two = Encoder.from_pretrained(bench / "two")
    pairs = zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    assert max(float((a - b).abs().max()) for a, b in pairs) < 1e-4
    assert cli.main(["pretrain", "crops", "--to", "one", *small]) == 0  # whole already: nothing is trained again
    capsys.readouterr()
    for wrong in (["nowhere"], *(["crops", "--set", odd] for odd in ("stepz=3", "steps", "steps=0"))):
        assert cli.main(["pretrain", *wrong, "--to", "x"]) == 2 and not (bench / "x").exists(), wrong


def test_deskew_measures_writes_and_refuses(bench, capsys):
    stack = np.full((12, 40, 64), 100, np.uint16) + noise(12, 40, 64) // 20
    save(bench / "raw.ome.tif", stack, "ZYX")
    assert cli.main(["deskew", "raw.ome.tif", "--to", "a.ome.zarr", "--pixel", "0.1", "--step", "0.3"]) == 2
    assert "geometry" in capsys.readouterr().err and not (bench / "a.ome.zarr").exists()  # nothing in it moves
    given = ["--pixel", "0.1", "--step", "0.3", "--angle", "31.5"]
    assert cli.main(["deskew", "raw.ome.tif", "--to", "a.ome.zarr", *given, "--axis", "y"]) == 0
    assert "written: a.ome.zarr" in capsys.readouterr().out
    assert cli.main(["deskew", "raw.ome.tif", "--to", "a.ome.zarr", *given]) == 2  # never over what is there


def test_curate_reports_the_bad_movie_and_keeps_the_good(bench, capsys):
    (bench / "movies").mkdir()
    frames = np.random.default_rng(0).normal(100, 5, (3, 20, 48, 48)).astype(np.uint16)
    save(bench / "movies" / "good.ome.tif", frames)
    save(bench / "movies" / "bad.ome.tif", frames)
    data = (bench / "movies" / "bad.ome.tif").read_bytes()
    (bench / "movies" / "bad.ome.tif").write_bytes(data[: len(data) // 2])
    options = ["--to", "crops", "--workers", "0", "--crops", "4", "--crop-shape", "16,32,32"]
    assert cli.main(["curate", "movies", *options]) == 1
    assert "cut short" in capsys.readouterr().out and (bench / "crops" / "index.json").exists()
    assert cli.main(["curate", "movies/good.ome.tif", *options]) == 0
    assert cli.main(["curate", "nowhere", *options]) == 2 and "nowhere" in capsys.readouterr().err


def test_version_and_help(capsys):
    for option in ("--version", "--help"):
        with pytest.raises(SystemExit) as stop:
            cli.main([option])
        assert stop.value.code == 0


def test_options_of_jupyterlab_are_passed_on_by_lab_alone(capsys, monkeypatch):
    called = []
    monkeypatch.setattr(subprocess, "call", lambda command, env: called.append(command) or 0)
    assert cli.main(["lab", "--no-browser", "--ip", "0.0.0.0", "--", "--port=1"]) == 0
    assert called[0][1:4] == ["-m", "jupyter", "lab"]
    assert called[0][-4:] == ["--no-browser", "--ip", "0.0.0.0", "--port=1"]
    with pytest.raises(SystemExit) as stopped:
        cli.main(["doctor", "--no-browser"])
    assert stopped.value.code == 2 and "--no-browser" in capsys.readouterr().err and len(called) == 1
