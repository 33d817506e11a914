"""Results in notebooks: HTML in which every text is escaped, and tables of pandas.

Texts, ids and names come from unknown sources: control characters are made visible, as on a terminal, and nothing of
them is HTML.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hyperseek.errors import printable, require

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console, ConsoleOptions, RenderResult

_LEFT = "text-align:left;vertical-align:top"
_RIGHT = "text-align:right;vertical-align:top"


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

    def _shown_remarks(self) -> Sequence[str]:
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
                table.add_column(Text(printable(heading)), justify="right" if place else "left", overflow="fold")
            for row in rows:
                table.add_row(*(Text(printable(cell)) for cell in row))
            yield Text(printable(title), style="bold")
            yield table
        for remark in self._shown_remarks():
            yield Text(printable(remark))

    def to_pandas(self) -> pd.DataFrame:
        """Return the numbers as a data frame, unrounded; MissingExtraError if pandas is not installed."""
        return data_frame(self._frame_rows())


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
