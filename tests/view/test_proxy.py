"""A viewer behind a real Jupyter server under a hub's base URL, without a browser: page, data and events pass."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request

import numpy as np
import pytest

from cellfm_nb.view import volume, where

pytest.importorskip("jupyter_server_proxy")
pytest.importorskip("neuroglancer")


def ask(address, token="", data=None):
    request = urllib.request.Request(address, data, {"Authorization": f"token {token}"} if token else {})
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20)


@pytest.fixture(scope="module", params=[True, False], ids=["with the proxy", "without"])
def server(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    own = {f"JUPYTER_{kind}_DIR": str(folder / kind.lower()) for kind in ("CONFIG", "DATA", "RUNTIME")}
    extensions = {"jupyter_server_proxy": request.param, "jupyterlab": False}
    (folder / "config").mkdir()
    config = json.dumps({"ServerApp": {"jpserver_extensions": extensions}})
    (folder / "config" / "jupyter_server_config.json").write_text(config)
    command = [sys.executable, "-m", "jupyter_server", "--allow-root", "--no-browser", "--port=0", "--ip=127.0.0.1",
               "--ServerApp.base_url=/user/ann/"]
    running = subprocess.Popen(command, env={**os.environ, **own}, cwd=folder, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 90
        while not (files := list(folder.glob("runtime/jpserver-*.json"))):
            assert time.monotonic() < end, "the server does not start"
            time.sleep(0.2)
        yield json.loads(files[0].read_text()), request.param
    finally:
        running.terminate()
        running.wait(20)


def test_the_address_found_is_one_that_answers(server):
    running, proxied = server
    env = {"JPY_PARENT_PID": str(running["pid"])}
    assert where.has_proxy([running], env) == proxied  # asked of the server, whatever is installed beside the kernel
    image = np.arange(4 * 5 * 6, dtype=np.uint16).reshape(4, 5, 6)
    viewer = volume.open_viewer({"raw": image}, (0.25, 0.1, 0.1), None, 1.0, {"raw": "image"})
    port = re.search(r":(\d+)/", viewer.get_viewer_url())[1]
    found = where.address(int(port), viewer.token, env, [running], where.has_proxy([running], env))
    if not proxied:
        assert found.startswith("http://127.0.0.1:")
        return
    assert found == f"/user/ann/proxy/{port}/v/{viewer.token}/"
    host = f"http://127.0.0.1:{running['port']}"
    assert ask(host + found, running["token"]).status == 200
    root = f"{host}/user/ann/proxy/{port}"
    key = f"{viewer.token}.{next(iter(viewer.volume_manager.volumes))}"
    info = json.loads(ask(f"{root}/neuroglancer/info/{key}", running["token"]).read())
    assert info["shape"] == [4, 5, 6] and info["volumeType"] == "image"
    block = ask(f"{root}/neuroglancer/npz/{key}/1,1,1/0,0,0/4,5,6", running["token"])
    assert block.status == 200
    with pytest.raises(urllib.error.HTTPError):  # a stranger to the server is turned away before the viewer's token
        ask(f"{host}/user/ann/api/contents")
    volume.close_viewers()
