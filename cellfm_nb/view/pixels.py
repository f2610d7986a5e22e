"""Pictures made of pixels alone, for widgets that change at every click: small, quick, each with its scale bar."""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence

import numpy as np
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

from cellfm_nb.view.style import contrast, nice_length

WIDTH_PX = 480  # small images are made about this large, by a whole factor


def png(image: np.ndarray, spacing_um: Sequence[float] | None = None) -> bytes:
    """Return an image (y, x) as PNG, contrast from its own percentiles, with a scale bar.

    spacing_um (z, y, x); None makes it a bar of voxels.
    """
    stream = io.BytesIO()
    still(image, *contrast(image), spacing_um).save(stream, "PNG")
    return stream.getvalue()


def film(images: Sequence[np.ndarray], spacing_um: Sequence[float] | None = None, texts: Sequence[str] = (),
         frame_ms: int = 400, width_px: int = WIDTH_PX) -> bytes:
    """Return images (y, x) of one shape as an animated PNG that loops, in one contrast, with a scale bar.

    texts: one for each image, written into its corner; width_px, about how large it is made.
    """
    low, high = contrast(np.stack(images))
    frames = [still(image, low, high, spacing_um, text, width_px) for image, text in
              zip(images, texts or [""] * len(images), strict=True)]
    stream = io.BytesIO()
    frames[0].save(stream, "PNG", save_all=True, append_images=frames[1:], duration=frame_ms, loop=0)
    return stream.getvalue()


def still(image: np.ndarray, low: float, high: float, spacing_um: Sequence[float] | None = None,
          text: str = "", width_px: int = WIDTH_PX) -> Image.Image:
    """Draw an image (y, x) between two intensities, enlarged, with a scale bar at its lower left."""
    grey = np.clip((np.nan_to_num(np.asarray(image, np.float32)) - low) / (high - low), 0, 1)
    factor = max(1, round(width_px / max(image.shape)))
    picture = Image.fromarray((255 * grey).astype(np.uint8).repeat(factor, 0).repeat(factor, 1))
    step = factor if spacing_um is None else factor / spacing_um[2]  # pixels in a voxel, or in a micrometre
    length = nice_length(picture.width / step)
    pen, left, bottom = ImageDraw.Draw(picture), 10, picture.height - 10
    pen.rectangle((left, bottom - 4, left + round(length * step), bottom), fill=255, outline=0)
    pen.text((left, bottom - 8), f"{length:g} {'px' if spacing_um is None else 'µm'}", fill=255, anchor="ls",
             font=font(), stroke_width=1, stroke_fill=0)
    if text:
        pen.text((10, 8), text, fill=255, font=font(), stroke_width=1, stroke_fill=0)
    return picture


@functools.cache
def font() -> ImageFont.FreeTypeFont:
    """Return matplotlib's own font: it has a µ, and is there wherever this package is."""
    return ImageFont.truetype(font_manager.findfont("DejaVu Sans"), 14)
