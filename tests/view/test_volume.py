"""The 3D viewer: layer types, dimensions, address; never blocking headless."""

import io
import socket
import urllib.error
import urllib.request
import zlib

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from cellfm_nb.view import volume, where

SPACING = (0.25, 0.1, 0.1)
RAW = np.arange(4 * 5 * 6, dtype=np.uint16).reshape(4, 5, 6)
LABELS = (RAW // 40).astype(np.uint32)


@pytest.fixture
def ng():
    yield pytest.importorskip("neuroglancer")
    volume.close_viewers()


def source(layer):
    return layer.source[0].url  # the LocalVolume itself


def test_layer_types_are_said_not_guessed(ng):
    raw, labels = volume.layer(RAW, "image", SPACING), volume.layer(LABELS, "labels", SPACING)
    assert isinstance(raw, ng.ImageLayer) and source(raw).volume_type == "image"
    assert isinstance(labels, ng.SegmentationLayer) and source(labels).volume_type == "segmentation"
    # negative control: left to itself, neuroglancer takes 16-bit microscopy for labels and int32 labels for an image
    space = volume.space(3, SPACING)
    assert ng.LocalVolume(RAW, dimensions=space).volume_type == "segmentation"
    assert ng.LocalVolume(LABELS.astype(np.int32), dimensions=space).volume_type == "image"


@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16", "uint32", "int64", "float32", "float64"])
@pytest.mark.parametrize("kind", ["image", "labels"])
def test_any_type_is_served_as_one_that_can_be_drawn(ng, dtype, kind):
    local = source(volume.layer(RAW.astype(dtype), kind, SPACING))
    block, _ = local.get_encoded_subvolume("npz", np.zeros(3, int), np.array(RAW.shape), "1,1,1")
    served = np.load(io.BytesIO(zlib.decompress(block)), allow_pickle=False)
    assert served.dtype == local.data_type
    assert local.data_type == ("uint32" if kind == "labels" else local.data_type) != "float64"
    assert sorted(served.ravel()) == sorted(RAW.astype(dtype).astype(float).ravel())


def test_dimensions_are_named_in_array_order_with_units(ng):
    movie = np.zeros((2, 4, 5, 6), np.uint16)
    dims = source(volume.layer(movie, "image", SPACING, dt_s=2.0)).dimensions
    assert list(dims.names) == ["t", "z", "y", "x"]
    assert list(dims.units) == ["s", "m", "m", "m"]  # the library keeps SI units
    assert np.allclose(dims.scales, [2.0, 0.25e-6, 0.1e-6, 0.1e-6])


def test_lazy_arrays_are_read_block_by_block(ng):
    class Lazy:
        shape, dtype, read = (8, 64, 64), np.dtype(np.uint16), []

        def __getitem__(self, index):
            self.read.append(index)
            return np.zeros((8, 64, 64), np.uint16)[index]

    local = source(volume.layer(Lazy(), "labels", SPACING))
    assert Lazy.read == []
    local.get_encoded_subvolume("npz", np.zeros(3, int), np.array([2, 2, 2]), "1,1,1")
    assert Lazy.read == [(slice(0, 2), slice(0, 2), slice(0, 2))]


def test_the_server_listens_on_loopback_and_behind_its_token_until_closed(ng):
    points = pd.DataFrame({"z": [1], "y": [2], "x": [3]})
    kinds = {"raw": "image", "labels": "labels"}
    viewer = volume.open_viewer({"raw": RAW, "labels": LABELS}, SPACING, points, 1.0, kinds)
    assert [layer.name for layer in viewer.state.layers] == ["raw", "labels", "points"]
    assert list(viewer.state.display_dimensions) == ["x", "y", "z"] and list(viewer.state.position) == [2, 2.5, 3]
    server = ng.server.global_server
    assert viewer.get_viewer_url().startswith("http://127.0.0.1:")
    assert urllib.request.urlopen(viewer.get_viewer_url(), timeout=5).status == 200
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"http://127.0.0.1:{server.port}/v/wrong/", timeout=5)
    volume.close_viewers()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", server.port)) != 0 or ng.server.global_server is None


def test_headless_returns_the_picture_only(monkeypatch):
    monkeypatch.setenv("CELLFM_HEADLESS", "1")
    monkeypatch.setattr(volume, "open_viewer", lambda *a: pytest.fail("a viewer was opened"))
    for layers in ({"raw": RAW, "labels": LABELS}, {"labels": LABELS}, {"movie": RAW[None]}, {}):
        assert isinstance(volume.show_volume(layers, SPACING, points=np.array([[1, 2, 3]])), Figure)


LAB = {"JPY_PARENT_PID": "7"}
ADDRESSES = {
    "a script": ({}, [], True, "http://127.0.0.1:99/v/t0/"),
    "plain Jupyter": (LAB, [{"pid": 7, "base_url": "/"}], True, "/proxy/99/v/t0/"),
    "Jupyter without the proxy": (LAB, [{"pid": 7, "base_url": "/"}], False, "http://127.0.0.1:99/v/t0/"),
    "a base URL": (LAB, [{"pid": 7, "base_url": "/user/ann/"}], True, "/user/ann/proxy/99/v/t0/"),
    "the right one of two servers": (LAB, [{"pid": 6, "base_url": "/b/"}, {"pid": 7, "base_url": "/a/"}], True,
                                     "/a/proxy/99/v/t0/"),
    "a hub": ({"JUPYTERHUB_SERVICE_PREFIX": "/user/ann/"}, [], True, "/user/ann/proxy/99/v/t0/"),
    "a hub, named server": ({"JUPYTERHUB_SERVICE_PREFIX": "/hub/user/ann/gpu"}, [], True,
                            "/hub/user/ann/gpu/proxy/99/v/t0/"),
    "a hub without the proxy": ({"JUPYTERHUB_SERVICE_PREFIX": "/user/ann/"}, [], False, None),
    "VS Code": ({"VSCODE_PID": "1"}, [], True, "http://127.0.0.1:99/v/t0/"),
}  # fmt: skip


@pytest.mark.parametrize("case", ADDRESSES)
def test_the_address_a_browser_can_reach(case):
    env, servers, proxy, expected = ADDRESSES[case]
    assert where.address(99, "t0", env, servers, proxy) == expected


def test_colab_has_its_own_way():
    assert where.place({}, {"google.colab": object()}, []) == "colab"
    assert where.address(99, "t0", {}, modules={"google.colab": object()}) is None


def test_no_kernel_means_headless(monkeypatch):
    monkeypatch.delenv("CELLFM_HEADLESS", raising=False)
    assert where.headless()
