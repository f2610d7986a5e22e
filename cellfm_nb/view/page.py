"""Small pieces of a self-contained HTML page: tables, numbers with units, pictures inside, no scripts, no paths."""

from __future__ import annotations

import base64
import html
import io
import math
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

UNITS = {"um3": "µm³", "um2": "µm²", "um": "µm", "nm": "nm", "um_s": "µm/s", "um2_s": "µm²/s", "mib_s": "MiB/s",
         "ms": "ms", "s": "s", "seconds": "s", "px": "px", "mib": "MiB", "gib": "GiB", "bytes": "B", "deg": "°",
         "percent": "%", "nats": "nats"}  # fmt: skip
NAMES = {"f1": "F1", "ap50": "AP50", "hota": "HOTA", "tra": "TRA", "det": "DET", "idf1": "IDF1", "mota": "MOTA",
         "snr": "SNR", "rankme": "RankMe", "pca": "PCA", "pca3": "PCA of three", "id": "ID", "ap": "AP", "iou": "IoU",
         "auroc": "AUROC", "knn": "k-NN", "kmeans": "k-means", "hungarian": "Hungarian", "dino": "DINO", "ibot": "iBOT",
         "koleo": "KoLeo", "lr": "learning rate", "psf": "PSF", "msd": "MSD", "rmse": "RMSE", "dt": "frame interval",
         "cls": "CLS", "mb": "MB"}  # fmt: skip
PATH = re.compile(r"(?<![\w.:/<])(?:[A-Za-z]:\\|/)(?:[\w.@+~-]+[/\\])+([\w.@+~-]*)")
MAX_IMAGE_BYTES = 700_000
FULL_WIDTH_PX = 1600  # of a figure as wide as the page

STYLE = """
:root{--ink:#1d2129;--soft:#5d6673;--line:#dfe3e8;--blue:#0072B2;--warn:#D55E00}
*{box-sizing:border-box}
body{font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;color:var(--ink);
 max-width:60rem;margin:0 auto;padding:1.5rem 1.2rem 4rem;background:#fff}
h1{font-size:1.9rem;line-height:1.2;margin:.4rem 0 .3rem}
h2{font-size:1.25rem;margin:2.4rem 0 .6rem;padding-top:.6rem;border-top:1px solid var(--line)}
h3{font-size:1rem;margin:1.4rem 0 .3rem}
p{margin:.4rem 0 .8rem;max-width:44rem}.soft,caption,figcaption{color:var(--soft);font-size:.88rem}
.badge{display:inline-block;padding:.1rem .6rem;border-radius:1rem;font-size:.85rem;font-weight:600;color:#fff;
 background:var(--blue);margin-right:.4rem}.badge.real{background:#00684c}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(9.5rem,1fr));gap:.7rem;margin:1rem 0}
.card{border:1px solid var(--line);border-radius:.5rem;padding:.6rem .8rem}
.card b{display:block;font-size:1.35rem;line-height:1.3;font-variant-numeric:tabular-nums}
.card span{color:var(--soft);font-size:.85rem}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.9rem;min-width:16rem}
caption{text-align:left;padding-bottom:.3rem}
th,td{padding:.28rem .9rem .28rem 0;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
th{font-weight:600;border-bottom:2px solid var(--line)}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
td.best{font-weight:700}code{font:.85em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
figure{margin:1.2rem 0 1.8rem}img{max-width:100%;height:auto;display:block}
.warn{border-left:4px solid var(--warn);padding:.1rem 0 .1rem .9rem;margin:.6rem 0}
details summary{cursor:pointer;color:var(--blue);margin:.6rem 0}
.columns{columns:20rem;column-gap:2.5rem}.columns section{break-inside:avoid;padding-bottom:.8rem}
.columns h3{margin-top:.2rem}
.ledger td:first-child{font-weight:600;white-space:nowrap}.ledger td{font-size:.85rem;min-width:6rem}
.ledger td:first-child{min-width:0}.ledger td:nth-child(5){color:var(--soft);overflow-wrap:anywhere}
.ledger td:nth-child(2){width:10rem}.ledger td:nth-child(3){width:14rem}.ledger td:nth-child(4){width:14rem}
.ledger td:nth-child(6){min-width:11rem}
.mark{display:inline-block;border-left:4px solid;padding-left:.45rem}.mark.yes{border-color:#009E73}
.mark.no{border-color:var(--warn)}.mark.open{border-color:#b5bcc5;color:var(--soft)}
@media (max-width:40rem){img{width:100%!important}
 .stack,.stack tbody,.stack tr,.stack td{display:block;min-width:0!important}.stack tr:first-child{display:none}
 .stack tr{padding:.7rem 0;border-bottom:1px solid var(--line)}.stack td{border:0;padding:.1rem 0;
 width:auto!important}.stack td:empty{display:none}
 .stack td[data-head]:not(:nth-child(2)):not(:nth-child(3))::before{content:attr(data-head) ": ";color:var(--soft)}}
@media print{body{max-width:none;font-size:10.5pt;padding:0}h2{break-after:avoid}
 figure,tr,.card{break-inside:avoid}table:not(.stack){break-inside:avoid}.wide{overflow:visible}
 .ledger td,.ledger th{font-size:8pt;padding-right:.5rem;min-width:0}.ledger td:nth-child(5){min-width:5.5rem}
 details:not([open])>*{display:none}}
"""


