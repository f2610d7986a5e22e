"""The pyramid of an OME-Zarr: which axes are halved, where its voxels are, and that no object gets lost in it."""

import hypothesis.strategies as st
import numpy as np
import pytest
import zarr
from hypothesis import given, settings

from cellfm_nb.errors import InputError
from cellfm_nb.movie import Movie, list_labels, open_labels, write_labels
from cellfm_nb.movie.pyramid import halve_labels, halve_mean, pyramid_factors
from cellfm_nb.seeds import rng

SPACING = (0.3, 0.12, 0.1)


@pytest.mark.parametrize(("zyx", "spacing", "factors"), [
    ((64, 1024, 900), (0.1, 0.1, 0.1), [(1, 1, 1), (2, 2, 2), (4, 4, 4)]),  # cubes stay cubes
    ((64, 1024, 900), (0.25, 0.1, 0.1), [(1, 1, 1), (1, 2, 2), (2, 4, 4)]),  # z as soon as it is fine enough
    ((64, 2048, 900), (1.0, 0.1, 0.1), [(1, 1, 1), (1, 2, 2), (1, 4, 4), (1, 8, 8)]),
    ((1, 600, 20), (0.1, 0.1, 0.1), [(1, 1, 1), (1, 2, 2), (1, 4, 4)]),
    ((40, 256, 256), (0.1, 0.1, 0.1), [(1, 1, 1)]),
])  # fmt: skip
def test_z_is_halved_when_it_is_fine_enough(zyx, spacing, factors):
    assert pyramid_factors(zyx, spacing) == factors


@settings(max_examples=40, deadline=None)
@given(st.tuples(*[st.floats(0.05, 3)] * 3), st.integers(100, 3000))
def test_halving_z_never_makes_a_voxel_less_like_a_cube(spacing, width):
    levels = pyramid_factors((4000, width, width), (spacing[0], spacing[1], spacing[1]))
    for fine, coarse in zip(levels, levels[1:], strict=False):
        before, z, y = fine[0] * spacing[0], coarse[0] * spacing[0], coarse[1] * spacing[1]
        other = before if z > before else 2 * before  # the choice not taken
        assert abs(np.log(z / y)) <= abs(np.log(other / y)) + 1e-9


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("by", [(2, 2, 2), (1, 2, 2), (2, 2, 1)])
@pytest.mark.parametrize("shape", [(4, 6, 8), (5, 7, 3)])
def test_means_are_those_of_each_block(dtype, by, shape):
    block = rng(0, "mean").integers(0, 120, shape).astype(dtype)
    coarse = halve_mean(block, by)
    for at in np.ndindex(coarse.shape):
        part = block[tuple(slice(i * b, i * b + b) for i, b in zip(at, by, strict=True))].astype(float)
        assert abs(coarse[at] - part.mean()) <= (0.5 if dtype != "float32" else 1e-4)
    assert coarse.dtype == block.dtype


def test_each_level_says_where_its_voxels_are(tmp_path):
    """A blob's centre of mass, in micrometre by scale and translation, is the same on every level."""
    z, y, x = np.ogrid[:24, :600, :620]
    blob = 1e4 * np.exp(-((z - 11.3) ** 2) / 18) * np.exp(-((y - 300.2) ** 2 + (x - 250.7) ** 2) / 288)
    Movie.from_array(blob.astype("float32"), "zyx", spacing_um=(0.2, 0.1, 0.1)).save(tmp_path / "m.ome.zarr")
    group = zarr.open_group(tmp_path / "m.ome.zarr", mode="r")
    found = []
    for level in group.attrs["ome"]["multiscales"][0]["datasets"]:
        scale, shift = (np.array(list(t.values())[1][2:]) for t in level["coordinateTransformations"])
        image = group[level["path"]][0, 0].astype(float)
        profiles = [image.sum(axis=tuple({0, 1, 2} - {axis})) for axis in range(3)]
        centre = np.array([np.average(np.arange(len(p)), weights=p) for p in profiles])
        found.append((centre * scale + shift, centre * scale))
    assert len(found) == 3 and group["2"].shape[2] == 12  # z is halved at the second step
    expected = np.array([11.3, 300.2, 250.7]) * (0.2, 0.1, 0.1)
    assert all(np.abs(right - expected).max() < 1e-3 for right, _ in found)
    assert np.abs(found[2][1] - expected).max() > 0.05  # without the translation it is off


