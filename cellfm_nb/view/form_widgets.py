"""Which widget a parameter gets: by its choices, its type, and the range the schema knows."""

from __future__ import annotations

from typing import Any

from cellfm_nb.schema import SCHEMA


def widget_for(p: Any, value: Any, profile_value: Any, w: Any) -> Any:
    """Choose the widget of a parameter by its type and range: choices, yes or no, whole number, number, text.

    Parameters: p, a `Parameter`; value, to begin with; profile_value, what None stands for, shown in the empty field;
    w, the module ipywidgets.
    """
    style = {"description": p.name, "style": {"description_width": "9em"}}
    if p.choices:
        return w.Dropdown(options=p.choices, value=value, **style)
    if isinstance(p.default, bool):
        return w.Checkbox(value=value, **style)
    if isinstance(p.default, int | float):
        limits = SCHEMA.get(p.name)
        low, high = (limits.low, limits.high) if limits else (None, None)
        whole = isinstance(p.default, int)
        most = 2**53 if whole else 1e300
        make = w.BoundedIntText if whole else w.BoundedFloatText
        return make(value=value, min=-most if low is None else low, max=most if high is None else high,
                    continuous_update=False, **style)
    hint = "" if p.default is not None or profile_value is None else f"{profile_value} (profile)"
    return w.Text(value=shown(value), placeholder=hint, continuous_update=False, **style)


def shown(value: Any, widget: Any = None) -> Any:
    """Return a value as a widget takes it: in a text field None is empty."""
    if widget is not None and not isinstance(widget.value, str):
        return value
    return "" if value is None else str(value)
