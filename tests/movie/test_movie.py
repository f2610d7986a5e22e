"""Movie: lazy, in one axis order, and refusing bad input with what, where, got, expected and what to do."""

import weakref

import hypothesis.strategies as st
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given, settings

from cellfm_nb.errors import InputError
from cellfm_nb.movie import Movie, import_movie, parse_spacing, write_frames
from cellfm_nb.movie.axes import ORDER, Canonical, canonical
from cellfm_nb.seeds import rng

SPACING = (0.25, 0.1, 0.1)
STACK = (np.arange(6 * 20 * 22) % 251).astype("uint16").reshape(6, 20, 22)


@settings(max_examples=60, deadline=None)
@given(st.permutations(ORDER), st.sets(st.sampled_from("tc")), st.data())
def test_any_axis_order_reads_like_numpy(order, dropped, data):
    axes = "".join(a for a in order if a not in dropped)
    sizes = dict(zip(ORDER, (2, 3, 4, 5, 6), strict=True))
    array = rng(0, "axes").integers(0, 1000, [sizes[a] for a in axes]).astype(">u2")
    expected = array.transpose([axes.index(a) for a in ORDER if a in axes])
    expected = expected.reshape([sizes[a] if a in axes else 1 for a in ORDER])
    key = tuple(data.draw(st.one_of(st.integers(-n, n - 1), st.slices(n))) for n in expected.shape)
    key = tuple(slice(*k.indices(n)) if isinstance(k, slice) and (k.step or 1) > 0 else slice(None)
                if isinstance(k, slice) else k for k, n in zip(key, expected.shape, strict=True))
    lazy = Canonical(array, axes)
    assert np.array_equal(lazy[key], expected[key]) and lazy[key].dtype == np.uint16
    assert np.array_equal(lazy[..., 2], expected[..., 2]) and np.array_equal(lazy[0], expected[0])
    assert np.array_equal(canonical(array, axes), expected)


# lazy


def test_a_movie_larger_than_any_memory_opens_and_gives_one_corner(tmp_path):
    array = zarr.create_array(tmp_path / "big", shape=(5000, 1, 200, 4096, 4096), dtype="uint16",
                              chunks=(1, 1, 8, 64, 64))  # 34 TB, none of it written
    movie = Movie.from_array(array, ORDER, spacing_um=SPACING)
    assert movie.n_frames == 5000 and movie.data[4000, 0, 100, :8, :8].shape == (8, 8)


def test_a_compressed_tiff_is_read_page_by_page(tmp_path, monkeypatch):
    array = np.stack([STACK] * 5)
    tifffile.imwrite(tmp_path / "m.ome.tif", array, compression="zlib", metadata={"axes": "TZYX"})
    asked = []
    whole = tifffile.TiffFile.asarray
    monkeypatch.setattr(tifffile.TiffFile, "asarray", lambda self, key=None, **k: (
        asked.append(key), whole(self, key=key, **k))[1])
    movie = Movie.open(tmp_path / "m.ome.tif", SPACING)
    assert asked == []
    assert np.array_equal(movie.data[3, 0, 2, 4:9], array[3, 2, 4:9]) and asked == [[3 * 6 + 2]]


@pytest.mark.parametrize("name", ["m.ome.zarr", "m.ome.tif"])
def test_writing_holds_a_frame_at_a_time(tmp_path, name):
    alive = []

    def frames():
        for t in range(6):
            frame = STACK + t
            alive.append(weakref.ref(frame))
            yield frame
            del frame
            assert sum(ref() is not None for ref in alive) <= 2

    write_frames(tmp_path / name, frames(), (6, *STACK.shape), "uint16", SPACING)


@pytest.mark.parametrize("name", ["m.ome.zarr", "m.ome.tif", None])
def test_a_frame_is_the_callers_to_change(tmp_path, name):
    movie = Movie.from_array(STACK.copy(), "zyx", spacing_um=SPACING)
    if name:
        movie.save(tmp_path / name)
        movie = Movie.open(tmp_path / name)
    movie.frame(0)[:] = 0
    assert np.array_equal(movie.frame(0), STACK)


# spacing: who says so


