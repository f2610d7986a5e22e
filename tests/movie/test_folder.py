"""Folders of per-frame stacks: frame and channel told from the names, and every way in which they can't be."""

import numpy as np
import psutil
import pytest
import tifffile

from cellfm_nb.errors import InputError
from cellfm_nb.movie import Movie, import_movie, tiff
from cellfm_nb.seeds import rng

SPACING = (0.25, 0.1, 0.1)
STACK = (np.arange(5 * 8 * 9) % 251).astype("uint16").reshape(5, 8, 9)


def fill(folder, names):
    """Write a stack per name, in an order that tells nothing; the first voxel holds the place of the name."""
    for i in rng(0, "order").permutation(len(names)):
        tifffile.imwrite(folder / names[i], STACK + np.uint16(i), metadata={"axes": "ZYX"}, ome=True)
    return folder


def frame_of(movie):
    return [[int(movie.frame(t, c)[0, 0, 0]) for c in range(movie.n_channels)] for t in range(movie.n_frames)]


def refused(folder, says):
    with pytest.raises(InputError, match=says) as error:
        Movie.open(folder, SPACING)
    assert all(getattr(error.value, part) for part in ("what", "where", "got", "expected", "do"))
    return error.value


# names: [frame][channel] in the order that the movie must have
ONE = [[n] for n in range(12)]
NAMES = {
    "not padded": [f"cell_t{t}.tif" for t in range(12)],
    "padded": [f"cell_t{t:03d}.tif" for t in range(12)],
    "stack": [f"ex1_stack{t:04d}.tif" for t in range(12)],
    "word apart": [f"frame_{t}_cell.ome.tif" for t in range(12)],
    "number before t": [f"scan_000x_000y_000z_{t:04d}t.tif" for t in range(12)],
    "twice the same": [f"stack{t:04d}_000x_{t:04d}t.tif" for t in range(12)],
    "from 1, upper case": [f"Cell1_T{t}.TIF" for t in range(1, 13)],
    "every fifth": [f"cell_t{5 * t}.tif" for t in range(12)],
    "a number alone": [f"{t}.tif" for t in range(12)],
    "glued": [f"2024-11-03 cell{t}.tif" for t in range(12)],
    "words shuffled": [f"cell_t{t}_b.tif" if t % 2 else f"t{t}_b_cell.tif" for t in range(12)],
}


@pytest.mark.parametrize("case", NAMES)
def test_frames_come_in_the_order_of_their_numbers(tmp_path, case):
    movie = Movie.open(fill(tmp_path, NAMES[case]), SPACING)
    assert movie.shape == (12, 1, 5, 8, 9) and frame_of(movie) == ONE
    assert ("a guess" in str(movie.notes)) == (case in ("a number alone", "glued"))
    assert sorted(NAMES["not padded"])[2] == "cell_t10.tif"  # the wrong way: sorted as text, t10 comes third


CHANNELS = {
    ("ch0", "ch1"): ["a_ch{c}_t{t}.tif", "t{t}_ch{c}.tif", "ch{c}-stack{t:04d}.tif", "Cell ch{c} frame {t}.tif"],
    ("CamA ch0 488nm", "CamB ch1 560nm"): ["ex1_{cam}_ch{c}_stack{t:04d}_{nm}nm_{ms:07d}msec_{abs:010d}msecAbs.tif"],
    ("488nm", "560nm"): ["{nm}nm_t{t}.tif", "frame_{t}_{nm}nm.tif", "{nm}nm_{t}.tif"],
    ("GFP", "mCherry"): ["cell_{dye}_t{t:02d}.tif"],
    ("w1GFP", "w2mCherry"): ["cell_w{w}{dye}_s1_t{t}.TIF"],
}


