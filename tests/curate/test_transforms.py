"""The MONAI transforms: crops and views that know where they lie, whatever the number of workers."""

import itertools
import pickle

import numpy as np
import pytest
import torch

pytest.importorskip("monai")

from monai.data import DataLoader, MetaTensor  # noqa: E402
from monai.data import Dataset as PlainDataset  # noqa: E402
from monai.transforms import (  # noqa: E402
    Compose,
    EnsureChannelFirstd,
    GaussianSmooth,
    MedianSmooth,
    RandFlipd,
    RandSpatialCropd,
)

from cellfm_nb.curate import signal_mask  # noqa: E402
from cellfm_nb.curate import transforms as T  # noqa: E402
from cellfm_nb.errors import InputError  # noqa: E402
from cellfm_nb.movie import Movie  # noqa: E402
from cellfm_nb.seeds import rng  # noqa: E402

ROI = (8, 16, 16)
SPACING = torch.diag(torch.tensor([0.25, 0.1, 0.1, 1.0], dtype=torch.float64))


def field(seed=0, shape=(16, 48, 48), n=12, part=2):
    """A normalised volume (1, Z, Y, X): noise of s.d. 1, and puncta in 1 / part of it along y and x."""
    draw = rng(seed, "field")
    volume = draw.normal(size=shape).astype(np.float32)
    for z, y, x in draw.uniform([2, 2, 2], [shape[0] - 3, shape[1] // part - 3, shape[2] // part - 3], (n, 3)):
        away = sum((g - p) ** 2 for g, p in zip(np.ogrid[tuple(map(slice, shape))], (z, y, x), strict=True))
        volume += 15 * np.exp(-away / 3).astype(np.float32)
    return volume[None]


def numbered(shape=(16, 48, 48)):
    """A volume whose voxels are their own index."""
    return torch.arange(float(np.prod(shape)), dtype=torch.float64).view(1, *shape)


def grid(shape):
    return torch.cartesian_prod(*(torch.arange(float(n), dtype=torch.float64) for n in shape))


SAMPLERS = {"kmeans": lambda k: T.KMeansSpatialCropSamples(ROI, k), "content": lambda k: T.ContentCropSamples(ROI, k)}


@pytest.mark.parametrize("name", SAMPLERS)
def test_samples_lie_where_they_say(name):  # P2, N5
    image = field()
    crops = SAMPLERS[name](5).set_random_state(seed=3)(image)
    assert len(crops) == 5
    for i, crop in enumerate(crops):
        z, y, x = crop.meta["origin_px"]
        assert isinstance(crop, MetaTensor) and crop.meta["patch_index"] == i and crop.meta["chosen_by"] == name
        assert torch.equal(crop.as_tensor(), torch.from_numpy(image)[:, z:z + 8, y:y + 16, x:x + 16])
        assert T.map_voxels(torch.zeros(1, 3), crop, MetaTensor(image)).tolist() == [[z, y, x]]


@pytest.mark.parametrize("name", SAMPLERS)
def test_samples_repeat_with_the_seed(name):  # P2, N6
    def origins(seed):
        return [c.meta["origin_px"] for c in SAMPLERS[name](4).set_random_state(seed=seed)(field())]

    assert origins(1) == origins(1) != origins(2)


def test_content_samples_are_never_empty_where_k_means_ones_are():  # P2, P3
    """Puncta far apart: the centroids of their clusters lie between them, on background."""
    signal = {name: [] for name in SAMPLERS}
    for seed in range(6):
        image = field(seed, (16, 128, 128), 16, part=1)
        mask = torch.from_numpy(signal_mask(image[0]))
        for name, make in SAMPLERS.items():
            crops = make(4).set_random_state(seed=seed)(image)
            signal[name] += [float(mask[tuple(slice(o, o + n) for o, n in zip(c.meta["origin_px"], ROI, strict=True))]
                                   .float().mean()) for c in crops]
    assert min(signal["content"]) > 0 and np.mean(np.array(signal["kmeans"]) == 0) > 0.15
    assert np.mean(signal["content"]) > 1.8 * np.mean(signal["kmeans"])


def test_two_views_of_a_place_overlap_as_asked():  # N5
    pairs = T.ContentCropSamples(ROI, 8, views_per_place=2, min_overlap=0.3, max_overlap=0.6)
    for seed in range(10):
        crops = pairs.set_random_state(seed=seed)(field(seed))
        assert [c.meta["place"] for c in crops] == [0, 0, 1, 1, 2, 2, 3, 3]
        for a, b in zip(crops[::2], crops[1::2], strict=True):
            assert 0.3 <= T.shared_fraction(a, b) <= 0.6 and b.meta["signal"] > 0


def test_negative_control_k_means_pairs_need_not_overlap():
    """The original's two global views: the boxes of two centroids, most often disjoint."""
    shared = [T.shared_fraction(*T.KMeansSpatialCropSamples(ROI, 2).set_random_state(seed=s)(field(s, part=1)))
              for s in range(10)]
    assert np.mean(np.array(shared) == 0) > 0.5, shared


def test_kmeans_without_a_size_draws_one_as_the_seed_does():
    crops = T.KMeansSpatialCropSamples(None, 6).set_random_state(seed=0)(field())
    shares = np.array([c.shape[1:] for c in crops]) / (16, 48, 48)
    assert (shares > 0.3 - 1 / 16).all() and (shares <= 0.6).all() and len(np.unique(shares)) > 6


def test_dictionary_twin_cuts_image_and_label_alike():
    image, label = field(), (field() > 5).astype(np.int64)
    crop = T.ContentCropSamplesd(["image", "label"], ROI, 3).set_random_state(seed=1)
    out = crop({"image": image, "label": label, "name": "a"})
    alone = T.ContentCropSamples(ROI, 3).set_random_state(seed=1)(image)
    assert len(out) == 3 and all(d["name"] == "a" for d in out)
    for d, same in zip(out, alone, strict=True):
        assert torch.equal(d["image"].as_tensor(), same.as_tensor())
        assert d["label"].dtype == torch.int64 and torch.equal(d["label"].as_tensor(), (d["image"] > 5).long())
    with pytest.raises(InputError, match="differ in size"):
        crop({"image": image, "label": label[:, 1:]})


HOPELESS = {"all zero": np.zeros((1, 16, 48, 48), np.float32), "constant": np.full((1, 16, 48, 48), 7.0)}
REFUSED = {"NaN": (np.full((1, 16, 48, 48), np.nan), "not finite"),
           "one plane": (field()[:, :1], "smaller than a crop"),
           "smaller than a crop": (field()[:, :, :10], "smaller than a crop"),
           "no channel": (field()[0], "channel"),
           "raw counts": ((100 * field()).clip(0).astype(np.uint16), "Normalise first")}


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("case", [*HOPELESS, *REFUSED])
def test_hopeless_volumes_have_a_defined_outcome(name, case):  # P6
    if case in HOPELESS:
        crops = SAMPLERS[name](3).set_random_state(seed=0)(HOPELESS[case])
        assert [c.meta["chosen_by"] for c in crops] == 3 * ["random: no signal"]
    else:
        with pytest.raises(InputError, match=REFUSED[case][1]):
            SAMPLERS[name](3)(REFUSED[case][0])


MALFORMED = {
    "two sides": lambda: T.ContentCropSamples((8, 16), 2), "no side": lambda: T.KMeansSpatialCropSamples((0, 8, 8), 2),
    "half a voxel": lambda: T.ContentCropSamplesd("image", 8.5),
    "views": lambda: T.OverlappingViewsd("image", 8, (4, 4)),
    "view": lambda: T.RandViewd("image", (8, -1, 8)), "scale": lambda: T.RandViewd("image", 8, scale=(0, 1)),
    "read noise": lambda: T.RandCameraNoised("image", read_noise=(-0.5, 0.5)),
    "gain": lambda: T.RandCameraNoised("image", gain=(-1, 0)),
    "one number": lambda: T.RandCameraNoised("image", gain=1),
    "falling": lambda: T.RandContrastd("image", brightness=(1.2, 0.8)),
    "gamma": lambda: T.RandContrastd("image", gamma=(0, 1)),
    "NaN": lambda: T.RandPsfBlurd("image", (0, np.nan)), "probability": lambda: T.RandContrastd("image", prob=2),
    "factor": lambda: T.RandRecorruptd("image", (0, 1)), "share": lambda: T.KMeansSpatialCropSamples(None, 2, (0.5, 2)),
    "channel": lambda: T.ContentCropSamples(8, 2, channel=1)(field()),
    "channel, dictionary": lambda: T.KMeansSpatialCropSamplesd("image", 8, 2, channel=-1)({"image": field()}),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_questions_get_one_answer(case):
    with pytest.raises(InputError, match=r"(?s)where: .*got: .*expected: .*what to do: "):
        MALFORMED[case]()


def test_one_number_is_a_cube():
    assert {tuple(c.shape) for c in T.ContentCropSamples(8, 3).set_random_state(seed=0)(field())} == {(1, 8, 8, 8)}
    views = T.OverlappingViewsd("image", 8, 4, 1)({"image": field()})
    assert views["image_global_0"].shape == (1, 8, 8, 8) and views["image_local_0"].shape == (1, 4, 4, 4)


ALL = {"content": lambda: T.ContentCropSamplesd("image", ROI, 1), "kmeans": lambda: T.KMeansSpatialCropSamplesd(
           "image", ROI, 1), "view": lambda: T.RandViewd("image", ROI, (0.8, 1.2)),
       "views": lambda: T.OverlappingViewsd("image", ROI, 8, 1, scale=(0.8, 1.2)),
       "blur": lambda: T.RandPsfBlurd("image", spacing_um=(0.2, 0.1, 0.1)),
       "contrast": lambda: T.RandContrastd("image"),
       "noise": lambda: T.RandCameraNoised("image", gain=(0, 0.1)), "pair": lambda: T.RandRecorruptd("image"),
       "not this time": lambda: T.RandContrastd("image", prob=0)}


@pytest.mark.parametrize("name", ALL)
def test_floats_come_back_as_float32_and_what_is_not_finite_never(name):
    for dtype in (np.float64, np.float16):
        out = ALL[name]().set_random_state(seed=0)({"image": field().astype(dtype)})
        out = out[0] if isinstance(out, list) else out
        assert {v.dtype for v in out.values()} == {torch.float32}
    broken = field()
    broken[0, 3, 4, 5] = np.nan
    with pytest.raises(InputError, match="not finite"):
        ALL[name]()({"image": broken})
    counts = {"image": (100 * field()).clip(0).astype(np.int32)}
    if "view" in name:  # labels are cut like images, and keep their values
        assert {v.dtype for v in ALL[name]()(counts).values()} == {torch.int32}
    else:
        with pytest.raises(InputError, match="Normalise first"):
            ALL[name]()(counts)


def test_the_example_of_the_package_runs(tmp_path, capsys, picture):
    paths = [tmp_path / f"{i}.ome.zarr" for i in range(2)]
    for path in paths:
        Movie.from_array(picture[None, :16, :64, :64], spacing_um=(0.25, 0.1, 0.1)).save(path)
    lines = T.__doc__.splitlines()
    code = [line[4:] for line in lines if line.startswith("    ") or not line]
    exec("\n".join(code), {"paths": paths})
    assert capsys.readouterr().out == "torch.Size([4, 1, 8, 16, 16])\n"


def test_big_endian_images_are_taken():
    image = (100 * field()).clip(0).astype(">u2")
    crop = T.KMeansSpatialCropSamples(ROI, 1, counts=True).set_random_state(seed=0)(image)[0]
    z, y, x = crop.meta["origin_px"]
    assert crop.dtype == torch.uint16
    assert np.array_equal(crop.as_tensor().numpy(), image[:, z:z + 8, y:y + 16, x:x + 16])


def test_a_single_plane_can_be_cropped_by_plane_crops():  # P6
    crop = T.ContentCropSamples((1, 16, 16), 2).set_random_state(seed=0)(field()[:, 8:9])
    assert crop[0].shape == (1, 1, 16, 16)


STACK = [
    T.OverlappingViewsd("image", (8, 16, 16), (4, 8, 8), n_local=2, min_overlap=0.3, scale=(0.8, 1.25)),
    T.RandPsfBlurd(["image_global_0", "image_local_0"], prob=0.5),
    T.RandContrastd(["image_global_0", "image_global_1"]),
    T.RandCameraNoised(["image_global_0", "image_global_1", "image_local_0", "image_local_1"], gain=(0, 0.05)),
    T.RandRecorruptd("image_global_1"),
]
VIEWS = ("image_global_0", "image_global_1", "image_local_0", "image_local_1")


def pipeline():
    return Compose([T.ContentCropSamplesd("image", (12, 32, 32), 2), *STACK])


def test_a_voxel_of_one_view_is_found_in_another():  # N5, through crops, views, flips, turns, and MONAI's own flips
    steps = Compose([RandSpatialCropd("image", (14, 40, 40), random_size=False), RandFlipd("image", 1.0, 1),
                     T.RandViewd("image", (12, 32, 32)), T.OverlappingViewsd("image", (8, 16, 16), (4, 8, 8), 2)])
    source = MetaTensor(numbered(), affine=SPACING)
    for seed in range(5):
        d = steps.set_random_state(seed=seed)({"image": source})
        for name in VIEWS:
            there = T.map_voxels(grid(d[name].shape[1:]), d[name], source)
            z, y, x = there.round().long().unbind(-1)
            assert (there - there.round()).abs().max() < 1e-9
            assert torch.equal(source.as_tensor()[0, z, y, x], d[name].as_tensor().flatten())
        for a, b in itertools.combinations(VIEWS[:3], 2):
            assert T.shared_fraction(d[a], d[b]) >= 0.25
            there = T.map_voxels(grid(d[a].shape[1:]), d[a], d[b])
            inside = ((there > -0.5) & (there < torch.tensor(d[b].shape[1:]) - 0.5)).all(-1)
            z, y, x = there[inside].round().long().unbind(-1)
            assert inside.any() and torch.equal(d[b].as_tensor()[0, z, y, x], d[a].as_tensor().flatten()[inside])


def test_whole_images_are_flipped_and_turned_in_the_plane_alone():  # N4
    seen = set()
    for seed in range(40):
        out = T.RandViewd(["image", "label"]).set_random_state(seed=seed)(
            {"image": numbered(), "label": numbered().long()})
        assert torch.equal(out["image"].as_tensor().long(), out["label"].as_tensor())
        assert torch.equal(out["image"].flatten().sort().values.as_tensor(), numbered().flatten())
        planes = (out["image"].as_tensor() // (48 * 48)).flatten(2)
        assert (planes == planes[..., :1]).all()  # z never mixes with y or x
        seen.add(tuple(out["image"].affine.flatten().tolist()))
    assert len(seen) == 16


def items(n=4):
    return [{"image": field(i)} for i in range(n)]


def flatten(batches):
    return [batch[key].as_tensor().clone() for batch in batches for key in (*VIEWS, "image_global_1_target")]


def test_same_seed_same_crops_for_any_number_of_workers():  # N6
    def run(workers, seed=5, epoch=0):
        data = T.SeededDataset(items(), pipeline(), seed)
        data.set_epoch(epoch)
        return flatten(DataLoader(data, batch_size=2, num_workers=workers))

    here = run(0)
    assert len(here) == 2 * 5 and here[0].shape == (4, 1, 8, 16, 16)  # 2 items of 2 crops each
    assert all(map(torch.equal, here, run(2)))
    assert not torch.equal(here[0], run(0, epoch=1)[0]) and not torch.equal(here[0], run(0, seed=6)[0])


def test_negative_control_monais_own_dataset_depends_on_the_workers():
    def run(workers):
        torch.manual_seed(0)
        data = PlainDataset(items(), pipeline().set_random_state(seed=5))
        return flatten(DataLoader(data, batch_size=2, num_workers=workers))

    assert not all(map(torch.equal, run(0), run(2)))


def test_set_random_state_seeds_the_whole_stack():  # N6
    a, b, c = (pipeline().set_random_state(seed=s)({"image": field()}) for s in (1, 1, 2))
    assert all(torch.equal(x[k], y[k]) for x, y in zip(a, b, strict=True) for k in VIEWS)
    assert not torch.equal(a[0][VIEWS[0]], c[0][VIEWS[0]])
    assert pickle.loads(pickle.dumps(pipeline())) is not None  # as a spawned worker gets it


def test_noise_has_the_effect_asked_for_and_only_after_normalisation():  # N3
    clean = torch.rand(1, 16, 48, 48)
    noisy = T.RandCameraNoised("image", read_noise=(0.3, 0.3)).set_random_state(seed=0)({"image": clean})["image"]
    assert (noisy.as_tensor() - clean).std() == pytest.approx(0.3, rel=0.05)
    with pytest.raises(InputError, match="Normalise first"):
        T.RandCameraNoised("image")({"image": (1000 * clean).to(torch.int32)})


def test_probability_is_kept():
    changed = [not torch.equal(T.RandContrastd("image", prob=0.3).set_random_state(seed=s)({"image": field()})
                               ["image"].as_tensor(), torch.from_numpy(field())) for s in range(60)]
    assert 0.15 < np.mean(changed) < 0.45


def test_the_monai_trap_and_our_way_round_it():
    """MONAI 1.6.1: a channel axis added as 'no_channel' leaves spatial_ndim 2, and its filters go wrong."""
    plain = field()[0]
    trapped = EnsureChannelFirstd("image", channel_dim="no_channel")({"image": plain})["image"]
    if trapped.spatial_ndim == 3:
        pytest.skip("this MONAI is right")
    with pytest.raises(IndexError):
        GaussianSmooth(1.0)(trapped)
    right = MedianSmooth(1)(MetaTensor(plain[None]))
    assert not torch.equal(MedianSmooth(1)(trapped), right)  # silently another picture
    steps = Compose([EnsureChannelFirstd("image", channel_dim="no_channel"),
                     T.ContentCropSamplesd("image", plain.shape, 1)])
    out = steps({"image": plain})[0]["image"]
    assert out.spatial_ndim == 3 and torch.equal(MedianSmooth(1)(out), right)
    assert GaussianSmooth(1.0)(out).shape == (1, *plain.shape)


def test_two_views_do_not_share_their_noise():
    """Shared noise would tell an encoder that two views belong together without a look at the cell."""
    views = {"a": torch.zeros(1, 8, 16, 16), "b": torch.zeros(1, 8, 16, 16)}
    for transform in (T.RandCameraNoised(["a", "b"]), T.RandRecorruptd(["a", "b"])):
        out = transform.set_random_state(seed=0)(views)
        assert not torch.equal(out["a"], out["b"]) and float((out["a"] * out["b"]).mean()) < 0.1
