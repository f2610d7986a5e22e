import os
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellfm_nb.curate import read_shards, write_shards
from cellfm_nb.curate.loader import ShardLoader
from cellfm_nb.curate.shards import ShardIndex
from cellfm_nb.errors import InputError


def samples(n=23):
    rng = np.random.default_rng(0)
    for i in range(n):
        dtype, shape = (np.float16, np.uint16, np.dtype(">f4"), bool)[i % 4], (3, 4 + i % 2, 5)
        array = (rng.normal(100, 9, shape) if dtype is not bool else rng.random(shape) < 0.5).astype(dtype)
        yield f"s-{i:03d}", array, {"i": i, "origin_px": [i, 0, 0]}


@pytest.fixture
def folder(tmp_path):
    write_shards(tmp_path / "crops", samples(), max_bytes=8000).save(tmp_path / "index.json")
    return tmp_path


def test_the_same_samples_as_the_plain_reader(folder):
    """P1, by another path: offsets of the index instead of the tar's headers."""
    loader = ShardLoader(folder / "index.json")
    paths = [folder / s["name"] for s in loader.index.shards]
    assert len(paths) > 2 and len(loader) == 23
    for (a, told), i in zip(read_shards(paths, loader.index), range(23), strict=True):
        b, meta = loader[i]
        assert b.dtype == a.dtype and b.shape == a.shape and np.array_equal(a, b) and meta == told


def test_a_sample_is_a_view_and_cant_be_changed(folder):
    array, _ = ShardLoader(folder / "index.json")[1]
    assert not array.flags.owndata and not array.flags.writeable
    with pytest.raises(ValueError):
        array += 1


def test_empty_scalar_and_fortran_arrays(tmp_path):
    arrays = [np.zeros((0, 3)), np.float32(3.5), np.asfortranarray(np.arange(12).reshape(3, 4))]
    write_shards(tmp_path / "c", [(f"{i}", np.asarray(a), {}) for i, a in enumerate(arrays)]).save(tmp_path / "i.json")
    loader = ShardLoader(tmp_path / "i.json")
    for i, array in enumerate(arrays):
        assert np.array_equal(loader[i][0].reshape(np.shape(array)), array)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(0, 50), world=st.integers(1, 7), workers=st.integers(1, 5), epoch=st.integers(0, 3))
def test_each_sample_once_per_epoch(n, world, workers, epoch):
    """P4: disjoint and complete over ragged numbers of ranks and workers; the order is (seed, epoch)'s."""
    members = [{"key": str(i), "at": [0, 0, 0, 0]} for i in range(n)]
    loader = ShardLoader(ShardIndex([{"name": "x", "members": members}]), "nowhere", seed=5)
    parts = [loader.order(epoch, r, world, w, workers) for r in range(world) for w in range(workers)]
    assert sorted(np.concatenate(parts).tolist()) == list(range(n))
    ranks = [len(loader.order(epoch, r, world)) for r in range(world)]
    assert max(ranks) - min(ranks) <= 1
    # the wrong variant: every worker draws an order of its own, and takes its share of it
    if n > 20 and world * workers > 1:
        wrong = [np.random.default_rng(p).permutation(n)[p :: world * workers] for p in range(world * workers)]
        assert sorted(np.concatenate(wrong).tolist()) != list(range(n))


def test_the_order_is_shuffled_and_comes_again(folder):
    loaders = [ShardLoader(folder / "index.json", seed=s) for s in (0, 0, 1)]
    orders = [[lo.order(e).tolist() for e in (0, 1)] for lo in loaders]
    assert orders[0] == orders[1] and orders[0][0] != orders[0][1] and orders[0] != orders[2]
    assert orders[0][0] != sorted(orders[0][0])
    keys = [m["key"] for _, m in loaders[0].epoch(1)]
    assert keys == [f"s-{i:03d}" for i in orders[0][1]]
    for bad in ({"rank": 2, "world": 2}, {"worker": -1}):
        with pytest.raises(InputError, match="no such part"):
            loaders[0].order(0, **bad)


def test_torch_reads_it_with_workers(folder):
    torch_data = pytest.importorskip("torch.utils.data")
    loader = ShardLoader(folder / "index.json")
    batches = torch_data.DataLoader(loader, sampler=loader.order(0), batch_size=None, num_workers=2,
                                    collate_fn=tuple)
    assert [meta["key"] for _, meta in batches] == [f"s-{i:03d}" for i in loader.order(0)]


def test_it_travels_without_its_maps(folder):
    loader = ShardLoader(folder / "index.json")
    loader[0]
    assert len(pickle.dumps(loader)) < 20_000 and np.array_equal(pickle.loads(pickle.dumps(loader))[0][0], loader[0][0])


def test_a_flipped_byte_is_named_once_per_shard(folder):
    index = ShardIndex.load(folder / "index.json")
    path, victim = folder / index.shards[1]["name"], index.shards[1]["members"][1]
    data = bytearray(path.read_bytes())
    data[victim["at"][0] + 130] ^= 1
    path.write_bytes(data)
    loader, first = ShardLoader(folder / "index.json"), len(index.shards[0]["members"])
    assert loader[0][1]["key"] == "s-000"  # other shards are read
    with pytest.raises(InputError, match=f"{path.name}: {victim['key']}.npy"):
        loader[first]
    assert ShardLoader(folder / "index.json", verify=False)[first + 1][0].shape  # negative control: unseen unverified


def test_what_is_cut_short_or_gone_is_said(folder):
    loader = ShardLoader(folder / "index.json", verify=False)
    path = folder / loader.index.shards[0]["name"]
    os.truncate(path, 3000)
    with pytest.raises(InputError, match="damaged"):  # a view past the end of a map would kill the process
        loader[0]
    path.unlink()
    with pytest.raises(InputError, match=path.name):
        loader[0]
    with pytest.raises(InputError, match="folder"):
        ShardLoader(loader.index)
    with pytest.raises(InputError, match="offsets"):
        ShardLoader(ShardIndex([{"name": "x", "members": [{"key": "a"}]}]), folder)


@pytest.mark.parametrize("change", [{"name": "../crops-000000.tar"}, {"at": [10**9, 5, 0, 2]}, {"at": [0, 5, 0, 2]},
                                    {"at": [-700, 5, -700, 2]}])
def test_an_index_that_lies_is_refused(folder, change):
    index = ShardIndex.load(folder / "index.json")
    (index.shards[0] if "name" in change else index.shards[0]["members"][0]).update(change)
    (folder / "in").mkdir()
    with pytest.raises(InputError, match="damaged"):
        ShardLoader(index, folder / "in" if "name" in change else folder, verify=False)[0]
