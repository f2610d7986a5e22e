"""Try a threshold or a seed on one crop: sliders, and a picture that follows them."""

from __future__ import annotations

import html
import io
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cellfm_nb.view import pixels, plots
from cellfm_nb.view.canvas import edges, positions
from cellfm_nb.view.style import ORANGE, Picture, contrast
from cellfm_nb.view.where import headless

RING_PX = 3.5  # radius, in voxels
MAX_VOXELS = 2**21  # of a crop that is computed anew while a slider moves


class Preview:
    """Compute on one crop whenever a slider moves, and show what came out; made by `preview`.

    Positions are drawn as rings, or with `box` (z, y, x voxels) as the first corners of boxes of that size.
    `values` are the sliders' (the defaults, headless), `result` what came out last, `seconds` how long that took,
    `widgets` the sliders by name with "image" and "text" (empty headless).
    """

    def __init__(self, compute: Callable[..., Any], crop: np.ndarray, spacing_um: Sequence[float],
                 sliders: Mapping[str, Sequence[float]], box: Sequence[int] | None = None) -> None:
        self.compute, self.spacing_um, self.sliders, self.box = compute, spacing_um, sliders, box
        self.crop = small(crop)
        self.values: dict[str, float] = {name: s[2] for name, s in sliders.items()}
        self.widgets: dict[str, Any] = {}
        self._run()
        self._box = None if headless() else self._build()

    def still(self) -> Picture:
        """Return the still twin: the crop, with what was found at the present values."""
        title = ", ".join(f"{k} = {v:g}" for k, v in self.values.items())
        found = as_marks(self.result)
        if self.box is not None:
            found = filled(found, self.box, self.crop.shape)
        marked = {"labels": found} if found.ndim == 3 else {"points": found}
        return plots.ortho(self.crop, self.spacing_um, title=f"{title}: {self.text()}", **marked)

    def text(self) -> str:
        """Say how many were found."""
        found = as_marks(self.result)
        n = len(found) if found.ndim == 2 else len(np.unique(found[found > 0]))
        return f"{n} found"

    def _run(self) -> None:
        start = time.perf_counter()
        self.result = self.compute(self.crop, **self.values)
        self.seconds = time.perf_counter() - start

    def _build(self) -> Any:
        import ipywidgets as w

        self.widgets = {"image": w.Image(format="png", width=pixels.WIDTH_PX), "text": w.HTML()}
        for name, (low, high, default, *step) in self.sliders.items():
            whole = all(isinstance(v, int) for v in (low, high, default))
            make = w.IntSlider if whole else w.FloatSlider
            self.widgets[name] = make(min=low, max=high, value=default, description=name, continuous_update=True,
                                      step=step[0] if step else 1 if whole else (high - low) / 100,
                                      style={"description_width": "9em"}, layout={"width": "480px"})
            self.widgets[name].observe(lambda change, name=name: self._moved(name, change["new"]), "value")
        self._draw()
        return w.VBox([*(self.widgets[n] for n in self.sliders), self.widgets["image"], self.widgets["text"]])

    def _moved(self, name: str, value: float) -> None:
        self.values[name] = value
        try:
            self._run()
            self._draw()
        except Exception as error:  # an extreme value is part of trying: said beneath the picture, the last one stays
            self.widgets["text"].value = html.escape(f"{name} = {value:g}: {error}")

    def _draw(self) -> None:
        self.widgets["image"].value = paint(self.crop, as_marks(self.result), self.spacing_um, self.box)
        self.widgets["text"].value = html.escape(f"{self.text()} in {self.seconds:.2f} s")

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        import base64

        bundle = dict(self._box._repr_mimebundle_(**kwargs)) if self._box is not None else {}
        return bundle | {"image/png": base64.b64encode(self.still()._repr_png_()).decode(), "text/plain": self.text()}


def preview(compute: Callable[..., Any], crop: np.ndarray, spacing_um: Sequence[float],
            **sliders: Sequence[float]) -> Preview:
    """Make a preview of `compute(crop, **values)` on one crop.

    Parameters: compute, returns labels (z, y, x, integers) or positions ((n, 3), or a table with z, y, x) in voxels of
    the crop; crop (z, y, x), cut to its middle above MAX_VOXELS; spacing_um (z, y, x); sliders, name=(low, high,
    default) or (low, high, default, step), whole numbers where all three are.
    Returns: a Preview; display it. Headless it shows the still picture at the defaults.
    """
    return Preview(compute, crop, spacing_um, sliders)


def small(volume: np.ndarray) -> np.ndarray:
    """Return the middle of a volume (z, y, x): all of it up to MAX_VOXELS, else 32 planes of a square that fits."""
    if volume.size <= MAX_VOXELS:
        return volume
    most = (32, *(2 * (int((MAX_VOXELS / 32) ** 0.5),)))
    return volume[tuple(slice((n - min(n, m)) // 2, (n + min(n, m)) // 2) for n, m in
                        zip(volume.shape, most, strict=True))]


def as_marks(result: Any) -> np.ndarray:
    """Return labels (z, y, x) as they are, and anything with positions as (n, 3)."""
    if isinstance(result, np.ndarray) and result.ndim == 3:
        return result
    return positions(result)


def filled(corners: np.ndarray, box: Sequence[int], shape: Sequence[int]) -> np.ndarray:
    """Return labels of a shape (z, y, x) in which box k, of `box` voxels from corner k (N, 3), is filled with k + 1."""
    labels = np.zeros(shape, np.uint32)
    for k, corner in enumerate(np.rint(corners).astype(int)):
        labels[tuple(slice(c, c + b) for c, b in zip(corner, box, strict=True))] = k + 1
    return labels


def paint(crop: np.ndarray, found: np.ndarray, spacing_um: Sequence[float],
          box: Sequence[int] | None = None) -> bytes:
    """Return the maximum projection along z as PNG, with rings around positions, boxes, or the outlines of labels.

    Much faster than a drawing program: a slider gets its answer while it moves.
    """
    from PIL import Image, ImageDraw

    image = crop.max(0)
    picture = pixels.still(image, *contrast(image), spacing_um).convert("RGB")
    factor = picture.width // image.shape[1]
    if found.ndim == 3:
        outline = Image.fromarray((255 * edges(found.max(0))).astype(np.uint8), "RGBA")
        outline = outline.resize(picture.size, Image.Resampling.NEAREST)
        picture.paste(outline, mask=outline)
    else:
        draw = ImageDraw.Draw(picture)
        low = found[:, 1:] if box is not None else found[:, 1:] - RING_PX
        high = found[:, 1:] + (np.array(box[1:]) if box is not None else RING_PX + 1)
        shape = draw.rectangle if box is not None else draw.ellipse
        for (y0, x0), (y1, x1) in zip(low * factor, high * factor, strict=True):
            shape((x0, y0, x1 - 1, y1 - 1), outline=ORANGE, width=2)
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()