def document(title: str, body: str) -> str:
    """Wrap a body into one complete HTML page."""
    return (f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{text(title)}</title>'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n")


def section(title: str, *parts: str) -> str:
    """Return a titled section, or nothing when it has no content."""
    body = "\n".join(p for p in parts if p)
    return f"<h2>{text(title)}</h2>\n{body}" if body else ""


def paragraph(sentence: str, css: str = "") -> str:
    """Return a paragraph of plain text."""
    return f'<p class="{css}">{text(sentence)}</p>' if css else f"<p>{text(sentence)}</p>"


class Markup(str):
    """HTML that is set as it is."""


def marked(words: str, css: str) -> Markup:
    """Return words in a coloured mark: css "yes" | "no" | "open"."""
    return Markup(f'<span class="mark {css}">{text(words)}</span>')


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], caption: str = "",
          bold: Collection[tuple[int, int]] = (), css: str = "") -> str:
    """Return a table; columns of numbers are set to the right, the (row, column) cells named in bold.

    css: "stack" for a table of sentences, whose rows become blocks on a phone.
    """
    rows = [list(row) for row in rows]
    if not rows:
        return ""
    numeric = [all(row[k] is None or isinstance(row[k], Number) for row in rows) for k in range(len(head))]
    lines = [f"<caption>{text(caption)}</caption>"] if caption else []
    lines.append("<tr>" + "".join(f"<th{' class=n' * n}>{text(h)}</th>" for h, n in zip(head, numeric, strict=True)))
    for i, row in enumerate(rows):
        kinds = [" ".join(["n"] * n + ["best"] * ((i, k) in bold)) for k, n in enumerate(numeric)]
        label = [f' data-head="{text(h)}"' if css and h else "" for h in head]
        cells = [f'<td class="{c}"{h}>{show(value)}</td>' for c, h, value in zip(kinds, label, row, strict=True)]
        lines.append("<tr>" + "".join(cells))
    name = f' class="{css}"' if css else ""
    return f'<div class="wide"><table{name}>{"".join(lines)}</table></div>'


Number = int | float


def show(value: Any, unit: str = "") -> str:
    """Write a value for people: four significant digits, thousands apart, never a raw path; HTML-safe."""
    if isinstance(value, Markup):
        return value
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        whole = isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e15)
        if whole or abs(value) >= 1000:
            out = f"{value:,.0f}"
        else:
            out = f"{value:.4g}" if 1e-3 <= abs(value) < 1000 or value == 0 else f"{value:.2e}"
        return f"{out} {unit}".strip()
    if isinstance(value, dict):
        return ", ".join(f"{text(k)} {show(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(show(v) for v in value)
    return text(value)


def text(value: Any) -> str:
    """Escape a text for HTML; a path outside the run is cut down to its last name."""
    return html.escape(PATH.sub(r"\1", str(value)))


def named(metric: str) -> tuple[str, str]:
    """Split a metric's name into words and a unit: "position_error_xy_um" -> ("position error xy", "µm")."""
    words = metric.replace(".", "_").removeprefix("n_").split("_")
    tail = 2 if "_".join(words[-2:]) in UNITS else 1
    unit = UNITS.get("_".join(words[-tail:]).lower(), "")
    if unit and len(words) > tail:
        words = words[:-tail]
    elif unit:
        words = ["time"] if metric == "seconds" else words
    label = " ".join(NAMES.get(word.lower(), word) for word in words)
    own = label.startswith(("k-", "iBOT")) or label[:2].isupper()  # names that keep their own capitals
    return (label if own else label[:1].upper() + label[1:]), unit


def picture(path: Path, caption: str) -> str:
    """Return a figure with the image inside the page; a heavy one is made smaller first."""
    data, kind = path.read_bytes(), "png"
    if len(data) > MAX_IMAGE_BYTES:
        data, kind = smaller(data), "jpeg"
    share = min(100, round(100 * size_of(path)[0] / FULL_WIDTH_PX))  # so that all text has one size
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    image = f'<img src="{source}" alt="{text(caption)}" style="width:{share}%">'
    return f"<figure>{image}<figcaption>{text(caption)}</figcaption></figure>"


def size_of(path: Path) -> tuple[int, int]:
    """Return the width and height of a picture in pixels."""
    from PIL import Image

    with Image.open(path) as image:
        return image.size


def smaller(data: bytes, width: int = 1600) -> bytes:
    """Shrink a picture to a JPEG of at most `width` pixels across."""
    from PIL import Image

    image = Image.open(io.BytesIO(data)).convert("RGB")
    if image.width > width:
        image = image.resize((width, max(1, round(image.height * width / image.width))), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, format="JPEG", quality=85, optimize=True)
    return out.getvalue()
