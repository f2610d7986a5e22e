"""A form made from a notebook's `parameters` cell: a reader, a widget and a batch run share one source."""

from __future__ import annotations

import ast
import contextlib
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

from cellfm_nb import profiles
from cellfm_nb.atomic import write_json
from cellfm_nb.errors import InputError
from cellfm_nb.schema import SCHEMA, check_range
from cellfm_nb.view.form_widgets import shown, widget_for
from cellfm_nb.view.where import headless


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell: name, default, the comment after it, the choices it lists."""

    name: str
    default: Any
    help: str = ""
    choices: tuple[str, ...] = ()

    @property
    def about(self) -> str:
        """Its help with the unit and the range that the schema knows."""
        said = SCHEMA[self.name].range() if self.name in SCHEMA else ""
        return f"{self.help} [{said}]" if said else self.help

    def in_profile(self, profile: str) -> Any:
        """Return what None stands for in a profile; None where the profile does not say."""
        stages = profiles.PROFILES.get(profile, {}).values()
        return next((getattr(stage, self.name) for stage in stages if hasattr(stage, self.name)), None)


def parameters(notebook: str | Path) -> list[Parameter]:
    """Read the cell tagged `parameters` of a notebook.

    Raises InputError when there is no such file or cell, or a line that is not `name = value  # comment`.
    """
    path = Path(notebook)
    if not path.exists():
        raise InputError("There is no such notebook.", got=path.name, do="Check its name.")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    for cell in cells:
        if "parameters" in cell["metadata"].get("tags", []):
            return list(read("".join(cell["source"]), path.name))
    raise InputError("The notebook has no parameters.", where=path.name, got="no cell tagged parameters",
                     expected="one", do="Tag the cell with its plain assignments.")


def read(source: str, where: str = "") -> Iterator[Parameter]:
    """Yield the parameters of a cell's source: plain assignments, each with a comment on its line."""
    lines = source.splitlines()
    for node in ast.parse(source).body:
        try:
            (target,) = node.targets
            name, default = target.id, ast.literal_eval(node.value)
        except (AttributeError, ValueError):
            raise InputError("Not a plain parameter.", where=where, got=lines[node.lineno - 1],
                             expected="name = value  # meaning", do="Compute it in a later cell.") from None
        rest = lines[node.end_lineno - 1].encode()[node.end_col_offset:].decode()  # ast counts in UTF-8 bytes
        comment = rest.partition("#")[2].strip()
        words = tuple(re.sub(r"\(.*?\)|^.*: ", "", word).strip() for word in comment.split("|"))  # what: a | b (why)
        choices = words if isinstance(default, str) and default in words and len(words) > 1 else ()
        yield Parameter(name, default, comment, choices)


class Form:
    """Hold the values of a notebook's parameters; show widgets for them where somebody looks.

    `values` are the defaults until a widget is moved; `command` is the line that runs the notebook with them. Where
    somebody looks, the values of the last time are there again (a batch run never sees them).
    """

    def __init__(self, notebook: str | Path) -> None:
        self.notebook = Path(notebook)
        self.parameters = parameters(notebook)
        self.values: dict[str, Any] = {p.name: p.default for p in self.parameters}
        self.widgets: dict[str, Any] = {}
        self._box: Any = None
        if not headless():
            self._recall()
            self._box = self._build()

    @property
    def command(self) -> str:
        """The command that runs this notebook with the values changed so far."""
        number = self.notebook.name[:2]
        parts = ["cellfm", "run", "--from", number, "--to", number]
        flags = {"workspace", "profile", "device", "seed"}
        for p in self.parameters:
            if (value := self.values[p.name]) != p.default:
                parts += [f"--{p.name}", str(value)] if p.name in flags else ["--set", f"{p.name}={value}"]
        return shlex.join(parts)

    def set(self, name: str, value: Any) -> None:
        """Change a value; text is read as the type of the default (an empty text means None)."""
        p = next((p for p in self.parameters if p.name == name), None)
        if p is None:
            raise InputError("Unknown parameter.", where=self.notebook.name, got=name,
                             expected=", ".join(self.values), do="Check the spelling.")
        value = typed(value, p) if isinstance(value, str) else value
        check_range(name, value, self.notebook.name)
        if p.choices and value not in p.choices:
            raise InputError(f"Not a choice of {name}.", where=self.notebook.name, got=value,
                             expected=", ".join(p.choices), do="Choose one of them.")
        self.values[name] = value

    @property
    def memory(self) -> Path:
        """The file that keeps the values changed last, in the user's own state folder."""
        return platformdirs.user_state_path("cellfm_nb", appauthor=False) / "forms" / f"{self.notebook.stem}.json"

    def _recall(self) -> None:
        """Take up the last values; those that are no longer parameters, or no longer in range, are left."""
        try:
            kept = json.loads(self.memory.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        for name, value in kept.items() if isinstance(kept, dict) else ():
            with contextlib.suppress(InputError):
                self.set(name, value)

    def _remember(self) -> None:
        changed = {p.name: self.values[p.name] for p in self.parameters if self.values[p.name] != p.default}
        with contextlib.suppress(OSError):  # a home that can't be written to: then only this session remembers
            self.memory.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.memory, changed)

    def _build(self) -> Any:
        import ipywidgets as w

        line, back = w.Label(self.command), w.Button(description="defaults")

        def changed(change: dict, name: str) -> None:
            try:
                self.set(name, change["new"])
                line.value = self.command
                self._remember()
            except InputError as error:
                line.value = f"{name}: {error.what}"

        def defaults(_: Any) -> None:
            for p in self.parameters:
                self.widgets[p.name].value = shown(p.default, self.widgets[p.name])

        for p in self.parameters:
            widget = widget_for(p, self.values[p.name], p.in_profile(self.values.get("profile", "tiny")), w)
            widget.observe(lambda change, name=p.name: changed(change, name), "value")
            self.widgets[p.name] = widget
        back.on_click(defaults)
        rows = [w.HBox([self.widgets[p.name], w.Label(p.about)]) for p in self.parameters]
        return w.VBox([*rows, w.HBox([back, line])])

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle = dict(self._box._repr_mimebundle_(**kwargs)) if self._box is not None else {}
        bundle["text/plain"] = repr(self)
        return bundle

    def __repr__(self) -> str:
        rows = [f"{p.name:>16} = {self.values[p.name]!r:<14} {p.help}".rstrip() for p in self.parameters]
        return "\n".join([self.notebook.stem, *rows, self.command])


def typed(text: str, p: Parameter) -> Any:
    """Read a text as a value of the parameter's type."""
    if isinstance(p.default, str):
        return text
    if text.strip() in ("", "None"):
        return None
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        if p.default is None:  # profile's value unknown here: a word is a word
            return text
        raise InputError(f"Not a value for {p.name}.", got=text, expected=type(p.default).__name__,
                         do="Type a plain value.") from None


def form(notebook: str | Path) -> Form:
    """Make the form of a notebook (a path, with or without .ipynb); headless it just holds the defaults."""
    path = Path(notebook)
    return Form(path if path.suffix == ".ipynb" else path.with_name(path.name + ".ipynb"))
