"""All output to the terminal: titles, names and messages come from unknown sources, and are made safe to print."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from hyperseek.errors import InputError, printable, printable_json

if TYPE_CHECKING:
    from rich.text import Text


BackendOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--backend",
        metavar="NAME",
        help="What runs the model on a CPU instead of torch: onnx, openvino; or faster and less exact, onnx-int8, "
        "openvino-int8, openvino-bfloat16.",
    ),
]


def echo(line: str = "", *, err: bool = False) -> None:
    """Print one line: results on standard output; progress, notes and warnings on standard error, by `err`."""
    typer.echo(printable(line), err=err)


def echo_json(value: Any, *, indent: int | None = None) -> None:
    """Print plain values as JSON on standard output."""
    typer.echo(printable_json(value, indent=indent))


def echo_exactly(line: str, *, instead: str) -> None:
    """Print a line of a format that has no escapes: columns separated by spaces or tabs.

    Args:
        line: The line.
        instead: The option to suggest if that is impossible.

    Raises:
        InputError: The line contains a control character.
    """
    if printable(line.replace("\t", " ")) != line.replace("\t", " "):
        raise InputError(f"{printable(line)!r} contains control characters; use {instead}")
    typer.echo(line)


def shown_text(value: str, style: str = "") -> Text:
    """Return a text for Rich tables, in which square brackets would be markup."""
    from rich.text import Text

    return Text(printable(value), style=style)
