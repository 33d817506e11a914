"""All output to the terminal: lines, JSON and hits.

Titles, names and messages come from unknown sources, and are made safe to print.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from hyperseek.errors import InputError, printable, printable_json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from hyperseek.types import Document, Hit, Query, Token, TokenMatch

_NEAR = 80  # characters of context shown before and after a match
_MARKED = "bold reverse"

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


def result_console(*, stderr: bool = False) -> Console:
    """Return a console for tables of results; on standard error where JSON goes to standard output."""
    from rich.console import Console

    console = Console(stderr=stderr)
    if not console.is_terminal:
        console.width = 200  # a file or a pipe has no edge to wrap at
    return console


def shown_text(value: str, style: str = "") -> Text:
    """Return a text for Rich tables, in which square brackets would be markup."""
    from rich.text import Text

    return Text(printable(value), style=style)


def plain_rows(queries: Sequence[Query], hits: Sequence[Sequence[Hit]], *, matches: bool) -> list[dict[str, object]]:
    """Return queries and their hits as plain JSON values."""
    from hyperseek._display import plain_hit

    return [
        {"query": {"id": query.id, "text": query.text}, "hits": [plain_hit(hit, matches=matches) for hit in found]}
        for query, found in zip(queries, hits, strict=True)
    ]


def print_tables(
    queries: Sequence[Query], hits: Sequence[Sequence[Hit]], grouping: tuple[str, int | None] | None = None
) -> None:
    """Print a table for each query, its hits grouped by a metadata field if one is given with its depth."""
    from rich.console import Console
    from rich.table import Table

    from hyperseek._display import HitGroup, grouped

    console = Console()
    for query, found in zip(queries, hits, strict=True):
        table = Table(
            title=shown_text(query.text), title_justify="left", box=None, pad_edge=False, show_header=bool(found)
        )
        table.add_column("", justify="right", style="dim")
        table.add_column("score", justify="right")
        table.add_column("document", style="bold", overflow="fold")
        table.add_column("text")
        groups = [HitGroup((), list(found))] if grouping is None else grouped(found, grouping[0], depth=grouping[1])
        for group in groups:
            if grouping is not None:
                table.add_row("", "", shown_text(" > ".join(group.path) or f"no {grouping[0]}", style="underline"), "")
            for hit in group.hits:
                table.add_row(str(hit.rank), f"{hit.score:.3f}", shown_text(hit.id), _excerpt(hit))
        console.print(table if found else shown_text(f"{query.text}: no documents"))
        if query is not queries[-1]:
            console.print()


def print_matches(queries: Sequence[Query], hits: Sequence[Sequence[Hit]]) -> None:
    """Print the match of each query token, and the texts of the hits with matches highlighted."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for query, found in zip(queries, hits, strict=True):
        for hit in found:
            if not hit.matches:
                continue
            console.print()
            console.print(shown_text(f"{query.text} → {hit.id}", style="bold"))
            if hit.document is not None:
                console.print(_highlighted(hit.document.full_text, hit.matches))
            table = Table(box=None, pad_edge=False)
            table.add_column("query")
            table.add_column("document")
            table.add_column("similarity", justify="right")
            table.add_column("share", justify="right")
            for match in hit.matches:
                sides = (shown_text(_spelt(tokens)) for tokens in (match.query, match.document))
                table.add_row(*sides, f"{match.similarity:.3f}", f"{match.share:.3f}")
            console.print(table)


def print_whole(hit: Hit, document: Document) -> None:
    """Print a hit's whole document, with the words of its snippet marked."""
    from rich.console import Console

    console = Console()
    console.print(shown_text(hit.id, style="bold"), shown_text(document.title if document.title != hit.id else ""))
    if document.metadata:
        console.print(shown_text(printable_json(dict(document.metadata)), style="dim"))
    snippet, shown, done = hit.snippet, shown_text(""), 0
    for start, end in snippet.highlights:
        shown.append(printable(document.text[done : snippet.start + start], lines=True))
        shown.append(printable(document.text[snippet.start + start : snippet.start + end]), style=_MARKED)
        done = snippet.start + end
    shown.append(printable(document.text[done:], lines=True))
    console.print(shown)


def _excerpt(hit: Hit) -> Text:
    """Return the title of a hit, the headings that its best passage stands under, and its snippet, words marked."""
    shown = shown_text("")
    if hit.document is None:
        return shown
    headings = hit.passages[0].headings if hit.passages else ()
    above = [part for part in (hit.title if hit.title != hit.id else "", *headings) if part.strip()]
    if above:
        shown.append_text(shown_text(" \u203a ".join(dict.fromkeys(map(_one_line, above))), style="bold")).append("\n")
    snippet, done = hit.snippet, 0
    begins = hit.passages[0].start if hit.passages else 0
    shown.append("… " if snippet.start > 0 and hit.text[: snippet.start - begins].strip() else "")
    for start, end in snippet.highlights:
        shown.append_text(shown_text(_one_line(snippet.text[done:start])))
        shown.append_text(shown_text(snippet.text[start:end], style=_MARKED))
        done = end
    shown.append_text(shown_text(_one_line(snippet.text[done:])))
    return shown.append(" …" if hit.text[snippet.end - begins :].strip() else "")


def _one_line(text: str) -> str:
    """Return a text with each run of blanks and line ends as one blank, at its ends as well."""
    words = " ".join(text.split())
    return f"{' ' * text[:1].isspace()}{words}{' ' * (bool(words) and text[-1:].isspace())}"


def _spelt(tokens: Sequence[Token]) -> str:
    return " ".join(token.text if token.kind == "text" else f"{token.text} ({token.kind})" for token in tokens) or "?"


def _highlighted(text: str, matches: Sequence[TokenMatch]) -> Text:
    """Return the parts of a text around matches, with the matches highlighted."""
    places = {
        (token.start, token.end)
        for match in matches
        for token in match.document
        if token.start is not None and token.end is not None
    }
    shown, done = shown_text(""), 0
    for start, end in sorted(places):
        if start < done:
            continue  # within a match that was shown
        if start - done > 2 * _NEAR:
            head = text[done : done + _NEAR] if done else ""
            shown.append_text(shown_text(f"{head} … {text[start - _NEAR : start]}"))
        else:
            shown.append_text(shown_text(text[done:start]))
        shown.append_text(shown_text(text[start:end], style=_MARKED))
        done = end
    rest = text[done:]
    return shown.append_text(shown_text(rest if len(rest) <= _NEAR else f"{rest[:_NEAR]} …"))
