"""A Plotly widget that also comes up on a slow machine."""

from __future__ import annotations

from pathlib import Path

import plotly
import plotly.graph_objects as go
import traitlets

PLOTLY = Path(plotly.__file__).parent / "package_data" / "widgetbundle.js"


class Chart(go.FigureWidget):
    """Show a Plotly figure that Python can change and that tells of clicks.

    A plain FigureWidget hands the page 5 MB of program and is left empty where they are not read within two seconds
    (anywidget's limit for every widget). This one is a few lines that answer at once, and reads Plotly's after.
    """

    _esm = Path(__file__).with_name("chart.js")
    _plotly = traitlets.Unicode().tag(sync=True)

    @traitlets.default("_plotly")
    def _read(self) -> str:
        return PLOTLY.read_text(encoding="utf-8")
