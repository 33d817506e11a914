"""Results for people and programs: groups of hits, plain values, HTML for notebooks, and tables of pandas.

Texts, ids and names come from unknown sources: control characters are made visible, as on a terminal, and nothing of
them is HTML.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from hyperseek._ancestors import path_parts
from hyperseek.errors import InputError, UnknownNameError, printable, require, shown

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console, ConsoleOptions, RenderResult

    from hyperseek.types import Hit

_LONG_CELL = 26  # characters of a cell that is a text and no number
_LEFT = "text-align:left;vertical-align:top"
_RIGHT = "text-align:right;vertical-align:top"


@dataclass(frozen=True, slots=True)
class HitGroup:
    """Hits with the same value of a field, or the same beginning of a path.

    Attributes:
        path: The value, as names from the root of a hierarchy; empty for hits without the field.
        hits: In the order of their ranks.
    """

    path: tuple[str, ...]
    hits: list[Hit] = field(default_factory=list)


def grouped(hits: Iterable[Hit], by: str = "path", *, depth: int | None = None) -> list[HitGroup]:
    """Group the hits of a query by a metadata field.

    Args:
        hits: With their documents.
        by: The field. A list of names from the root, or a text of names separated by `" > "` or else by `"/"`, is a
            path; other values are paths of one name.
        depth: Names from the root that hits of a group share, at least 1; None for whole paths.

    Returns:
        The groups in the order of their best hits, those without the field included.

    Raises:
        InputError: The hits carry no documents, or `depth` is not a whole number of at least 1.
        UnknownNameError: No hit has the field.
    """
    if depth is not None and (isinstance(depth, bool) or not isinstance(depth, int) or depth < 1):
        raise InputError(f"depth must be a whole number of at least 1, or None for whole paths; given {shown(depth)}")
    groups: dict[tuple[str, ...], HitGroup] = {}
    known: set[str] = set()
    for hit in hits:
        if hit.document is None:
            raise InputError(
                "these hits carry no documents, so they have no fields to group by; search with texts=True"
            )
        known |= set(hit.document.metadata)
        path = tuple(path_parts(hit.document.metadata.get(by)))[:depth]
        groups.setdefault(path, HitGroup(path)).hits.append(hit)
    if groups and by not in known:
        raise UnknownNameError("metadata field of these hits", by, sorted(known))
    return list(groups.values())


def plain_hit(hit: Hit, *, matches: bool = False) -> dict[str, Any]:
    """Return a hit as plain JSON values, with what it has: texts, snippet, passages and, if so asked, matches."""
    plain: dict[str, Any] = {"id": hit.id, "score": hit.score, "rank": hit.rank}
    if hit.document is not None:
        plain |= {"title": hit.title, "text": hit.text, "metadata": dict(hit.metadata)}
        plain["snippet"] = hit.snippet.to_json()
        if hit.passages:
            plain["passages"] = [passage.to_json() for passage in hit.passages]
    if matches and hit.matches:
        plain["matches"] = [match.to_json() for match in hit.matches]
    return plain


def escaped(text: object) -> str:
    """Return a text as HTML that shows it."""
    return html.escape(printable(str(text), lines=True))


def marked(text: str, spans: Iterable[tuple[int, int]]) -> str:
    """Return a text as HTML, with parts of it marked: start and end of each, in order, apart from each other."""
    shown, done = [], 0
    for start, end in spans:
        shown += [escaped(text[done:start]), f"<mark>{escaped(text[start:end])}</mark>"]
        done = end
    return "".join([*shown, escaped(text[done:])])


def html_table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, title: str = "", left: int = 1) -> str:
    """Return a table as HTML.

    Args:
        headings: Texts.
        rows: HTML of the cells of each row.
        title: A text above the table.
        left: How many columns, from the first, are aligned to the left; negative numbers count from the last.

    Returns:
        The table.
    """
    count = left % (len(headings) + 1)

    def line(cells: Iterable[str], tag: str) -> str:
        parts = (
            f'<{tag} style="{_LEFT if place < count else _RIGHT}">{cell}</{tag}>' for place, cell in enumerate(cells)
        )
        return f"<tr>{''.join(parts)}</tr>"

    caption = f'<caption style="{_LEFT};font-weight:bold">{escaped(title)}</caption>' if title else ""
    body = "".join(line(cells, "td") for cells in rows)
    return f"<table>{caption}<thead>{line(map(escaped, headings), 'th')}</thead><tbody>{body}</tbody></table>"


class ShowsTables:
    """Base of results that are tables: what they show in a notebook.

    A subclass yields its tables and remarks, and the rows of its data frame.
    """

    __slots__ = ()

    def _shown_tables(self) -> Iterator[tuple[str, Sequence[str], Sequence[Sequence[str]]]]:
        """Yield title, headings and rows of each table, all of them texts."""
        raise NotImplementedError

    def _shown_remarks(self) -> Iterable[str]:
        return ()

    def _frame_rows(self) -> Iterable[Mapping[str, Any]]:
        raise NotImplementedError

    def _repr_html_(self) -> str:
        tables = [
            html_table(headings, ([escaped(cell) for cell in row] for row in rows), title=title)
            for title, headings, rows in self._shown_tables()
        ]
        return "".join([*tables, *(f"<p>{escaped(remark)}</p>" for remark in self._shown_remarks())])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the tables and the remarks, for Rich to print."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        for title, headings, rows in self._shown_tables():
            table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
            for place, heading in enumerate(headings):
                longest = max((len(row[place]) for row in rows), default=0)
                justify: Literal["left", "right"] = "left" if place == 0 or longest > _LONG_CELL else "right"
                table.add_column(Text(printable(heading)), justify=justify, overflow="fold")
            for row in rows:
                table.add_row(*(Text(printable(cell)) for cell in row))
            yield Text(printable(title), style="bold")
            yield table
        for remark in self._shown_remarks():
            yield Text(printable(remark))

    def to_pandas(self) -> pd.DataFrame:
        """Return the numbers as a data frame, unrounded; MissingExtraError if pandas is not installed."""
        return data_frame(self._frame_rows())


class ShowsStages(ShowsTables):
    """Base of what a search did, stage by stage.

    Attributes:
        reason: Why it was done so.
        documents: In the index.
        passages: Likewise; None for an index of whole documents.
        stages: Each has `title`, `seconds`, `queries`, `candidates`, `recall` and `notes`.
    """

    __slots__ = ()

    reason: str
    documents: int
    passages: int | None
    stages: Sequence[Any]

    def lines(self) -> Iterator[str]:
        """Yield one line per stage: milliseconds and candidates per query, and recall where it was measured."""
        passages = "" if self.passages is None else f" in {self.passages:,} passages"
        yield f"{self.documents:,} documents{passages}; {self.reason}"
        for stage in self.stages:
            queries = max(1, stage.queries)
            line = (
                f"{stage.title}: {1000 * stage.seconds / queries:.2f} ms, {stage.candidates / queries:.0f} candidates"
            )
            if stage.recall is not None:
                line += f", recall {stage.recall:.4f}"
            notes = ", ".join(f"{name} {value:,.0f}" for name, value in stage.notes.items())
            yield f"{line} ({notes})" if notes else line

    def _shown_tables(self) -> Iterator[tuple[str, Sequence[str], Sequence[Sequence[str]]]]:
        """Yield the stages, as `lines` does."""
        first, *rest = self.lines()
        rows = [[line.partition(": ")[0], line.partition(": ")[2]] for line in rest]
        yield first, ["stage", "per query"], rows

    def _frame_rows(self) -> Iterator[dict[str, Any]]:
        """Yield a row for each stage, its times and candidates over all queries."""
        for stage in self.stages:
            row = {"stage": stage.title, "seconds": stage.seconds, "queries": stage.queries}
            yield {**row, "candidates": stage.candidates, "recall": stage.recall, **stage.notes}


def data_frame(rows: Iterable[Mapping[str, Any]], columns: Sequence[str] = ()) -> pd.DataFrame:
    """Return rows as a data frame.

    Args:
        rows: Values by column.
        columns: Columns that are there even without rows.

    Returns:
        The data frame.

    Raises:
        MissingExtraError: pandas is not installed.
    """
    pandas: Any = require("pandas", extra="eval")
    listed = list(rows)
    frame: pd.DataFrame = pandas.DataFrame(listed, columns=None if listed else list(columns))
    return frame
