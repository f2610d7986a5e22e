"""Where this process runs: its device, its notebook, and what a person's relative path means."""

from __future__ import annotations

import os
from pathlib import Path

from cellfm_nb.errors import InputError


def pick_device(wanted: str) -> str:
    """Return "cuda" or "cpu" for "auto" | "cpu" | "cuda".

    Raises InputError on another word, or when "cuda" was asked for and torch sees none.
    """
    if wanted not in ("auto", "cpu", "cuda"):
        raise InputError("Unknown device.", got=repr(wanted), expected="auto, cpu or cuda", do="Choose one of them.")
    if wanted == "cpu":
        return "cpu"
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise InputError("No CUDA device here.", got="--device cuda", expected="a GPU that torch can use",
                         do="Use --device auto or cpu; `cellfm doctor` says what torch sees.")
    return "cuda" if torch.cuda.is_available() else "cpu"


def current_notebook() -> str:
    """Return the name of the notebook this process runs ("" outside one)."""
    return os.environ.get("CELLFM_NOTEBOOK") or Path(os.environ.get("JPY_SESSION_NAME", "")).stem


def resolve(path: str | Path) -> Path:
    """Resolve a path a person gave: against CELLFM_HOME (where the command was started), or the project's root."""
    path = Path(path).expanduser()
    home = os.environ.get("CELLFM_HOME")
    if not home:
        here = Path.cwd()
        home = here.parent if here.name == "notebooks" and (here.parent / "pyproject.toml").exists() else here
    return path if path.is_absolute() else Path(home) / path
