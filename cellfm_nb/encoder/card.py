"""The model card of an encoder: what a person should know before using its weights, from what was recorded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def model_card(name: str, card: Mapping[str, Any]) -> str:
    """Return the model card (Mitchell et al. 2019) of a config.json as Markdown, made of what is recorded, no more.

    Of `trained_on`, "data", "figures" (name to number), "licence" and "limits" get a section of their own.
    """
    facts, config = dict(card["trained_on"]), card["config"]
    figures, limits = facts.pop("figures", {}), facts.pop("limits", None)
    data, licence = facts.pop("data", None), facts.pop("licence", None)
    z, y, x = config["spacing_um"]
    sections = {
        "What it is": f"A 3D vision transformer for light-sheet volumes: {card['parameters'] / 1e6:.2f} million "
                      f"parameters, one descriptor of {config['width']} numbers for each patch of "
                      f"{' x '.join(map(str, config['patch']))} voxels (z, y, x). It reads volumes with background "
                      f"noise of standard deviation 1 (`curate.encoder_frame`), on voxels of {z:g} x {y:g} x {x:g} um.",
        "How to read it": "`Encoder.from_pretrained(...)` of this folder checks the sha256 and returns it in eval "
                          "mode.\n\n"
                          f"encoder.safetensors: {card['bytes'] / 1e6:.2f} MB, {card['dtype']}, sha256 "
                          f"`{card['sha256']}`",
        "What it was trained on": _lines(data) if data else "Not recorded.",
        "How": _lines(facts) if facts else "Not recorded.",
        "What it reaches": _lines(figures) if figures else "Not measured.",
        "Limits": _lines(limits) if limits else "No limits were measured: expect it to serve data like its own alone.",
        "Licence": _lines(licence) if licence else "That of the package; the data may ask for more.",
        "Architecture": _lines(config),
    }
    return f"# Encoder {name}\n" + "".join(f"\n## {title}\n\n{text}\n" for title, text in sections.items())


def _lines(value: Any) -> str:
    if isinstance(value, Mapping):
        return "\n".join(f"- {key}: {json.dumps(item) if isinstance(item, Mapping | list | tuple) else item}"
                         for key, item in value.items())
    return "\n".join(f"- {item}" for item in value) if isinstance(value, list | tuple) else str(value)