def test_complaint_34_pixel_size_units_z_and_axes_are_written_out(tmp_path):
    """Pixel size awkward, z not downsampled, axis order assumed: here any order in, and all of it explicit out."""
    array = rng(0, "34").integers(0, 99, (300, 310, 20, 3)).astype("uint8")
    Movie.from_array(array, "yxzt", spacing_um=(0.1, 0.1, 0.1), dt_s=2).save(tmp_path / "m.ome.zarr")
    group = zarr.open_group(tmp_path / "m.ome.zarr", mode="r")
    image = group.attrs["ome"]["multiscales"][0]
    assert [a["name"] for a in image["axes"]] == list("tczyx") and image["axes"][2]["unit"] == "micrometer"
    assert [group[d["path"]].shape for d in image["datasets"]] == [(3, 1, 20, 300, 310), (3, 1, 10, 150, 155)]
    assert image["datasets"][1]["coordinateTransformations"] == [
        {"type": "scale", "scale": [2.0, 1.0, 0.2, 0.2, 0.2]},
        {"type": "translation", "translation": [0.0, 0.0, 0.05, 0.05, 0.05]}]
    assert group["0"].chunks == (1, 1, 20, 100, 104) and np.array_equal(group["0"][:, 0], array.transpose(3, 2, 0, 1))


# labels


