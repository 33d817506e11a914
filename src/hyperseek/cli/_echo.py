"""The only way to the terminal: titles, names and messages may come from strangers, so they are made safe to print."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from hyperseek._display import printable, printable_json
from hyperseek.errors import InputError

if TYPE_CHECKING:
    from rich.text import Text


def echo(line: str = "", *, err: bool = False) -> None:
    """Print one line: results on standard output; progress, notes and warnings on standard error, by `err`."""
    typer.echo(printable(line), err=err)


def echo_json(value: Any, *, indent: int | None = None) -> None:
    """Print plain values as JSON on standard output."""
    typer.echo(printable_json(value, indent=indent))


def echo_exactly(line: str, *, instead: str) -> None:
    """Print a line of a format without escapes: columns between blanks or tabs.

    Args:
        line: The line.
        instead: The option to suggest where that cannot be done.

    Raises:
        InputError: The line holds a character that a terminal would obey.
    """
    if printable(line.replace("\t", " ")) != line.replace("\t", " "):
        raise InputError(f"{printable(line)!r} holds characters that a terminal would obey; give {instead}")
    typer.echo(line)


def shown_text(value: str, style: str = "") -> Text:
    """Return a text for tables of Rich, which would read square brackets as markup."""
    from rich.text import Text

    return Text(printable(value), style=style)
