"""TIFF in its dialects: big, tiled, several series, big-endian, channel names; who says what axes and numbers mean."""

import numpy as np
import pytest
import tifffile

from cellfm_nb.errors import InputError
from cellfm_nb.movie import Movie, import_movie
from cellfm_nb.seeds import rng

SPACING = (0.3, 0.12, 0.1)
ARRAY = rng(0, "tiff").integers(0, 200, (3, 2, 6, 40, 50))  # t, c, z, y, x


@pytest.mark.parametrize("how", [
    {}, {"bigtiff": True}, {"tile": (16, 32)}, {"tile": (16, 32), "compression": "zlib", "bigtiff": True},
    {"rowsperstrip": 7, "compression": "lzw"}, {"compression": "zstd", "predictor": True}, {"byteorder": ">"},
    {"byteorder": ">", "compression": "zlib"}], ids=str)  # fmt: skip
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint32", "float32"])
def test_every_layout_reads_the_same(tmp_path, how, dtype):
    if "predictor" in how and dtype == "float32":
        how = how | {"predictor": 3}
    array = (ARRAY - (100 if dtype == "int16" else 0)).astype(dtype)
    tifffile.imwrite(tmp_path / "m.ome.tif", array, ome=True, metadata={"axes": "TCZYX"}, **how)
    movie = Movie.open(tmp_path / "m.ome.tif", SPACING)
    assert np.array_equal(movie.data[...], array) and movie.dtype == np.dtype(dtype) and movie.dtype.isnative
    assert np.array_equal(movie.data[1:, -1, 2, ::3, 4], array[1:, -1, 2, ::3, 4])
    assert movie.frame(1, 1).flags.writeable


def test_tiles_that_are_volumes(tmp_path):
    tifffile.imwrite(tmp_path / "m.tif", ARRAY.astype("uint16"), tile=(2, 16, 32), volumetric=True,
                     photometric="minisblack", metadata={"axes": "TCZYX"})
    movie = Movie.open(tmp_path / "m.tif", SPACING)
    assert np.array_equal(movie.data[...], ARRAY) and np.array_equal(movie.frame(2, 1), ARRAY[2, 1])


def test_of_several_series_the_first_is_used_and_said(tmp_path):
    with tifffile.TiffWriter(tmp_path / "m.ome.tif", ome=True) as file:
        for i in range(3):
            file.write((ARRAY[:, 0] + i).astype("uint16"), metadata={"axes": "TZYX", "PhysicalSizeX": 0.1 + i,
                       "PhysicalSizeY": 0.12, "PhysicalSizeZ": 0.3, "Channel": {"Name": [f"dye {i}"]}})  # fmt: skip
    movie = Movie.open(tmp_path / "m.ome.tif")
    assert np.array_equal(movie.data[:, 0], ARRAY[:, 0]) and movie.spacing_um == SPACING
    assert "3 images; the first is used" in movie.notes[0] and movie.channel_names == ("dye 0",)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_set_of_files_is_one_movie_and_a_missing_one_is_noticed(tmp_path, compression):
    """OME-TIFF may spread a movie over files that name each other."""
    ids = [f"urn:uuid:00000000-0000-0000-0000-00000000000{t}" for t in range(2)]
    parts = "".join(f'<TiffData FirstT="{t}" IFD="0" PlaneCount="6"><UUID FileName="{t}.ome.tif">{ids[t]}</UUID>'
                    "</TiffData>" for t in range(2))
    for t in range(2):
        xml = f'''<?xml version="1.0" encoding="UTF-8"?>
            <OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="{ids[t]}"><Image ID="Image:0">
            <Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16"
            SizeX="50" SizeY="40" SizeZ="6" SizeC="1" SizeT="2">
            <Channel ID="Channel:0:0" SamplesPerPixel="1"/>{parts}</Pixels></Image></OME>'''
        tifffile.imwrite(tmp_path / f"{t}.ome.tif", ARRAY[t, 0].astype("uint16"), compression=compression,
                         metadata=None, photometric="minisblack", description=xml.encode())
    assert np.array_equal(Movie.open(tmp_path / "0.ome.tif", SPACING).data[:, 0], ARRAY[:2, 0])
    (tmp_path / "1.ome.tif").unlink()
    with pytest.raises(InputError, match="one file of a set"):
        Movie.open(tmp_path / "0.ome.tif", SPACING)


