"""How every picture of the collection looks: one palette, one page width, one way to state the contrast."""

from __future__ import annotations

import hashlib
import io

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito (2008): eight colours that stay apart for every kind of colour vision.
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, YELLOW, BLACK = PALETTE = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000",
)  # fmt: skip
BRIGHT = (SKY, ORANGE, GREEN, YELLOW, VERMILION, PURPLE)  # those that also show on a black image
GREY = "#666666"
WIDTH_IN = 8.0
DPI = 100
CONTRAST = (1.0, 99.8)  # percentiles of the finite voxels that become black and white

STYLE = {
    "figure.dpi": DPI,
    "savefig.dpi": DPI,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "legend.frameon": False,
    "image.interpolation": "nearest",
    "svg.fonttype": "none",  # text stays text, so a figure can be edited
    "svg.hashsalt": "cellfm_nb",  # the same figure gives the same bytes
    "pdf.fonttype": 42,
}


class Picture(Figure):
    """A matplotlib figure that shows itself once in a notebook and belongs to no pyplot state.

    pyplot keeps every figure alive until it is closed, and shows it a second time when a cell returns it.
    """

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        with rc_context(STYLE):
            self.savefig(buffer, format="png", dpi=DPI)
        return buffer.getvalue()

    @property
    def fingerprint(self) -> str:
        """The sha256 of what it shows: two equal pictures are the same input to the workspace."""
        return hashlib.sha256(self._repr_png_()).hexdigest()


def picture(width_in: float = WIDTH_IN, height_in: float = 3.5, layout: str = "constrained") -> Picture:
    """Open an empty picture of a size in inches; heights are kept between 1.5 and 10 in."""
    return Picture(figsize=(width_in, float(np.clip(height_in, 1.5, 10.0))), layout=layout)


def say(ax: Axes, text: str) -> None:
    """Write a sentence into axes that have nothing to draw."""
    ax.set_axis_off()
    ax.text(0.5, 0.5, text, ha="center", va="center", color=GREY, transform=ax.transAxes)


def contrast(image: np.ndarray, percentiles: tuple[float, float] = CONTRAST) -> tuple[float, float]:
    """Return the display range (low, high) from percentiles of the finite values; high > low always."""
    finite = np.asarray(image, dtype=np.float32).ravel()
    finite = finite[np.isfinite(finite)]
    if finite.size == 0:
        return 0.0, 1.0
    low, high = np.percentile(finite, percentiles)
    if high <= low:  # sparse images: nearly all voxels equal
        low, high = finite.min(), finite.max()
    return float(low), float(high if high > low else low + 1.0)


def stated(low: float, high: float) -> str:
    """Say which intensities are black and white, for the caption of an image."""
    return f"black {low:.3g}, white {high:.3g} (percentiles {CONTRAST[0]:g} and {CONTRAST[1]:g})"


def nice_length(extent: float) -> float:
    """Round about a quarter of an extent down to 1, 2 or 5 times a power of ten (scale bars)."""
    target = max(float(extent), 1e-6) / 4
    power = 10.0 ** np.floor(np.log10(target))
    return float(max(step * power for step in (1, 2, 5) if step * power <= target * (1 + 1e-9)))


def scale_bar(ax: Axes, length_um: float | None = None, color: str = "white", unit: str = "µm") -> float:
    """Draw a scale bar with its length at the lower left of an image in um (or another unit); return the length."""
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()  # y runs down: bottom > top
    length = length_um or nice_length(abs(right - left))
    x0, y0 = left + 0.04 * (right - left), bottom + 0.06 * (top - bottom)
    ax.plot([x0, x0 + length], [y0, y0], color=color, lw=3, solid_capstyle="butt")
    middle, above = x0 + length / 2, y0 + 0.025 * (top - bottom)
    ax.text(middle, above, f"{length:g} {unit}", color=color, ha="center", va="bottom", fontsize=9)
    ax.set_xlim(left, right)
    ax.set_ylim(bottom, top)
    return length


def track_colour(track_id: int) -> str:
    """Return the colour of a track, #rrggbb: the same in every picture and view."""
    return BRIGHT[int(track_id) % len(BRIGHT)]


def label_colours(labels: np.ndarray) -> np.ndarray:
    """Colour a label image (..., uint) as RGBA floats; 0 is transparent, an id keeps its colour."""
    bright = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in BRIGHT])
    ids = np.asarray(labels).astype(np.int64)
    shade = 1.0 - 0.18 * ((ids // len(BRIGHT)) % 3)  # next round of hues: darker
    rgba = np.empty((*ids.shape, 4))
    rgba[..., :3] = bright[ids % len(BRIGHT)] * shade[..., None]
    rgba[..., 3] = ids != 0
    return rgba
