"""The arguments of a call as JSON that changes exactly when they change."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cellfm_nb.provenance import code_digest, outside_digest


def describe(value: Any, artifact: Callable[[Path], dict[str, Any] | None] = lambda path: None) -> Any:
    """Return JSON that stands for a value: equal values, equal JSON.

    Parameters: value, plain values, dataclasses, arrays, tables, functions (by their code), anything with a
    `fingerprint`, and lists and dicts of them; paths count by their content. artifact, what stands for a path that
    the caller knows better (None: it does not).
    """
    if isinstance(value, Path):
        return artifact(value) or {"file": value.name, "id": outside_digest(value) if value.exists() else None}
    if hasattr(value, "fingerprint"):
        return {"fingerprint": value.fingerprint}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {type(value).__name__: {f.name: describe(getattr(value, f.name), artifact)
                                       for f in dataclasses.fields(value)}}
    if hasattr(value, "to_csv"):
        return {"table": list(map(str, value.columns)),
                "id": hashlib.sha256(value.to_csv(index=False).encode()).hexdigest()}
    if hasattr(value, "__array__") and hasattr(value, "shape") and value.shape != ():
        import numpy as np

        array = np.ascontiguousarray(value)
        return {"array": [list(array.shape), str(array.dtype)], "id": hashlib.sha256(array.tobytes()).hexdigest()}
    if callable(value):
        return {"function": f"{value.__module__}.{value.__qualname__}", "code": code_digest(value.__module__)}
    if isinstance(value, dict):
        return {str(k): describe(v, artifact) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [describe(v, artifact) for v in value]
    if hasattr(value, "item"):
        return value.item()
    return value if isinstance(value, str | int | float | bool | None) else repr(value)


def plain(value: Any) -> Any:
    """Turn a number of any library into one JSON can hold, to six digits (NaN and infinity become null)."""
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value