def test_given_spacing_overrides_the_file_and_says_so(tmp_path):
    Movie.from_array(STACK, "zyx", spacing_um=SPACING, dt_s=2).save(tmp_path / "m.ome.tif")
    movie = Movie.open(tmp_path / "m.ome.tif", spacing_um="0.5,0.2,0.2", dt_s=3)
    assert movie.spacing_um == (0.5, 0.2, 0.2) and movie.spacing_source == "given" and movie.dt_s == 3.0
    assert "0.5 x 0.2 x 0.2" in movie.notes[0] and "0.25 x 0.1 x 0.1" in movie.notes[0]
    assert not Movie.open(tmp_path / "m.ome.tif", spacing_um=SPACING).notes


def test_import_keeps_where_the_numbers_came_from(tmp_path):
    tifffile.imwrite(tmp_path / "cell.tif", STACK)
    import_movie(tmp_path / "movie.ome.zarr", tmp_path / "cell.tif", SPACING, 2.0)
    movie = Movie.open(tmp_path / "movie.ome.zarr")
    assert np.array_equal(movie.frame(0), STACK) and movie.name == "cell" and movie.dt_s == 2.0
    assert "imported from cell.tif; spacing given" in movie.notes[0] and "read as z planes" in movie.notes[1]


@pytest.mark.parametrize("text", ["0.25,0.1,0.1", "0.25 0.1 0.1", "(0.25, 0.1, 0.1)", [0.25, 0.1, 0.1]])
def test_spacing_is_read_from_text_or_numbers(text):
    assert parse_spacing(text) == SPACING


@pytest.mark.parametrize("text", ["0.25,0.1", "a,b,c", "", "-0.25,0.1,0.1", "0,0.1,0.1", "nan,0.1,0.1",
                                  "inf,0.1,0.1", (0.1, 0.1), 0.1, (0.25, 0.1, None)])
def test_malformed_spacing_is_refused(text):
    with pytest.raises(InputError) as error:
        parse_spacing(text)
    complete(error.value)


# bad input: each its own message, with five parts, and nothing left behind


def complete(error):
    assert all(getattr(error, part) not in (None, "") for part in ("what", "where", "got", "expected", "do")), error


def text_file(path):
    path.write_text("frame,intensity\n0,12\n")


def two_d(path):
    tifffile.imwrite(path, STACK[0])


def time_lapse_2d(path):
    tifffile.imwrite(path, STACK, imagej=True, metadata={"axes": "TYX"})


def rgb(path):
    tifffile.imwrite(path, np.zeros((5, 20, 22, 3), "uint8"), photometric="rgb")


def rgba(path):
    tifffile.imwrite(path, np.zeros((5, 20, 22, 4), "uint8"), photometric="rgb", extrasamples=["unassalpha"])


def complex_numbers(path):
    tifffile.imwrite(path, STACK.astype("complex64"))


def mask(path):
    tifffile.imwrite(path, STACK > 3)


def no_axes(path):
    tifffile.imwrite(path, np.stack([STACK] * 5), metadata=None, shaped=False)


def four_unnamed(path):
    tifffile.imwrite(path, np.stack([STACK] * 5))


def negative_in_file(path):
    tifffile.imwrite(path, STACK, metadata={"axes": "ZYX", "PhysicalSizeX": -0.1, "PhysicalSizeY": 0.1,
                                            "PhysicalSizeZ": 0.3}, ome=True)


def no_spacing(path):
    tifffile.imwrite(path, STACK, metadata={"axes": "ZYX"}, ome=True)


def partial_spacing(path):
    tifffile.imwrite(path, STACK, imagej=True, resolution=(10, 10), metadata={"axes": "ZYX", "unit": "um"})


def pixel_units(path):
    tifffile.imwrite(path, STACK, imagej=True, resolution=(1, 1), metadata={"axes": "ZYX", "unit": "pixel",
                                                                           "spacing": 1})


def empty(path):
    path.write_bytes(b"")


