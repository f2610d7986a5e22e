"""Find and download one file of a package index, with pip's own configuration (mirror, proxy, certificates) or none.

`pip download` itself would run the build code of a source archive; only the file is wanted here.
Simple index: PEP 503 (HTML) and PEP 691 (JSON). pip's settings come from `pip config list`, PIP_* variables win.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit
from urllib.request import url2pathname

import requests

from cellfm_nb.errors import Unreachable
from cellfm_nb.progress import Progress

ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
ATTEMPTS = 3


@dataclass
class PipConfig:
    """What pip would use: index pages in the order to try, how to connect."""

    find_links: list[str] = field(default_factory=list)
    indexes: list[str] = field(default_factory=list)
    verify: str | bool = True
    proxies: dict[str, str] = field(default_factory=dict)
    trusted_hosts: set[str] = field(default_factory=set)
    timeout: tuple[float, float] = (10.0, 60.0)  # to connect, between two blocks; seconds

    def get(self, url: str, **options: object) -> requests.Response:
        """Request a page. Raises requests.RequestException."""
        host = urlsplit(url).hostname or ""
        response = requests.get(url, timeout=self.timeout, proxies=self.proxies or None,
                                verify=False if host in self.trusted_hosts else self.verify, **options)
        response.raise_for_status()
        return response


def pip_config() -> PipConfig:
    """Read pip's configuration of this Python: index-url, extra-index-url, find-links, cert, proxy, trusted-host."""
    found: dict[str, str] = {}
    try:
        lines = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True,
                               timeout=60, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):  # no pip here (uv): the environment still counts
        lines = []
    for line in sorted(lines, key=lambda one: one.startswith((":env:", "install."))):  # the later one wins
        section, _, rest = line.partition(".")
        key, _, value = rest.partition("=")
        if section in ("global", "install", "download", ":env:") and value:
            found[key] = str(ast.literal_eval(value))
    for key in ("index-url", "extra-index-url", "find-links", "cert", "proxy", "trusted-host", "no-index"):
        if value := os.environ.get("PIP_" + key.upper().replace("-", "_")):
            found[key] = value
    config = PipConfig(find_links=found.get("find-links", "").split())
    if found.get("no-index", "false").lower() not in ("1", "true", "yes", "on"):
        first = found.get("index-url") or default_index()
        config.indexes = [*([first] if first else []), *found.get("extra-index-url", "").split()]
    config.verify = found.get("cert") or True
    config.trusted_hosts = {host.split(":")[0] for host in found.get("trusted-host", "").split()}
    if proxy := found.get("proxy"):
        config.proxies = {"http": proxy, "https": proxy}
    return config


def default_index() -> str | None:
    """Return the index pip asks when none is configured, as its help states it; None where pip can't tell."""
    try:
        told = subprocess.run([sys.executable, "-m", "pip", "download", "--help"], capture_output=True, text=True,
                              timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    stated = re.search(r"\(default\s+(https?://\S+?)\)", told)
    return stated[1] if stated else None


def download_artifact(package: str, artifact: str, to: Path, size: int | None = None, show: bool = True) -> None:
    """Download a file of a package ("pycudadecon==0.5.1", "pycudadecon-0.5.1.tar.gz") to a path; nothing is checked.

    Folders of find-links and indexes on this machine are asked before the network.
    Raises Unreachable, naming what was tried.
    """
    config = pip_config()
    project = re.sub(r"[-_.]+", "-", package.split("==")[0]).lower()
    pages = [(page, page) for page in config.find_links]
    pages += [(index, f"{index.rstrip('/')}/{project}/") for index in config.indexes]
    tried = []
    for shown, page in sorted(pages, key=lambda one: not _is_local(one[0])):
        try:
            link = _find_link(config, page, artifact)
            if link is None:
                tried.append(f"{_public(shown)} (does not list it)")
                continue
            download(link, to, config, size, artifact if show else None)
            return
        except (requests.RequestException, OSError) as error:
            tried.append(f"{_public(shown)} ({_reason(error)})")
    raise Unreachable(f"{artifact} could not be fetched; tried {', '.join(tried) or 'nothing: pip has no index'}.")


def download(url: str, to: Path, config: PipConfig | None = None, size: int | None = None,
             what: str | None = None) -> None:
    """Download a URL (or copy a file:// one) to a path, going on from what is already there after an interruption."""
    config = config or pip_config()
    if _is_local(url):
        shutil.copyfile(_local(url), to)
        return
    for attempt in range(ATTEMPTS):
        have = to.stat().st_size if to.exists() else 0
        if size is not None and have == size:
            return
        try:
            with config.get(url, stream=True, headers={"Accept-Encoding": "identity"} | (
                    {"Range": f"bytes={have}-"} if have else {})) as response:
                resumed = response.status_code == 206
                _receive(response, to, have if resumed else 0, size, what)
            if size is None or to.stat().st_size >= size:
                return
        except requests.RequestException as error:
            if getattr(error.response, "status_code", None) == 416:  # what is there is longer than the file
                to.unlink(missing_ok=True)
            elif attempt == ATTEMPTS - 1 or not to.exists():
                raise


def _receive(response: requests.Response, to: Path, start: int, size: int | None, what: str | None) -> None:
    total = size or start + int(response.headers.get("Content-Length", 0))
    bar = Progress(max(1, total >> 20), f"download {what}, MiB", done=start >> 20) if what else None
    done = start
    with open(to, "ab" if start else "wb") as file:
        for block in response.iter_content(1 << 18):
            file.write(block)
            if bar and (step := (done + len(block) >> 20) - (done >> 20)):
                bar.step(step)
            done += len(block)
    if bar:
        bar.close()


def _find_link(config: PipConfig, page: str, artifact: str) -> str | None:
    """Return the address of a file listed on a page: a folder, a PEP 691 JSON or a PEP 503 HTML page."""
    if _is_local(page):
        path = _local(page)
        if (path / artifact).is_file():
            return (path / artifact).resolve().as_uri()
        base = path.resolve().as_uri() + ("/" if path.is_dir() else "")
        links = _links((path / "index.html" if path.is_dir() else path).read_text())
    else:
        response = config.get(page, headers={"Accept": ACCEPT})
        base = response.url
        as_json = "json" in response.headers.get("Content-Type", "")
        links = [file["url"] for file in response.json()["files"]] if as_json else _links(response.text)
    for link in links:
        if unquote(urlsplit(link).path).rsplit("/", 1)[-1] == artifact:
            return urljoin(base, link.split("#")[0])
    return None


def _links(html: str) -> list[str]:
    links: list[str] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: links.extend(  # type: ignore[method-assign]
        value for key, value in attributes if tag == "a" and key == "href" and value)
    parser.feed(html)
    return links


def _is_local(url: str) -> bool:
    return urlsplit(url).scheme not in ("http", "https")


def _local(url: str) -> Path:
    parts = urlsplit(url)
    return Path(url2pathname(parts.path)) if parts.scheme == "file" else Path(url)


def _public(url: str) -> str:
    """Return a URL without its user name and password."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rsplit("@", 1)[-1]))


def _reason(error: Exception) -> str:
    response = getattr(error, "response", None)
    if response is not None:
        return f"HTTP {response.status_code}"
    return type(error).__name__ if isinstance(error, requests.RequestException) else \
        getattr(error, "strerror", None) or type(error).__name__
