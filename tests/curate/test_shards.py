import hashlib
import io
import json
import tarfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellfm_nb.curate import ShardIndex, read_shards, write_crops, write_quality, write_shards
from cellfm_nb.curate.split import split_movies
from cellfm_nb.errors import InputError
from cellfm_nb.movie import Movie

from .twin import puncta


def samples(n=10):
    rng = np.random.default_rng(0)
    for i in range(n):
        dtype = (np.float16, np.uint16, np.float32)[i % 3]
        yield f"movie-{i:03d}", rng.normal(100, 9, (3, 4, 5)).astype(dtype), {"spacing_um": [0.25, 0.1, 0.1], "i": i}


@pytest.fixture
def packed(tmp_path):
    index = write_shards(tmp_path / "crops", samples(), max_bytes=8000, about={"why": "test"})
    index.save(tmp_path / "index.json")
    return [tmp_path / s["name"] for s in index.shards], ShardIndex.load(tmp_path / "index.json")


def test_round_trip_is_exact(packed):
    """P1."""
    paths, index = packed
    assert len(paths) > 2 and all(p.stat().st_size < 8000 + 20480 for p in paths) and len(index) == 10
    for (key, array, meta), (got, told) in zip(samples(), read_shards(paths, index), strict=True):
        assert got.dtype == array.dtype and got.tobytes() == array.tobytes() and told == {"key": key, **meta}
    assert [m["key"] for _, m in read_shards(paths)] == index.keys


def test_same_samples_same_bytes(packed, tmp_path):
    (tmp_path / "again").mkdir()
    write_shards(tmp_path / "again" / "crops", samples(), max_bytes=8000)
    for path in packed[0]:
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


@settings(max_examples=20, deadline=None)
@given(n=st.integers(0, 40), world=st.integers(1, 7))
def test_parts_cover_every_sample_once(n, world):
    """P4: disjoint, complete, balanced."""
    shards = [{"name": f"{s}", "bytes": 0, "members": [{"key": f"{s}-{i}"} for i in range(s, n, 3)]} for s in range(3)]
    index = ShardIndex(shards)
    parts = [index.part(rank, world).keys for rank in range(world)]
    assert sorted(sum(parts, [])) == sorted(index.keys) and max(map(len, parts)) - min(map(len, parts)) <= 1


def test_parts_read_every_sample_once(packed):
    paths, index = packed
    read = [meta["key"] for rank in range(3) for _, meta in read_shards(paths, index.part(rank, 3))]
    assert sorted(read) == index.keys
    with pytest.raises(InputError):
        index.part(3, 3)


def test_webdataset_layout(packed):
    with tarfile.open(packed[0][0]) as tar:
        names = tar.getnames()
    assert names[:2] == ["movie-000.npy", "movie-000.json"]


@pytest.mark.parametrize("with_index", [True, False])
def test_a_flipped_byte_is_named(packed, with_index):
    paths, index = packed
    data = bytearray(paths[1].read_bytes())
    data[512 + 140] ^= 1  # in the first member's voxels
    paths[1].write_bytes(data)
    with pytest.raises(InputError, match=index.shards[1]["members"][0]["key"]):
        list(read_shards(paths, index if with_index else None))


def test_a_truncated_shard_is_named(packed):
    paths, index = packed
    paths[0].write_bytes(paths[0].read_bytes()[:3000])
    with pytest.raises(InputError, match="crops-000000.tar: movie-00"):
        list(read_shards(paths, index))
    paths[0].write_bytes(b"not a tar file")
    with pytest.raises(InputError, match="damaged"):
        list(read_shards(paths[0]))
    with pytest.raises(InputError, match="no such shard"):
        list(read_shards(paths[0].with_name("gone.tar")))


@pytest.mark.parametrize("name", ["../evil.npy", "/etc/evil.npy", "a/../../evil.npy"])
def test_members_that_leave_the_archive_are_refused(tmp_path, name):
    with tarfile.open(tmp_path / "bad.tar", "w") as tar:
        info = tarfile.TarInfo(name)
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    with pytest.raises(InputError, match="leave"):
        list(read_shards(tmp_path / "bad.tar"))


def test_pickles_are_refused(tmp_path):
    stream = io.BytesIO()
    np.save(stream, np.array([{}], object), allow_pickle=True)
    meta = json.dumps({"sha256": hashlib.sha256(stream.getvalue()).hexdigest()}).encode()
    with tarfile.open(tmp_path / "bad.tar", "w") as tar:
        for name, data in (("a.npy", stream.getvalue()), ("a.json", meta)):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with pytest.raises(InputError, match="damaged"):
        list(read_shards(tmp_path / "bad.tar"))


@pytest.mark.parametrize("key", ["../up", "a.b", "", "a/b"])
def test_bad_keys(tmp_path, key):
    with pytest.raises(InputError):
        write_shards(tmp_path / "x", [(key, np.zeros(3), {})])
    with pytest.raises(InputError):
        write_shards(tmp_path / "y", [("a", np.zeros(3), {})] * 2)


def test_bad_index(tmp_path):
    for text in ("{", '{"surprise": 1}'):
        (tmp_path / "index.json").write_text(text)
        with pytest.raises(InputError, match="index"):
            ShardIndex.load(tmp_path / "index.json")


