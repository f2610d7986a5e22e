"""Widgets to judge a queue one by one, by mouse and by key; every click is on disk before the next picture."""

from __future__ import annotations

import functools
import html
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from cellfm_nb.curate.decisions import VERDICTS
from cellfm_nb.curate.decisions_review import SHOW, Queue
from cellfm_nb.errors import InputError
from cellfm_nb.view.where import headless

STYLES = {"accept": "success", "unsure": "warning", "reject": "danger"}
KEYS = {"a": "accept", "r": "reject", "u": "unsure", "z": "undo", "ArrowLeft": "previous", "ArrowRight": "next"}


class Desk(Queue):
    """Show a `Queue` as widgets; headless it only holds the state.

    A subclass gives `caption` and `pictures`, and calls `furnish` when it is ready. `widgets` holds the widgets by
    name: image (and what `pictures` names more), caption, reason, show, accept, unsure, reject, previous, next, undo,
    keys, message. In the page the box has the classes "cellfm-desk" and `css`; each widget has "cellfm-" and its name.
    """

    css: ClassVar[str] = ""
    words: ClassVar[Mapping[str, str]] = {v: v for v in VERDICTS}  # what a verdict's button is called
    width: ClassVar[int] = 480  # of the pictures, pixels

    widgets: dict[str, Any]
    _box: Any = None

    @abstractmethod
    def caption(self) -> str:
        """Say what is shown, what was said of it, and how much is decided."""

    @abstractmethod
    def pictures(self) -> dict[str, bytes]:
        """Return the pictures of the item shown, PNG by name of widget; the first is "image"."""

    def furnish(self, names: tuple[str, ...] = ("image",)) -> None:
        """Make the widgets, unless nobody looks. names: of the pictures."""
        self.widgets, self._names = {}, names
        if not headless():
            self._box = self._build()

    def _build(self) -> Any:
        import ipywidgets as w

        from cellfm_nb.view.keys import Keys

        buttons = {v: w.Button(description=self.words[v], button_style=STYLES[v]) for v in VERDICTS}
        moves = {name: w.Button(description=name) for name in ("previous", "next", "undo")}
        actions: dict[str, Callable[[], None]] = {v: functools.partial(self._say, v) for v in VERDICTS} | {
            "previous": functools.partial(self.go, -1), "next": functools.partial(self.go, 1), "undo": self.undo}
        keys = Keys(KEYS, lambda name: self._do(actions[name]) if name in actions else None, self.words)
        self.widgets = {
            **{name: w.Image(format="png", width=self.width) for name in self._names}, "caption": w.HTML(),
            "message": w.HTML(), "reason": w.Text(placeholder="reason (optional)", continuous_update=True),
            "show": w.ToggleButtons(options=SHOW, value=self.show), "keys": keys, **buttons, **moves}
        for name, widget in self.widgets.items():
            widget.add_class(f"cellfm-{name}")
        for name, action in actions.items():
            self.widgets[name].on_click(lambda _, action=action: self._do(action))
        self.widgets["show"].observe(lambda change: self._do(functools.partial(self.filter, change["new"])), "value")
        self._do(lambda: None)
        box = w.VBox([self.widgets["show"], *(self.widgets[n] for n in self._names), self.widgets["caption"],
                      self.widgets["reason"], w.HBox(list(buttons.values())), w.HBox(list(moves.values())), keys,
                      self.widgets["message"]])
        box.add_class("cellfm-desk").add_class(self.css)
        return box

    def _say(self, verdict: str) -> None:
        self.decide(verdict, self.widgets["reason"].value)
        self.widgets["reason"].value = ""  # only once it is on disk

    def _do(self, action: Callable[[], None]) -> None:
        """Do what was asked and draw again; what goes wrong is said beneath the buttons, never lost in a log."""
        try:
            action()
            told = "; ".join(self.book.notes)
        except (InputError, OSError) as error:
            told = f"Not written: {error}"
        self.widgets["message"].value = html.escape(told)
        shown = {} if self.here is None else self.pictures()
        for name in self._names:
            self.widgets[name].layout.visibility = "visible" if name in shown else "hidden"
            if name in shown:
                self.widgets[name].value = shown[name]
        self.widgets["caption"].value = html.escape(self.caption())  # last: what it names is seen by then

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle = dict(self._box._repr_mimebundle_(**kwargs)) if self._box is not None else {}
        return bundle | {"text/plain": repr(self)}