@pytest.mark.parametrize(("channels", "pattern"), [(c, p) for c, ps in CHANNELS.items() for p in ps])
def test_channels_become_the_c_axis(tmp_path, channels, pattern):
    words = [{"c": 0, "w": 1, "cam": "CamA", "nm": 488, "dye": "GFP"},
             {"c": 1, "w": 2, "cam": "CamB", "nm": 560, "dye": "mCherry"}]
    names = [pattern.format(t=t, ms=2500 * t, abs=10**6 + 2500 * t, **w) for t in range(11) for w in words]
    movie = Movie.open(fill(tmp_path, names), SPACING)
    assert frame_of(movie) == [[2 * t, 2 * t + 1] for t in range(11)]
    assert movie.channel_names == channels and movie.channel_source == "file: file names"
    assert "2 channels told from the file names" in str(movie.notes) and movie.axes_source.startswith("file names")
    assert movie.dt_s == (2.5 if "ms" in pattern else None)
    assert movie.dt_source == ("file: time stamps in the names" if "ms" in pattern else "unknown")


def test_slices_of_a_folder_read_like_numpy(tmp_path):
    movie = Movie.open(fill(tmp_path, [f"ch{c}_t{t}.tif" for t in range(4) for c in range(2)]), SPACING)
    whole = movie.data[...]
    assert np.array_equal(movie.data[1:4:2, 1, 1:, ::3, -1], whole[1:4:2, 1, 1:, ::3, -1])


def test_a_folder_opens_only_the_file_asked_for(tmp_path, monkeypatch):
    movie = Movie.open(fill(tmp_path, [f"{t}.tif" for t in range(4)]), SPACING)
    opened, read = [], tiff.read
    monkeypatch.setattr(tiff, "read", lambda path, axes=None: (opened.append(path.name), read(path, axes))[1])
    assert np.array_equal(movie.frame(2), STACK + 2) and opened == ["2.tif"]


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_folder_holds_no_file_open(tmp_path, compression):
    for t in range(60):
        tifffile.imwrite(tmp_path / f"t{t}.tif", STACK, compression=compression, metadata={"axes": "ZYX"}, ome=True)
    before = psutil.Process().num_fds()
    movie = Movie.open(tmp_path, SPACING)
    movie.data[...]
    assert psutil.Process().num_fds() - before < 5  # else a thousand frames run out of handles


def test_what_the_files_state_is_kept(tmp_path):
    for t in range(3):
        tifffile.imwrite(tmp_path / f"cell_t{t}.tif", STACK, imagej=True, resolution=(10, 10), byteorder=">",
                         metadata={"axes": "ZYX", "spacing": 0.25, "unit": "um"})
    (tmp_path / "notes.txt").write_text("not a frame")
    (tmp_path / "._cell_t1.tif").write_bytes(b"left by another system")
    movie = Movie.open(tmp_path, dt_s=1.5)
    assert movie.spacing_um == pytest.approx(SPACING) and movie.dt_s == 1.5 and movie.dt_source == "given"
    assert movie.n_frames == 3 and movie.frame(1).dtype.isnative and np.array_equal(movie.frame(1), STACK)


def test_stacks_whose_axes_are_not_named_are_noted(tmp_path):
    for t in range(2):
        tifffile.imwrite(tmp_path / f"t{t}.tif", STACK, metadata=None, shaped=False)
    movie = Movie.open(tmp_path, SPACING)
    assert movie.axes_source == "file names, guessed" and "read as z planes (a guess)" in str(movie.notes)


# bad folders


def test_a_missing_frame_is_named(tmp_path):
    error = refused(fill(tmp_path, [f"t{t:03d}.tif" for t in range(12) if t not in (3, 7, 8)]), "Frames are missing")
    assert "frame 3; frames 7 to 8" in error.got and "0 to 11" in error.expected


def test_a_channel_that_lacks_a_frame_is_named(tmp_path):
    names = [f"cell_CamA_ch0_t{t}.tif" for t in range(5)] + [f"cell_CamB_ch1_t{t}.tif" for t in (0, 1, 3, 4)]
    error = refused(fill(tmp_path, names), "A channel lacks frames")
    assert "CamB ch1: frame 2" in error.got and "CamA" not in error.got