def test_crops_of_a_movie_and_a_stack(tmp_path):
    frames = np.stack([puncta((16, 64, 64), seed=s, n=20) for s in range(4)])
    frames[2] = 9  # rejected: gives no crop
    Movie.from_array(frames, spacing_um=(0.25, 0.1, 0.1)).save(tmp_path / "movie.ome.zarr")
    Movie.from_array(puncta((40, 64, 64))[None], spacing_um=(0.125, 0.1, 0.1)).save(tmp_path / "stack.ome.zarr")
    write_quality(tmp_path / "quality.csv", tmp_path / "movie.ome.zarr")
    outs = []
    for name in ("a", "b"):
        out = tmp_path / f"{name}.tar", tmp_path / f"{name}.json"
        write_crops(*out, tmp_path / "movie.ome.zarr", tmp_path / "quality.csv", tmp_path / "stack.ome.zarr",
                    crop_shape=(8, 24, 24), n_crops=16, seed=3, name="a.tar")
        outs.append([p.read_bytes() for p in out])
    assert outs[0] == outs[1]
    index = ShardIndex.load(tmp_path / "a.json")
    got = list(read_shards(tmp_path / "a.tar", index))
    assert len(got) == len(index) == 16 and sum(m["key"].startswith("stack") for _, m in got) == 4
    assert {m["frame"] for _, m in got if m["key"].startswith("movie")} == {0, 1, 3}
    assert all(a.shape == (8, 24, 24) and a.dtype == np.float16 and np.isfinite(a).all() for a, _ in got)
    assert all(m["spacing_um"] == pytest.approx([0.25, 0.1, 0.1]) and m["signal"] > 0 for _, m in got)


def test_the_index_counts_and_digests_every_file(packed):
    paths, index = packed
    for path, shard in zip(paths, index.shards, strict=True):
        data = path.read_bytes()
        assert shard["bytes"] == len(data) and shard["sha256"] == hashlib.sha256(data).hexdigest()
        for member in shard["members"]:
            npy, n_npy, told, n_told = member["at"]
            assert hashlib.sha256(data[npy : npy + n_npy]).hexdigest() == member["npy"]
            assert json.loads(data[told : told + n_told])["sha256"] == member["npy"]
    assert sum(len(s["members"]) for s in index.shards) == len(index)  # P1: the shards' counts are the data set's


def test_long_keys_keep_their_place(tmp_path):
    """Names over 100 characters take more than one header block in a tar file."""
    key = "k" * 180
    index = write_shards(tmp_path / "crops", [(key, np.arange(5), {}), ("b", np.arange(7), {})])
    data = (tmp_path / "crops-000000.tar").read_bytes()
    for member in index.shards[0]["members"]:
        assert data[member["at"][0] :][:6] == b"\x93NUMPY"
    assert [m["key"] for _, m in read_shards(tmp_path / "crops-000000.tar", index)] == [key, "b"]


def test_webdataset_reads_the_same_arrays(packed):
    wds = pytest.importorskip("webdataset")
    paths, _ = packed
    read = list(wds.WebDataset([str(p) for p in paths], shardshuffle=False).decode().to_tuple("__key__", "npy", "json"))
    for (key, array, meta), (name, got, told) in zip(samples(), read, strict=True):
        told.pop("sha256")
        assert name == key and got.dtype == array.dtype and np.array_equal(got, array) and told == meta


# the split into train and validation


def digests(n, start=0):
    return [hashlib.sha256(str(i).encode()).hexdigest() for i in range(start, start + n)]


@settings(max_examples=30, deadline=None)
@given(n=st.integers(2, 40), more=st.integers(1, 10), seed=st.integers(0, 99), share=st.floats(0.05, 0.5))
def test_adding_a_movie_moves_no_other(n, more, seed, share):
    first = split_movies(digests(n), seed, share)
    assert first == split_movies(reversed(digests(n)), seed, share)
    assert set(first.values()) == {"train", "validation"}
    then = split_movies(digests(n + more), seed, share, known=first)
    assert all(then[d] == first[d] for d in first)


def test_every_tenth_of_a_sorted_list_would_move_movies():
    """The wrong variant of a split, which the property above tells from ours."""
    def every_tenth(found):
        return {d: i % 10 == 0 for i, d in enumerate(sorted(found))}

    old, new = every_tenth(digests(60)), every_tenth(digests(61))
    assert any(new[d] != old[d] for d in old)


def test_split_share_and_seed():
    sides = [split_movies(digests(2000), seed, 0.1) for seed in (0, 1)]
    counts = [sum(s == "validation" for s in side.values()) for side in sides]
    assert all(160 < n < 240 for n in counts) and sides[0] != sides[1]
    assert split_movies([]) == {}


def test_an_index_is_split_by_its_marks():
    index = ShardIndex([{"name": "a", "members": [{"key": "a"}], "split": "train"},
                        {"name": "b", "members": [{"key": "b"}], "split": "validation"}])
    assert index.split("train").keys == ["a"] and index.split("validation").keys == ["b"]
    with pytest.raises(InputError, match="train, validation"):
        index.split("test")


def test_a_movie_alone_is_for_training():
    assert set(split_movies([f"digest {i}" for i in range(1)], share=1.0).values()) == {"train"}
    assert all(split_movies([str(i)], share=0.5) == {str(i): "train"} for i in range(20))


def test_a_shard_the_index_does_not_know_is_an_error_not_nothing(tmp_path):
    index = write_shards(tmp_path / "a", [("one", np.zeros(3, np.float32), {})])
    (tmp_path / "a-000000.tar").rename(tmp_path / "b-000000.tar")
    with pytest.raises(InputError, match="does not know"):
        list(read_shards(tmp_path / "b-000000.tar", index))
