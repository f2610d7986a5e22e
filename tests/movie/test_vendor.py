"""CZI and ND2 by their packages; what happens without them; what their libraries leave unsaid."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cellfm_nb.errors import InputError
from cellfm_nb.movie import Movie, import_movie
from cellfm_nb.seeds import rng

ARRAY = rng(0, "vendor").integers(0, 60_000, (2, 2, 3, 20, 24)).astype("uint16")  # t, c, z, y, x


def refused(path, says):
    with pytest.raises(InputError, match=says) as error:
        Movie.open(path, (0.3, 0.1, 0.1))
    assert all(getattr(error.value, part) for part in ("what", "where", "got", "expected", "do"))
    return error.value


@pytest.mark.parametrize(("name", "package"), [("m.czi", "pylibCZIrw.czi"), ("m.nd2", "nd2")])
def test_without_the_extra_the_message_says_what_to_install(tmp_path, monkeypatch, name, package):
    (tmp_path / name).write_bytes(b"something")
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    assert "pip install 'cellfm_nb[vendor]'" in refused(tmp_path / name, "not installed").do
    (tmp_path / name).write_bytes(b"")
    refused(tmp_path / name, "empty")


# CZI


def write_czi(path, array=ARRAY, skip=(), **metadata):
    czi = pytest.importorskip("pylibCZIrw.czi", reason="pylibCZIrw is not installed: the extra `vendor`")
    with czi.create_czi(str(path)) as file:
        for t, c, z in np.ndindex(array.shape[:3]):
            if (t, c, z) not in skip:
                file.write(array[t, c, z], plane={"T": t, "C": c, "Z": z})
        file.write_metadata("test", **metadata)
    return path


SCALE = {"scale_x": 1e-7, "scale_y": 1.2e-7, "scale_z": 3e-7}


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_czi_is_read(tmp_path, dtype):
    array = (ARRAY % 250).astype(dtype)
    movie = Movie.open(write_czi(tmp_path / "m.czi", array, channel_names={0: "GFP", 1: "mCherry"}, **SCALE))
    assert np.array_equal(movie.data[...], array) and movie.dtype == array.dtype
    assert np.array_equal(movie.data[1, 0, 1:, ::3, -4:], array[1, 0, 1:, ::3, -4:])
    assert movie.spacing_um == (0.3, 0.12, 0.1) and movie.spacing_source == "file: CZI" and movie.dt_s is None
    assert movie.channel_names == ("GFP", "mCherry") and movie.channel_source == "file: CZI"
    import_movie(tmp_path / "m.ome.zarr", tmp_path / "m.czi")
    assert np.array_equal(Movie.open(tmp_path / "m.ome.zarr").data[...], array)


def test_of_several_scenes_the_first_is_used_and_said(tmp_path):
    czi = pytest.importorskip("pylibCZIrw.czi", reason="pylibCZIrw is not installed: the extra `vendor`")
    with czi.create_czi(str(tmp_path / "m.czi")) as file:
        for scene in (1, 0):
            for z in range(3):
                file.write(ARRAY[scene, 0, z], plane={"Z": z}, scene=scene, location=(5 + 300 * scene, 7))
        file.write_metadata("test", **SCALE)
    with czi.create_czi(str(tmp_path / "n.czi")) as file:  # the second scene does not stand in for the first
        for scene, z in ((0, 0), (0, 2), (1, 0), (1, 1), (1, 2)):
            file.write(ARRAY[scene, 0, z], plane={"Z": z}, scene=scene, location=(300 * scene, 0))
        file.write_metadata("test", **SCALE)
    assert "1 missing: (0, 0, 1)" in refused(tmp_path / "n.czi", "Planes of this CZI are missing").got
    movie = Movie.open(tmp_path / "m.czi")
    assert np.array_equal(movie.data[:, 0], ARRAY[:1, 0]) and "2 scenes; the first is used" in movie.notes[0]


def test_czi_without_a_scale_needs_the_spacing(tmp_path):
    write_czi(tmp_path / "m.czi")
    with pytest.raises(InputError, match="spacing is not in the file"):
        Movie.open(tmp_path / "m.czi")
    with pytest.raises(InputError, match="not positive"):
        Movie.open(write_czi(tmp_path / "n.czi", scale_x=-1e-7, scale_y=1e-7, scale_z=1e-7))


def test_planes_that_a_czi_lacks_are_named_and_not_read_as_black(tmp_path):
    path = write_czi(tmp_path / "m.czi", skip={(1, 0, 2), (1, 1, 0)}, **SCALE)
    error = refused(path, "Planes of this CZI are missing")
    assert "(1, 0, 2), (1, 1, 0)" in error.got and "12 planes" in error.expected


@pytest.mark.parametrize("keep", [0, 4, 600, 5000])
def test_a_czi_cut_short_is_refused(tmp_path, keep):
    path = write_czi(tmp_path / "m.czi", **SCALE)
    path.write_bytes(path.read_bytes()[:keep])
    refused(path, "can't be read as CZI|empty")


def test_a_czi_without_z_is_refused(tmp_path):
    refused(write_czi(tmp_path / "m.czi", ARRAY[:, :, :1], **SCALE), "2D image")


def test_colour_czi_is_refused(tmp_path):
    czi = pytest.importorskip("pylibCZIrw.czi", reason="pylibCZIrw is not installed: the extra `vendor`")
    with czi.create_czi(str(tmp_path / "m.czi")) as file:
        for z in range(3):
            file.write(np.zeros((8, 9, 3), "uint8"), plane={"Z": z})
        file.write_metadata("test", **SCALE)
    refused(tmp_path / "m.czi", "colour image")


# ND2: no package writes it, so its logic is tried on a stand-in with the package's names, and on real files where
# they are at hand (dataset nd2_arcadia)


class StandIn:
    """What the reader uses of nd2.ND2File: loops in an order of its own, channels inside a frame."""

    array = rng(0, "nd2").integers(0, 999, (3, 2, 4, 2, 6, 7)).astype("uint16")  # z, p, t, c, y, x
    is_rgb, calibrated, closed, period_ms = False, (True, True, True), False, 2500.0

    def __init__(self, path):
        self.sizes = dict(zip("ZPTCYX", self.array.shape, strict=True))
        self.dtype, self.attributes = self.array.dtype, SimpleNamespace(sequenceCount=3 * 2 * 4)
        volume = SimpleNamespace(axesCalibration=(0.1, 0.12, 0.3), axesCalibrated=self.calibrated)
        self.metadata = SimpleNamespace(channels=[SimpleNamespace(channel=SimpleNamespace(name=n), volume=volume)
                                                  for n in ("GFP", "RFP")])
        self.experiment = [SimpleNamespace(type="TimeLoop", parameters=SimpleNamespace(periodMs=self.period_ms,
                                                                                       periodDiff=None))]

    def read_frame(self, number):
        return self.array.reshape(-1, 2, 6, 7)[number]

    def close(self):
        type(self).closed = True


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    class File(StandIn):
        pass

    monkeypatch.setitem(sys.modules, "nd2", SimpleNamespace(ND2File=File))
    (tmp_path / "m.nd2").write_bytes(b"stand-in")
    return File, tmp_path / "m.nd2"


def test_nd2_loops_in_any_order_become_t_and_z(stand_in):
    kind, path = stand_in
    movie = Movie.open(path)
    assert np.array_equal(movie.data[...], kind.array[:, 0].transpose(1, 2, 0, 3, 4))
    assert movie.spacing_um == (0.3, 0.12, 0.1) and movie.dt_s == 2.5 and movie.dt_source == "file: ND2"
    assert movie.channel_names == ("GFP", "RFP") and "2 positions; the first is used" in movie.notes[0]
    assert not kind.closed
    del movie
    assert kind.closed


def test_nd2_that_is_not_calibrated_or_not_whole(stand_in):
    kind, path = stand_in
    kind.calibrated = (True, True, False)  # the package says 1.0 um for z
    with pytest.raises(InputError, match="nothing for z"):
        Movie.open(path)
    kind.array = kind.array[:, :, :, 0:1]
    kind.is_rgb = True
    refused(path, "colour image")
    assert kind.closed
    kind.is_rgb, kind.array = False, np.zeros((3, 2, 5, 2, 6, 7), "uint16")
    refused(path, "Planes of this ND2 are missing")


def arcadia(name):
    pytest.importorskip("nd2", reason="nd2 is not installed: the extra `vendor`")
    path = Path(os.environ.get("CELLFM_DATA", "nowhere")) / "nd2_arcadia" / name
    if not path.exists():
        pytest.skip("the dataset nd2_arcadia is not at hand (CELLFM_DATA)")
    return path


def test_a_real_nd2_is_read_like_by_its_package():
    import nd2

    path = arcadia("example-zstack.nd2")
    movie = Movie.open(path)
    assert movie.shape == (1, 1, 11, 128, 128) and np.array_equal(movie.frame(0), nd2.imread(path))
    assert movie.spacing_um == pytest.approx((6.0, 0.32339, 0.32339), rel=1e-4) and movie.channel_names == ("FITC BP",)


@pytest.mark.parametrize("name", ["example-timelapse.nd2", "example-multichannel.nd2"])
def test_real_nd2_without_z_are_refused(name):
    refused(arcadia(name), "2D image")


@pytest.mark.parametrize("keep", [4, 500, 100_000])
def test_a_real_nd2_cut_short_is_refused(tmp_path, keep):
    (tmp_path / "m.nd2").write_bytes(arcadia("example-zstack.nd2").read_bytes()[:keep])
    refused(tmp_path / "m.nd2", "can't be read as ND2")
