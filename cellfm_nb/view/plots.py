"""Every static picture: `from cellfm_nb.view import plots`; each function returns a matplotlib figure."""

from cellfm_nb.view.charts import bars, curves, histogram, scatter, timeline
from cellfm_nb.view.images import gallery, ortho, rgb_planes, rgb_volume, slices, tracks

__all__ = [
    "bars",
    "curves",
    "gallery",
    "histogram",
    "ortho",
    "rgb_planes",
    "rgb_volume",
    "scatter",
    "slices",
    "timeline",
    "tracks",
]