def test_channel_names_of_an_imagej_file_are_its_slice_labels(tmp_path):
    stack, labels = ARRAY.transpose(0, 2, 1, 3, 4).astype("uint16"), ["GFP", "mCherry"] * 18
    about = {"axes": "TZCYX", "spacing": 0.3, "unit": "um"}
    for name, said in (("a", labels), ("b", [f"slice {i}" for i in range(36)])):
        tifffile.imwrite(tmp_path / f"{name}.tif", stack, imagej=True, resolution=(10, 1 / 0.12),
                         metadata={**about, "Labels": said})
    assert Movie.open(tmp_path / "a.tif").channel_names == ("GFP", "mCherry")
    assert Movie.open(tmp_path / "b.tif").channel_source == "default"


def test_channel_names_that_do_not_fit_are_said_and_not_used(tmp_path):
    tifffile.imwrite(tmp_path / "m.ome.tif", ARRAY.astype("uint8"), ome=True,
                     metadata={"axes": "TCZYX", "Channel": {"Name": ["GFP", "GFP"]}})
    movie = Movie.open(tmp_path / "m.ome.tif", SPACING)
    assert movie.channel_source == "default" and "do not fit its 2 channels" in movie.notes[-1]


def test_an_interval_that_is_no_interval(tmp_path):
    for step, name in ((0.0, "zero"), (-1.0, "negative")):
        tifffile.imwrite(tmp_path / f"{name}.ome.tif", ARRAY.astype("uint8"), ome=True,
                         metadata={"axes": "TCZYX", "TimeIncrement": step, "TimeIncrementUnit": "s"})
    assert Movie.open(tmp_path / "zero.ome.tif", SPACING).dt_source == "unknown"
    with pytest.raises(InputError, match="interval is not a positive"):
        Movie.open(tmp_path / "negative.ome.tif", SPACING)
    assert Movie.open(tmp_path / "negative.ome.tif", SPACING, dt_s=2).dt_s == 2


# what users complain about (the numbers are those of the list of complaints)


def test_complaint_21_no_movie_without_spacing_and_it_travels(tmp_path):
    """Anisotropy forgotten: there is no movie without its spacing, and it goes from file to file with its source."""
    tifffile.imwrite(tmp_path / "m.ome.tif", ARRAY.astype("uint8"), ome=True, metadata={"axes": "TCZYX"})
    with pytest.raises(InputError, match="spacing is not in the file"):
        Movie.open(tmp_path / "m.ome.tif")
    with pytest.raises(TypeError):
        Movie.from_array(ARRAY, "tczyx")
    Movie.open(tmp_path / "m.ome.tif", SPACING).save(tmp_path / "a.ome.zarr")
    Movie.open(tmp_path / "a.ome.zarr").save(tmp_path / "b.ome.tif")
    movie = Movie.open(tmp_path / "b.ome.tif")
    assert movie.spacing_um == SPACING and movie.spacing_source == "file: OME-XML"
    assert "0.3 x 0.12 x 0.1 um" in repr(movie)


