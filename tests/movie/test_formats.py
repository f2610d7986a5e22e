"""Every format in and out: voxels, axes, spacing, interval and dtype kept, and read back by independent readers."""

import json

import numpy as np
import pytest
import tifffile
import zarr

from cellfm_nb.errors import InputError
from cellfm_nb.movie import Movie, list_labels, open_labels, write_frames, write_labels
from cellfm_nb.seeds import rng

SHAPE = (4, 2, 5, 30, 34)  # t, c, z, y, x
SPACING, DT = (0.3, 0.12, 0.1), 2.5


def movie_array(dtype="uint16", shape=SHAPE):
    values = rng(0, "formats").integers(0, 200, size=shape)
    return values.astype(dtype)


@pytest.mark.parametrize("name", ["m.ome.zarr", "m.ome.tif", "m.tiff"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "float32", "float64"])
def test_round_trip_keeps_everything(tmp_path, name, dtype):
    array = movie_array(dtype)
    Movie.from_array(array, "tczyx", spacing_um=SPACING, dt_s=DT, name="cell 7", channel_names=("GFP", "µ-tubulin")
                     ).save(tmp_path / name)
    back = Movie.open(tmp_path / name)
    assert np.array_equal(back.data[...], array) and back.dtype == array.dtype
    assert back.channel_names == ("GFP", "µ-tubulin") and back.channel_source.startswith("file: OME")
    assert back.axes_source == "file" and "GFP, µ-tubulin (file: OME" in repr(back)
    assert back.spacing_um == SPACING and back.dt_s == DT
    assert back.spacing_source.startswith("file: OME") and back.dt_source.startswith("file: OME")
    assert np.array_equal(back.frame(2, 1), array[2, 1])


@pytest.mark.parametrize("name", ["m.ome.zarr", "m.ome.tif"])
def test_one_frame_one_channel_and_an_unknown_interval_survive(tmp_path, name):
    array = movie_array()[0, 0]
    Movie.from_array(array, "zyx", spacing_um=SPACING).save(tmp_path / name)
    back = Movie.open(tmp_path / name)
    assert back.shape == (1, 1, 5, 30, 34) and back.dt_s is None and back.dt_source == "unknown"


def test_ome_tiff_is_read_by_tifffile(tmp_path):
    array = movie_array()
    Movie.from_array(array, "tczyx", spacing_um=SPACING, dt_s=DT).save(tmp_path / "m.ome.tif")
    with tifffile.TiffFile(tmp_path / "m.ome.tif") as file:
        pixels = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]["Pixels"]
        assert file.series[0].axes == "TCZYX" and np.array_equal(file.series[0].asarray(), array)
    assert (pixels["PhysicalSizeZ"], pixels["PhysicalSizeY"], pixels["PhysicalSizeX"]) == SPACING
    assert {pixels[f"PhysicalSize{a}Unit"] for a in "XYZ"} == {"µm"}
    assert (pixels["TimeIncrement"], pixels["TimeIncrementUnit"]) == (DT, "s")


def test_one_frame_is_read_without_its_neighbours(tmp_path):
    Movie.from_array(movie_array(shape=(3, 2, 70, 144, 200)), "tczyx", spacing_um=SPACING).save(tmp_path / "m.ome.zarr")
    chunks = zarr.open_group(tmp_path / "m.ome.zarr", mode="r")["0"].chunks
    assert chunks == (1, 1, 35, 72, 100)  # equal parts, none longer than 64, 128, 128


def test_imagej_tiff_is_understood(tmp_path):
    array = movie_array()
    tifffile.imwrite(tmp_path / "m.tif", array.transpose(0, 2, 1, 3, 4), imagej=True, resolution=(1 / 0.1, 1 / 0.12),
                     metadata={"axes": "TZCYX", "spacing": 0.3, "unit": "micron", "finterval": 2.5})
    back = Movie.open(tmp_path / "m.tif")
    assert np.array_equal(back.data[...], array) and back.data[:].dtype.isnative
    assert back.spacing_um == pytest.approx(SPACING) and back.dt_s == 2.5
    assert back.spacing_source == "file: ImageJ tags"


@pytest.mark.parametrize(("unit", "factor"), [("nm", 1000), ("mm", 1e-3), ("\\u00B5m", 1), ("um", 1)])
def test_imagej_units_become_micrometre(tmp_path, unit, factor):
    tifffile.imwrite(tmp_path / "m.tif", movie_array()[:, 0], imagej=True, resolution=(10 / factor, 10 / factor),
                     metadata={"axes": "TZYX", "spacing": 0.3 * factor, "unit": unit})
    assert Movie.open(tmp_path / "m.tif").spacing_um == pytest.approx((0.3, 0.1, 0.1), rel=1e-6)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_ome_units_and_any_order_of_axes(tmp_path, compression):
    array = movie_array()
    about = {"axes": "CTZYX", "PhysicalSizeX": 100.0, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.00012,
             "PhysicalSizeYUnit": "mm", "PhysicalSizeZ": 0.3, "PhysicalSizeZUnit": "µm", "TimeIncrement": 2500.0,
             "TimeIncrementUnit": "ms"}
    tifffile.imwrite(tmp_path / "m.ome.tif", array.transpose(1, 0, 2, 3, 4), metadata=about, compression=compression,
                     ome=True)
    back = Movie.open(tmp_path / "m.ome.tif")
    assert np.array_equal(back.data[...], array)
    assert back.spacing_um == pytest.approx(SPACING) and back.dt_s == pytest.approx(2.5)