@pytest.mark.parametrize("names", [["a.tif", "b.tif", "c.tif"], ["1_5.tif", "2_7.tif"], ["cell1.tif", "cell.tif"],
                                   ["x1.tif", "y2.tif"], [f"c{i:03d}.tif" for i in range(20)]], ids=len)  # fmt: skip
def test_names_without_a_frame_number_are_refused(tmp_path, names):
    assert names[0][:-4] in refused(fill(tmp_path, names), "No frame number can be told apart").got


def test_two_movies_in_one_folder_are_refused(tmp_path):
    fill(tmp_path, [f"{cell}_t{t}.tif" for t in range(3) for cell in ("left", "right")])
    error = refused(tmp_path, "neither frame nor channel")
    assert "left" in error.got and "right" in error.got


def test_two_files_for_one_place_are_refused(tmp_path):
    assert "t1.tif" in refused(fill(tmp_path, ["t0.tif", "t1.tif", "t001.tif"]), "one place").got


def test_mixed_sizes_and_kinds_are_listed(tmp_path):
    fill(tmp_path, ["t0.tif", "t1.tif"])
    tifffile.imwrite(tmp_path / "t2.tif", STACK[:, :5])
    tifffile.imwrite(tmp_path / "t3.tif", STACK.astype("uint8"))
    error = refused(tmp_path, "2 of 4 stacks do not match")
    assert error.got == "t2.tif (5, 5, 9) uint16; t3.tif (5, 8, 9) uint8"


@pytest.mark.parametrize("damage", ["zero bytes", "cut short"])
def test_a_damaged_file_is_named(tmp_path, damage):
    fill(tmp_path, [f"t{t}.tif" for t in range(4)])
    bad = tmp_path / "t2.tif"
    bad.write_bytes(b"" if damage == "zero bytes" else bad.read_bytes()[:700])
    error = refused(tmp_path, "are empty" if damage == "zero bytes" else "cut short|can't be read")
    assert "t2.tif" in str(error)


def test_a_file_damaged_after_opening_is_named_with_its_frame(tmp_path):
    (tmp_path / "in").mkdir()
    fill(tmp_path / "in", [f"t{t}.tif" for t in range(4)])
    movie = Movie.open(tmp_path / "in", SPACING)
    (tmp_path / "in" / "t2.tif").unlink()
    with pytest.raises(InputError, match="can't be read"):
        movie.save(tmp_path / "out.ome.zarr")
    assert not (tmp_path / "out.ome.zarr").exists()


def test_an_empty_folder_and_whole_movies_are_refused(tmp_path):
    refused(tmp_path, "no frame in this folder")
    tifffile.imwrite(tmp_path / "a.ome.tif", np.stack([STACK] * 3), metadata={"axes": "TZYX"})
    refused(tmp_path, "not single stacks")


def test_planes_are_no_volumes(tmp_path):
    for t in range(3):
        tifffile.imwrite(tmp_path / f"t{t}.tif", STACK[0])
    refused(tmp_path, "not single stacks")


def test_a_nan_in_one_channel_is_named_at_import(tmp_path):
    (tmp_path / "in").mkdir()
    for t in range(3):
        for c in range(2):
            stack = STACK.astype("float32")
            stack[1, 2, 3] = np.nan if (t, c) == (1, 1) else 0
            tifffile.imwrite(tmp_path / "in" / f"ch{c}_t{t}.tif", stack)
    with pytest.raises(InputError, match="not numbers") as error:
        import_movie(tmp_path / "out.ome.zarr", tmp_path / "in", SPACING)
    assert "frame 1" in error.value.where and "1, 1, 2, 3" in error.value.got
    assert [p.name for p in tmp_path.iterdir()] == ["in"]