def test_complaint_35_imagej_axes_and_spacing_come_with_their_source(tmp_path):
    """Axes and spacing not where users look: resolution is pixels per unit, z is `spacing`, axes are TZCYX always."""
    array = ARRAY.astype("uint16")
    tifffile.imwrite(tmp_path / "m.tif", array.transpose(0, 2, 1, 3, 4), imagej=True, resolution=(1 / 0.1, 1 / 0.12),
                     metadata={"axes": "TZCYX", "spacing": 0.3, "unit": "um", "finterval": 2.5})
    movie = Movie.open(tmp_path / "m.tif")
    assert movie.spacing_source == movie.dt_source == "file: ImageJ tags" and movie.axes_source == "file"
    import_movie(tmp_path / "m.ome.zarr", tmp_path / "m.tif")
    Movie.open(tmp_path / "m.ome.zarr").save(tmp_path / "back.ome.tif")
    for back in (movie, Movie.open(tmp_path / "m.ome.zarr"), Movie.open(tmp_path / "back.ome.tif")):
        assert np.array_equal(back.data[...], array) and back.dt_s == 2.5
        assert back.spacing_um == pytest.approx(SPACING)
    with tifffile.TiffFile(tmp_path / "m.tif") as file:  # the wrong way: the tag read as a length
        assert file.pages[0].tags.valueof("XResolution")[0] != pytest.approx(0.1)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_complaint_35_imagej_out_and_in(tmp_path, dtype):
    array = ARRAY.astype(dtype)
    movie = Movie.from_array(array, "tczyx", spacing_um=SPACING, dt_s=2.5, channel_names=("GFP", "RFP"))
    movie.save(tmp_path / "m.tif", imagej=True)
    back = Movie.open(tmp_path / "m.tif")
    assert np.array_equal(back.data[...], array) and back.spacing_um == pytest.approx(SPACING) and back.dt_s == 2.5
    assert back.channel_names == ("GFP", "RFP") and back.spacing_source == "file: ImageJ tags"
    with tifffile.TiffFile(tmp_path / "m.tif") as file:
        about = file.imagej_metadata
        assert (about["slices"], about["frames"], about["channels"], about["unit"]) == (6, 3, 2, "um")
        assert np.array_equal(file.series[0].asarray(), array.transpose(0, 2, 1, 3, 4))
    with pytest.raises(InputError, match="does not hold this kind of number"):
        Movie.from_array(ARRAY.astype("int32"), "tczyx", spacing_um=SPACING).save(tmp_path / "n.tif", imagej=True)
    huge = Movie.from_array(np.broadcast_to(np.uint8(0), (40, 10, 4000, 4000)), spacing_um=SPACING)
    with pytest.raises(InputError, match="too large for ImageJ"):
        huge.save(tmp_path / "n.tif", imagej=True)
    assert [p.name for p in tmp_path.iterdir()] == ["m.tif"]


def test_guessed_and_given_axes_are_said(tmp_path):
    tifffile.imwrite(tmp_path / "m.tif", ARRAY[0, 0].astype("uint16"), metadata=None)
    guessed, given = (Movie.open(tmp_path / "m.tif", SPACING, axes=axes) for axes in (None, "zyx"))
    assert guessed.axes_source == "guessed" and "a guess" in guessed.notes[0] and "guessed" in repr(guessed)
    assert given.axes_source == "given" and not given.notes
    tifffile.imwrite(tmp_path / "n.ome.tif", ARRAY[:, 0].astype("uint16"), ome=True, metadata={"axes": "TZYX"})
    turned = Movie.open(tmp_path / "n.ome.tif", SPACING, axes="ztyx")
    assert turned.shape == (6, 1, 3, 40, 50) and "override the file's, tzyx" in turned.notes[0]
    import_movie(tmp_path / "m.ome.zarr", tmp_path / "m.tif", SPACING)
    assert "axes guessed, channel names default" in Movie.open(tmp_path / "m.ome.zarr").notes[0]


@pytest.mark.parametrize(("value", "unit", "seconds"), [(50, "msec", 0.05), (5, "minutes", 300), (1, "hours", 3600),
                                                        (2, "sec", 2), (3, "fortnights", None)])
def test_the_interval_of_an_imagej_file_has_its_unit(tmp_path, value, unit, seconds):
    tifffile.imwrite(tmp_path / "m.tif", ARRAY[:, 0].astype(np.uint16), imagej=True, resolution=(10, 10),
                     metadata={"axes": "TZYX", "spacing": 0.3, "unit": "um", "finterval": value, "tunit": unit})
    movie = Movie.open(tmp_path / "m.tif")
    assert movie.dt_s == (None if seconds is None else pytest.approx(seconds))
    assert seconds is not None or any("no known unit" in note for note in movie.notes)
