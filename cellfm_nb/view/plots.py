"""Every static picture under one name: `from cellfm_nb.view import plots`; each function returns a matplotlib figure."""

from .charts import bars, curves, histogram, scatter, timeline
from .images import gallery, ortho, rgb_volume, slices, tracks

__all__ = [
    "bars",
    "curves",
    "gallery",
    "histogram",
    "ortho",
    "rgb_volume",
    "scatter",
    "slices",
    "timeline",
    "tracks",
]