def points(n=80, shape=(16, 600, 620), voxels=3):
    """Objects of three voxels in a row, far enough apart, and one large cell behind them."""
    ids = np.zeros(shape, np.uint32)
    ids[4:12, 100:500, 100:500] = 1
    grid = [(z, y, x) for z in (2, 8, 13) for y in range(20, 580, 40) for x in range(20, 580, 40)]
    for i, (z, y, x) in enumerate(grid[:: max(1, len(grid) // n)][:n]):
        dz, dy, dx = rng(0, "jitter", i).integers(0, 7, 3)
        ids[(z + dz) % 16, y + dy, x + dx: x + dx + voxels] = 70_000 + i
    return ids


@pytest.mark.parametrize("spacing", [SPACING, (0.1, 0.1, 0.1)])
def test_small_objects_stay_on_every_level(tmp_path, spacing):
    path, ids = tmp_path / "m.ome.zarr", points()
    Movie.from_array((ids > 0).astype("uint8"), "zyx", spacing_um=spacing).save(path)
    write_labels(path, "spots", [ids])
    group = zarr.open_group(path / "labels/spots", mode="r")
    levels = [group[key][0, 0] for key in sorted(group.array_keys())]
    assert len(levels) == 3 and len(np.unique(ids)) == 82
    assert all(np.array_equal(np.unique(level), np.unique(ids)) for level in levels)
    subsampled = ids[::4 if levels[2].shape[0] < 16 else 1, ::4, ::4]  # the wrong way: every fourth voxel
    assert len(np.unique(subsampled)) < 0.8 * len(np.unique(ids))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([(2, 2, 2), (1, 2, 2)]), st.integers(1, 40), st.sampled_from([1, 10**8]))
def test_labels_are_never_invented_nor_lost_unsaid(seed, by, n, factor):
    draw = rng(seed, "labels")
    ids = np.where(draw.random((5, 9, 8)) < 0.5, 0, draw.integers(1, n + 1, (5, 9, 8)) * factor).astype(np.uint32)
    coarse, lost = halve_labels(ids, by)
    for at in np.ndindex(coarse.shape):
        inside = ids[tuple(slice(i * b, i * b + b) for i, b in zip(at, by, strict=True))]
        assert coarse[at] in inside and (coarse[at] > 0) == (inside > 0).any()
    assert set(np.unique(ids)) - set(np.unique(coarse)) - {0} == set(lost)


def test_an_object_that_can_stay_does():
    """2 has more voxels, all in one block; 1 is rarer and fills that block too, but has another: both stay."""
    ids = np.zeros((2, 2, 4), np.uint32)
    ids[0, 0, :2], ids[0, 1, 0], ids[1, 1, 1], ids[1, 1, 3] = 2, 2, 1, 1
    coarse, lost = halve_labels(ids, (2, 2, 2))
    assert coarse.ravel().tolist() == [2, 1] and not lost


def test_the_pyramid_ends_where_two_objects_would_share_a_voxel(tmp_path):
    path, ids = tmp_path / "m.ome.zarr", points(voxels=1)
    ids[3, 301, 301:305] = 5, 6, 7, 8  # apart on level 1 as two and two: one of each pair is lost
    Movie.from_array(np.stack([ids > 0] * 2).astype("uint8"), spacing_um=SPACING).save(path)
    write_labels(path, "spots", [points(), ids])
    group = zarr.open_group(path / "labels/spots", mode="r")
    assert sorted(group.array_keys()) == ["0"] and not (path / "labels/spots/1").exists()
    assert len(group.attrs["ome"]["multiscales"][0]["datasets"]) == 1
    assert "no level coarser than 0: in frame 1" in open_labels(path, "spots").notes[0]


# the metadata, read by others


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_it_is_valid_to_an_independent_model(tmp_path, version):
    pytest.importorskip("ome_zarr_models", reason="ome-zarr-models is not installed")
    from ome_zarr_models.common.omero import Omero

    if version == "0.4":
        from ome_zarr_models.v04 import Image, ImageLabel, Labels
    else:
        from ome_zarr_models.v05 import Image, ImageLabel, Labels
    path, array = tmp_path / "m.ome.zarr", rng(0, "valid").integers(0, 200, (2, 2, 4, 20, 600)).astype("uint16")
    movie = Movie.from_array(array, "tczyx", spacing_um=SPACING, dt_s=2.5, channel_names=("GFP", "mCherry"))
    movie.save(path, version=version)
    write_labels(path, "cells", [np.ones((4, 20, 600), np.uint16)] * 2)
    group = zarr.open_group(path, mode="r")
    assert group.metadata.zarr_format == (2 if version == "0.4" else 3)
    attributes = Image.from_zarr(group).attributes
    about = attributes if version == "0.4" else attributes.ome
    assert [(a.name, a.type, a.unit) for a in about.multiscales[0].axes] == [
        ("t", "time", "second"), ("c", "channel", None), *[(a, "space", "micrometer") for a in "zyx"]]
    assert about.multiscales[0].datasets[0].coordinateTransformations[0].scale == [2.5, 1, *SPACING]
    assert len(about.multiscales[0].datasets) == 3  # 600, 300, 150
    omero = Omero.model_validate(group.attrs["omero"] if version == "0.4" else group.attrs["ome"]["omero"])
    assert [c.label for c in omero.channels] == ["GFP", "mCherry"]
    window = omero.channels[0].window
    assert window.min == 0 and window.max == 65535 and 0 <= window.start < window.end <= 200
    ImageLabel.from_zarr(group["labels/cells"])
    listed = Labels.from_zarr(group["labels"]).attributes
    assert (listed if version == "0.4" else listed.ome).labels == ["cells"] == list_labels(path)
    back = Movie.open(path)
    assert back.spacing_source == f"file: OME-Zarr {version}" and back.channel_names == ("GFP", "mCherry")
    assert np.array_equal(back.data[...], array) and open_labels(path, "cells").frame(1).all()


def test_default_channel_names_are_not_passed_off_as_the_files(tmp_path):
    movie = Movie.from_array(np.zeros((1, 2, 3, 4, 5), "uint8"), "tczyx", spacing_um=SPACING)
    assert movie.channel_names == ("channel 0", "channel 1") and movie.channel_source == "default"
    for name in ("m.ome.zarr", "m.ome.tif"):
        movie.save(tmp_path / name)
        assert Movie.open(tmp_path / name).channel_source == "default"
        given = Movie.open(tmp_path / name, channel_names=["a", "b"])
        assert given.channel_names == ("a", "b") and given.channel_source == "given"
        with pytest.raises(InputError, match="do not fit the channels"):
            Movie.open(tmp_path / name, channel_names=["a"])


def test_an_unknown_version_is_refused(tmp_path):
    with pytest.raises(InputError, match="not written here"):
        Movie.from_array(np.zeros((3, 4, 5)), "zyx", spacing_um=SPACING).save(tmp_path / "m.ome.zarr", version="0.3")
    assert not list(tmp_path.iterdir())
