"""What works on this machine, and what to do about what does not."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Finding:
    """One thing looked at: its value, whether it is well, what to do otherwise, whether a run needs it."""

    check: str
    value: str
    ok: bool = True
    what_to_do: str = ""
    needed: bool = True


def report() -> pd.DataFrame:
    """Look at this machine.

    Returns: a table with columns check, value, ok, what_to_do, needed; no absolute paths in it.
    """
    import pandas as pd

    return pd.DataFrame([look() for look in CHECKS])


def python() -> Finding:
    ok = sys.version_info >= (3, 11)
    return Finding("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}", ok,
                   "Install Python 3.11 or newer.")


def packages() -> Finding:
    wanted = ("torch", "numpy", "scipy", "zarr", "tifffile", "scikit-image", "scikit-learn", "trackpy", "matplotlib",
              "nbclient", "ipykernel")
    missing = [p for p in wanted if not _version(p)]
    return Finding("packages", f"missing: {', '.join(missing)}" if missing else
                   ", ".join(f"{p} {_version(p)}" for p in wanted[:5]), not missing,
                   "Install again: make run does it, or pip install -c constraints.txt -e .")


def device() -> Finding:
    import torch

    if torch.cuda.is_available():
        name, free = torch.cuda.get_device_name(), torch.cuda.mem_get_info()
        return Finding("device", f"cuda: {name}, {free[0] / 2**30:.0f} of {free[1] / 2**30:.0f} GiB free")
    mismatch = shutil.which("nvidia-smi") is not None
    return Finding("device", "cpu" + (", though a GPU driver is here" if mismatch else ""), not mismatch,
                   "This torch has no CUDA: delete .venv and run make again on this machine.", needed=False)


def threads() -> Finding:
    spinning = os.environ.get("OMP_WAIT_POLICY", "").upper() != "PASSIVE"
    return Finding("threads", f"{os.cpu_count()} cores, OMP_WAIT_POLICY {os.environ.get('OMP_WAIT_POLICY', 'not set')}",
                   not spinning, "Set OMP_WAIT_POLICY=PASSIVE on shared cores (cellfm run and lab do).", needed=False)


def memory() -> Finding:
    import psutil

    free = psutil.virtual_memory().available / 2**30
    return Finding("memory", f"{free:.1f} GiB available", free >= 4,
                   "The tiny profile wants 4 GiB: close other programs.", needed=False)


def disk() -> Finding:
    free = shutil.disk_usage(".").free / 2**30
    return Finding("disk", f"{free:.0f} GiB free here", free >= 2, "A tiny run wants 2 GiB: free some space.")


def widgets() -> Finding:
    """Kernel and server must both know the widgets, else they stay blank."""
    here = {p: _version(p) for p in ("ipywidgets", "jupyterlab_widgets", "anywidget", "plotly")}
    missing = [p for p, v in here.items() if not v]
    return Finding("widgets", ", ".join(f"{p} {v or 'missing'}" for p, v in here.items()), not missing,
                   "Install the missing ones where JupyterLab runs AND where the kernel runs.", needed=False)


def kernel() -> Finding:
    """The kernel notebooks start must be this Python, else they see other packages."""
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    try:
        spec = KernelSpecManager().get_kernel_spec("python3")
    except NoSuchKernel:
        return Finding("kernel", "python3 is not registered", False, "pip install ipykernel in this environment.")
    ours = spec.argv[0] in ("python", "python3") or Path(spec.argv[0]).resolve() == Path(sys.executable).resolve()
    return Finding("kernel", "python3 is this Python" if ours else "python3 is another Python", ours,
                   "Run: python -m ipykernel install --sys-prefix")


def viewer() -> Finding:
    """Serve neuroglancer's page on loopback and fetch it."""
    if importlib.util.find_spec("neuroglancer") is None:
        return Finding("3D viewer", "neuroglancer is not installed", False,
                       "pip install neuroglancer; static views stand in until then.", needed=False)
    code = ("import neuroglancer, urllib.request as r; neuroglancer.set_server_bind_address('127.0.0.1');"
            "url = neuroglancer.Viewer().get_viewer_url();"
            "print(r.build_opener(r.ProxyHandler({})).open(url, timeout=10).status)")
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        ok = done.stdout.strip() == "200"
    except subprocess.TimeoutExpired:
        ok = False
    proxied = importlib.util.find_spec("jupyter_server_proxy") is not None
    value = ("page served on loopback" if ok else "page not served") + (", proxy for hubs installed" if proxied else "")
    return Finding("3D viewer", value, ok and proxied,
                   "pip install neuroglancer jupyter-server-proxy; static views stand in until then.", needed=False)


def proxy() -> Finding:
    found = [k for k in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy") if os.environ.get(k)]
    exempt = os.environ.get("NO_PROXY", os.environ.get("no_proxy", ""))
    ok = not found or "127.0.0.1" in exempt or "localhost" in exempt
    return Finding("proxy", "set, " + ("loopback exempt" if ok else "loopback not exempt") if found else "none", ok,
                   "Add 127.0.0.1,localhost to NO_PROXY, or the viewer and kernels may hang.", needed=False)


def data() -> Finding:
    from cellfm_nb import manifest

    there = manifest.is_local("llsm_pycudadecon")
    value = "default stack is on this machine" if there else "default stack not fetched yet"
    return Finding("real data", value, there,
                   "cellfm data fetch llsm_pycudadecon (52 MB); without it runs use simulated data alone.",
                   needed=False)


CHECKS: tuple[Callable[[], Finding], ...] = (
    python, packages, device, threads, memory, disk, kernel, widgets, viewer, proxy, data)  # fmt: skip


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
