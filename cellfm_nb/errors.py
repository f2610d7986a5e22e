"""What goes wrong because of an input, said in one message a person can act on."""

from __future__ import annotations


class InputError(ValueError):
    """Report bad input: what is wrong, where, what was got, what was expected, what to do.

    The command turns it into that one message and exit status 2; nothing is half-written.
    """

    def __init__(self, what: str, *, where: object = None, got: object = None,
                 expected: object = None, do: str | None = None) -> None:
        self.what, self.where, self.got, self.expected, self.do = what, where, got, expected, do
        parts = [what]
        parts += [f"  {name}: {value}" for name, value in
                  (("where", where), ("got", got), ("expected", expected), ("what to do", do)) if value is not None]
        super().__init__("\n".join(parts))


class Unreachable(ConnectionError):
    """Say in one line that no source of a dataset could be reached, and what was tried."""