def test_big_endian_pages_come_out_native(tmp_path):
    array = movie_array()[:, 0]
    tifffile.imwrite(tmp_path / "m.ome.tif", array, byteorder=">", metadata={"axes": "TZYX"})
    back = Movie.open(tmp_path / "m.ome.tif", SPACING)
    assert back.dtype.isnative and back.frame(1).dtype.isnative and np.array_equal(back.frame(1), array[1])


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr_of_others_with_their_units(tmp_path, version):
    array = movie_array()[:, 0]
    group = zarr.open_group(tmp_path / "theirs.zarr", mode="w", zarr_format=2 if version == "0.4" else 3)
    group.create_array("scale0", data=array, chunks=(1, 5, 16, 16))
    image = {"axes": [{"name": "t", "type": "time", "unit": "millisecond"},
                      *[{"name": a, "type": "space", "unit": "nanometer"} for a in "zyx"]],
             "datasets": [{"path": "scale0", "coordinateTransformations": [
                 {"type": "scale", "scale": [1.0, 300.0, 120.0, 100.0]}]}],
             "coordinateTransformations": [{"type": "scale", "scale": [2500.0, 1.0, 1.0, 1.0]}]}
    group.attrs.update({"multiscales": [{**image, "version": "0.4"}]} if version == "0.4"
                       else {"ome": {"version": "0.5", "multiscales": [image]}})
    back = Movie.open(tmp_path / "theirs.zarr")
    assert np.array_equal(back.data[:, 0], array)
    assert back.spacing_um == pytest.approx(SPACING) and back.dt_s == pytest.approx(DT)
    assert back.spacing_source == f"file: OME-Zarr {version}"


def test_axes_without_unit_are_not_taken_for_micrometre(tmp_path):
    path = tmp_path / "m.ome.zarr"
    Movie.from_array(movie_array(), "tczyx", spacing_um=SPACING).save(path)
    record = json.loads((path / "zarr.json").read_text())
    for axis in record["attributes"]["ome"]["multiscales"][0]["axes"]:
        axis.pop("unit", None)
    (path / "zarr.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="spacing is not in the file"):
        Movie.open(path)


def test_labels_go_beside_the_movie_and_leave_it_alone(tmp_path):
    path = tmp_path / "m.ome.zarr"
    array = movie_array(shape=(3, 1, 4, 31, 301))
    Movie.from_array(array, "tczyx", spacing_um=SPACING, dt_s=DT).save(path)
    root, labels = (path / "zarr.json").read_bytes(), [np.full((4, 31, 301), 70_000 + t) for t in range(3)]
    write_labels(path, "cells", labels)
    write_labels(path, "cells", iter(labels))  # again: replaced, not doubled
    back = open_labels(path, "cells")
    assert list_labels(path) == ["cells"] and (path / "zarr.json").read_bytes() == root
    assert back.dtype == np.uint32 and np.array_equal(back.frame(2), labels[2]) and back.spacing_um == SPACING
    coarse = zarr.open_group(path / "labels/cells", mode="r")["1"]
    assert coarse.shape == (3, 1, 4, 16, 151)


def test_labels_that_do_not_fit_are_refused(tmp_path):
    path, ids = tmp_path / "m.ome.zarr", np.ones((4, 31, 301), int)
    Movie.from_array(movie_array(shape=(3, 4, 31, 301)), spacing_um=SPACING).save(path)
    write_labels(path, "cells", [ids] * 3)
    with pytest.raises(InputError, match="not labels"):
        write_labels(path, "bad", [-ids] * 3)
    with pytest.raises(InputError, match="no such labels") as error:
        open_labels(path, "nuclei")
    assert error.value.expected == "cells" and not (path / "labels" / "bad").exists()


@pytest.mark.parametrize("name", ["m.ome.zarr", "m.ome.tif"])
def test_nothing_half_written_and_the_old_file_stays(tmp_path, name):
    good = movie_array(shape=(3, 4, 20, 22))
    write_frames(tmp_path / name, good, good.shape, "uint16", SPACING)
    before = Movie.open(tmp_path / name).data[...]
    wrong_dtype = [good[0], good[1].astype("float32"), good[2]]
    for frames in (good[:2], [*good, good[0]], [good[0], good[1, :2], good[2]], wrong_dtype, (1 / 0 for _ in "a")):
        with pytest.raises((InputError, ZeroDivisionError)):
            write_frames(tmp_path / name, frames, good.shape, "uint16", SPACING)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert np.array_equal(Movie.open(tmp_path / name).data[...], before)


def test_what_a_killed_writer_left_is_cleared(tmp_path):
    (tmp_path / ".partial-m.ome.zarr" / "0").mkdir(parents=True)
    Movie.from_array(movie_array(), "tczyx", spacing_um=SPACING).save(tmp_path / "m.ome.zarr")
    assert [p.name for p in tmp_path.iterdir()] == ["m.ome.zarr"]