BAD_FILES = [
    (text_file, "can't be read as TIFF", SPACING), (empty, "empty", SPACING),
    (two_d, "2D image", SPACING), (time_lapse_2d, "2D image", SPACING), (rgb, "RGB", SPACING), (rgba, "RGB", SPACING),
    (complex_numbers, "not an intensity", SPACING), (mask, "not an intensity", SPACING),
    (four_unnamed, "does not name its axes", SPACING), (negative_in_file, "not positive", None),
    (no_spacing, "spacing is not in the file", None), (partial_spacing, "spacing is not in the file", None),
    (pixel_units, "spacing is not in the file", None), (no_spacing, "not three numbers", "0.25,0.1"),
    (no_spacing, "not positive", (0.25, -0.1, 0.1)),
]  # fmt: skip


@pytest.mark.parametrize(("make", "says", "spacing"), BAD_FILES, ids=lambda v: getattr(v, "__name__", None))
def test_bad_files_are_refused(tmp_path, make, says, spacing):
    name = "bad.ome.tif" if make in (negative_in_file, no_spacing) else "bad.tif"
    make(tmp_path / name)
    with pytest.raises(InputError, match=says) as error:
        import_movie(tmp_path / "out" / "movie.ome.zarr", tmp_path / name, spacing)
    complete(error.value)
    assert name in str(error.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("path", ["nowhere.tif", "nowhere", "movie.lif"])
def test_missing_path_and_unread_format(tmp_path, path):
    (tmp_path / "movie.lif").write_bytes(b"LIF")
    with pytest.raises(InputError, match="no such file|format is not read") as error:
        Movie.open(tmp_path / path, SPACING)
    complete(error.value)


@pytest.mark.parametrize("keep", [0.02, 0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("dialect", ["ome", "ome zlib", "imagej", "plain", "shaped"])
def test_truncated_tiff_is_refused_at_open(tmp_path, dialect, keep):
    path = tmp_path / "m.tif"
    array = np.stack([STACK] * 7)
    if dialect == "imagej":
        tifffile.imwrite(path, array, imagej=True, metadata={"axes": "TZYX"})
    elif dialect == "plain":
        with tifffile.TiffWriter(path) as file:
            for page in array[0]:
                file.write(page, metadata=None)
    elif dialect == "shaped":
        tifffile.imwrite(path, array[0])
    else:
        tifffile.imwrite(path, array, ome=True, metadata={"axes": "TZYX"},
                         compression="zlib" if "zlib" in dialect else None)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    if dialect == "imagej" and keep >= 0.9:  # what is lost lists the pages after the first; each voxel is there
        assert np.array_equal(Movie.open(path, SPACING).data[:, 0], array)
        return
    with pytest.raises(InputError, match="cut short|can't be read") as error:
        Movie.open(path, SPACING)
    complete(error.value)


@pytest.mark.parametrize("axes", ["tzyxc", "tzzyx", "tqyx", "yx"])
def test_axes_that_do_not_fit_are_refused(axes):
    with pytest.raises(InputError, match="axes do not fit") as error:
        Movie.from_array(np.zeros((2, 3, 4, 5)), axes, spacing_um=SPACING)
    complete(error.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_not_numbers_are_refused_with_their_place(tmp_path, value):
    array = np.stack([STACK.astype("float32")] * 3)
    array[2, 1, 3, 4] = value
    Movie.from_array(array, spacing_um=SPACING).save(tmp_path / "m.ome.tif")
    with pytest.raises(InputError, match="not numbers") as error:
        import_movie(tmp_path / "movie.ome.zarr", tmp_path / "m.ome.tif")
    complete(error.value)
    assert "frame 2" in str(error.value) and "0, 1, 3, 4" in error.value.got
    assert [p.name for p in tmp_path.iterdir()] == ["m.ome.tif"]


def test_constant_movie_is_refused_but_one_blank_frame_is_not(tmp_path):
    blank = np.full((2, *STACK.shape), 100, "uint16")
    blank[1] += 1  # each frame constant: nothing was imaged
    Movie.from_array(blank, spacing_um=SPACING).save(tmp_path / "blank.ome.tif")
    with pytest.raises(InputError, match="constant") as error:
        import_movie(tmp_path / "movie.ome.zarr", tmp_path / "blank.ome.tif")
    complete(error.value)
    blank[1] = STACK
    Movie.from_array(blank, spacing_um=SPACING).save(tmp_path / "one.ome.tif")
    import_movie(tmp_path / "movie.ome.zarr", tmp_path / "one.ome.tif")


def test_a_frame_damaged_inside_is_named(tmp_path):
    tifffile.imwrite(tmp_path / "m.ome.tif", np.stack([STACK] * 3), compression="zlib", metadata={"axes": "TZYX"})
    with tifffile.TiffFile(tmp_path / "m.ome.tif") as file:
        offset = file.pages[8].dataoffsets[0]  # frame 1, plane 2
    damaged = bytearray((tmp_path / "m.ome.tif").read_bytes())
    damaged[offset: offset + 40] = b"\xff" * 40
    (tmp_path / "m.ome.tif").write_bytes(damaged)
    with pytest.raises(InputError, match="can't be read") as error:
        import_movie(tmp_path / "movie.ome.zarr", tmp_path / "m.ome.tif", SPACING)
    complete(error.value)
    assert "frame 1" in str(error.value) and [p.name for p in tmp_path.iterdir()] == ["m.ome.tif"]


@pytest.mark.parametrize("damage", ["no metadata", "no array", "bad json"])
def test_damaged_ome_zarr_is_refused(tmp_path, damage):
    path = tmp_path / "m.ome.zarr"
    Movie.from_array(STACK, "zyx", spacing_um=SPACING).save(path)
    if damage == "no metadata":
        zarr.open_group(path, mode="a").attrs.clear()
    elif damage == "no array":
        (path / "0" / "zarr.json").unlink()
    else:
        (path / "zarr.json").write_text("{")
    with pytest.raises(InputError, match="not an OME-Zarr image") as error:
        Movie.open(path)
    complete(error.value)


def test_a_chunk_of_an_ome_zarr_cut_short_is_named_at_import(tmp_path):
    Movie.from_array(np.stack([STACK] * 3), spacing_um=SPACING).save(tmp_path / "m.ome.zarr")
    chunk = tmp_path / "m.ome.zarr" / "0" / "c" / "1" / "0" / "0" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:40])
    with pytest.raises(InputError, match="can't be read") as error:
        import_movie(tmp_path / "out.ome.zarr", tmp_path / "m.ome.zarr")
    complete(error.value)
    assert "frame 1" in error.value.where and not (tmp_path / "out.ome.zarr").exists()


@pytest.mark.parametrize(("change", "says"), [
    ({"scale": [1, 1, -0.3, 0.1, 0.1]}, "not positive"), ({"names": "tczyw"}, "not those of a movie"),
    ({"names": "tcyx"}, "do not fit its array"), ({"names": "ctyxz"}, None)], ids=str)  # fmt: skip
def test_an_ome_zarr_whose_metadata_are_wrong(tmp_path, change, says):
    path = tmp_path / "m.ome.zarr"
    Movie.from_array(np.stack([STACK] * 3), spacing_um=SPACING).save(path)
    group = zarr.open_group(path, mode="a")
    ome = group.attrs["ome"]
    image = ome["multiscales"][0]
    image["datasets"][0]["coordinateTransformations"][0]["scale"] = change.get("scale", [1, 1, 0.3, 0.1, 0.1])
    image["axes"] = [{"name": n, "type": "space", "unit": "micrometer"} for n in change.get("names", "tczyx")]
    group.attrs["ome"] = ome
    if says is None:  # another order of axes is no fault
        assert Movie.open(path).shape == (1, 3, 22, 6, 20)
        return
    with pytest.raises(InputError, match=says) as error:
        Movie.open(path)
    complete(error.value)


def test_unknown_frames_and_a_good_movie_describe_themselves():
    movie = Movie.from_array(np.stack([STACK] * 3), spacing_um=SPACING, dt_s=2, name="cell")
    assert "3 frames" in repr(movie) and "0.25 x 0.1 x 0.1 um" in repr(movie) and movie.frame(-1).shape == (6, 20, 22)
    with pytest.raises(InputError, match="no such frame") as error:
        movie.frame(3)
    complete(error.value)
    other = Movie.from_array(np.stack([STACK] * 2 + [STACK + 1]), spacing_um=SPACING, dt_s=2, name="cell")
    assert movie.fingerprint != other.fingerprint
