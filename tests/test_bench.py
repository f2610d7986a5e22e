"""The benches: every one there is can be named, and its rows become JSON whatever made their numbers."""

import importlib
import json

import numpy as np
import pytest

from cellfm_nb import bench
from cellfm_nb.errors import InputError


def test_every_bench_has_its_module():
    for name in bench.BENCHES:
        assert importlib.util.find_spec(f"cellfm_nb.bench.{name}") is not None, name


def test_rows_are_written_and_a_missed_target_is_the_exit_status(tmp_path, monkeypatch, capsys):
    rows = [bench.Row("a", "seconds", "lower", np.float32(2), {"peer": np.float64(4)}, target=3),
            bench.Row("b", "f1", "higher", np.float64(0.5), target=0.4), bench.Row("c", "n", "lower", 1)]
    fake = type("module", (), {"rows": staticmethod(lambda: iter(rows))})
    monkeypatch.setattr(importlib, "import_module", lambda name: fake)
    assert bench.main("crops", str(tmp_path / "new" / "rows.json")) == 0
    written = json.loads((tmp_path / "new" / "rows.json").read_text())
    assert [row["ok"] for row in written] == [True, True, None] and written[0]["peers"] == {"peer": 4.0}
    rows.append(bench.Row("d", "f1", "higher", 0.1, target=0.4))
    assert bench.main("crops") == 1 and "TARGET MISSED" in capsys.readouterr().out
    with pytest.raises(InputError):
        bench.main("hugo")


def test_calls_are_timed_in_turn():
    order = []
    bench.alternate({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=2)
    assert order == ["a", "b"] * 3  # one warm-up each
