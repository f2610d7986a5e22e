"""Where a view is shown (headless, Jupyter, a hub, VS Code, Colab) and by which address a browser reaches it."""

from __future__ import annotations

import importlib.util
import os
import sys
import urllib.request
from collections.abc import Mapping, Sequence


def headless() -> bool:
    """Say whether nobody looks: CELLFM_HEADLESS=1 (set by `cellfm run`), or no notebook kernel at all."""
    if os.environ.get("CELLFM_HEADLESS") == "1":
        return True
    shell = sys.modules.get("IPython")
    shell = shell.get_ipython() if shell else None
    return shell is None or not hasattr(shell, "kernel")


def place(env: Mapping[str, str], modules: Mapping[str, object], servers: Sequence[Mapping]) -> str:
    """Name the program around the kernel: "colab", "vscode", "hub", "jupyter" or "plain".

    env: environment variables. modules: those loaded. servers: see `running_servers`.
    """
    if "google.colab" in modules:
        return "colab"
    if env.get("VSCODE_PID") or env.get("VSCODE_CWD") or env.get("VSCODE_IPC_HOOK_CLI"):
        return "vscode"
    if env.get("JUPYTERHUB_SERVICE_PREFIX"):
        return "hub"
    return "jupyter" if mine(env, servers) else "plain"


def address(port: int, token: str, env: Mapping[str, str], servers: Sequence[Mapping] = (),
            proxy: bool = True, modules: Mapping[str, object] | None = None) -> str | None:
    """Return the address a browser reaches a neuroglancer viewer by, or None where there is none.

    port, token: of the viewer's server, which listens on 127.0.0.1 only. proxy: jupyter-server-proxy is there.
    Behind a Jupyter server the address is relative to the page's host, {base_url}proxy/{port}/v/{token}/: it
    holds at any base URL and on any hub, where the viewer's own http://127.0.0.1 link is dead.
    """
    where = place(env, modules or {}, servers)
    direct = f"http://127.0.0.1:{port}/v/{token}/"
    if where in ("vscode", "plain"):  # VS Code forwards ports of the remote machine by itself
        return direct
    if where == "colab":
        return None  # Colab opens ports through its own function, see volume.show_volume
    if where == "hub":
        base = env["JUPYTERHUB_SERVICE_PREFIX"]
        return f"/{base.strip('/')}/proxy/{port}/v/{token}/" if proxy else None
    if not proxy:
        return direct  # right for a browser on the same machine
    base = str(mine(env, servers)["base_url"]).strip("/")
    return f"{'/' + base if base else ''}/proxy/{port}/v/{token}/"


def mine(env: Mapping[str, str], servers: Sequence[Mapping]) -> Mapping | None:
    """Return the server that started this kernel: the one with our parent's id, else the only one."""
    parent = env.get("JPY_PARENT_PID", "")
    for server in servers:
        if parent and str(server.get("pid")) == parent:
            return server
    return servers[0] if parent and len(servers) == 1 else None


def running_servers() -> list[dict]:
    """List the Jupyter servers of this user (an empty list where Jupyter is not installed)."""
    if importlib.util.find_spec("jupyter_server") is None:
        return []
    from jupyter_server.serverapp import list_running_servers

    return list(list_running_servers())


def has_proxy(servers: Sequence[Mapping] = (), env: Mapping[str, str] | None = None) -> bool:
    """Say whether the Jupyter server forwards ports.

    Kernel and server may live in two environments, so the server itself is asked, where it is one of this machine that
    lets us in; else it counts whether jupyter-server-proxy is installed beside the kernel.
    """
    server = mine(os.environ if env is None else env, servers)
    if server and server.get("token") and str(server.get("url", "")).startswith("http:"):
        return forwards(server)
    return importlib.util.find_spec("jupyter_server_proxy") is not None


def forwards(server: Mapping) -> bool:
    """Ask a Jupyter server for its own page through its own proxy: only one that forwards ports has that address."""
    base, port = str(server["base_url"]), server["port"]
    request = urllib.request.Request(f"http://127.0.0.1:{port}{base}proxy/{port}{base}api",
                                     headers={"Authorization": f"token {server['token']}"})
    try:
        return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=3).status == 200
    except OSError:  # refused, not found, too late
        return False
