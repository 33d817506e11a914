"""One self-contained HTML page of tables and of parts that open, for reports of diagnoses.

It needs no script, so nothing of a collection's texts can run, and it works without a network.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from hyperseek._display import escaped
from hyperseek._files import atomic_write

Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]

_STYLE = """
:root { color-scheme: light dark; --back: #f7f8fb; --panel: #fff; --line: #d5dae5; --text: #1b2333; --faint: #5d6780;
  --good: #0a6b3d; --mark: #b45309; }
@media (prefers-color-scheme: dark) { :root { --back: #0e1117; --panel: #151b26; --line: #2b3445; --text: #e6ebf5;
  --faint: #98a2b6; --good: #6ee7a8; --mark: #ffb86b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1200px; padding: 20px; background: var(--back); color: var(--text);
  font: 14px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { font-size: 20px; overflow-wrap: anywhere; } h2 { font-size: 15px; overflow-wrap: anywhere; }
section, details { background: var(--panel); border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px;
  margin-top: 14px; min-width: 0; overflow-x: auto; }
summary { cursor: pointer; overflow-wrap: anywhere; }
:focus-visible { outline: 2px solid var(--mark); outline-offset: 2px; }
table { border-collapse: collapse; } th, td { padding: 4px 10px 4px 0; text-align: right; vertical-align: top; }
th { color: var(--faint); font-weight: normal; } th:first-child, td:first-child { text-align: left; }
td { overflow-wrap: anywhere; } td.text { text-align: left; } td:first-child { overflow-wrap: normal; }
p, .faint { color: var(--faint); }
.columns { display: grid; gap: 14px; grid-template-columns: repeat(auto-fit, minmax(260px, 1fr)); }
.columns > div { min-width: 0; overflow-wrap: anywhere; } li { padding: 2px 0; }
.relevant { color: var(--good); font-weight: 600; } .unjudged { color: var(--mark); }
"""


def table_of(table: Table, *, level: int = 2) -> str:
    """Return a table under its title as HTML; cells are texts."""
    title, headings, rows = table
    head = "".join(f'<th scope="col">{escaped(cell)}</th>' for cell in headings)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    name = f"<h{level}>{escaped(title)}</h{level}>" if title else ""
    return f"{name}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(text: str) -> str:
    kind = ' class="text"' if any(map(str.isalpha, text)) else ""
    return f"<td{kind}>{escaped(text)}</td>"


def write_page(
    path: str | os.PathLike[str], title: str, tables: Iterable[Table], remarks: Sequence[str] = (), *, opened: str = ""
) -> None:
    """Write a page, atomically.

    Args:
        path: The file.
        title: Its heading.
        tables: Title, headings and rows of each, texts.
        remarks: Lines below them.
        opened: HTML below these, made by `escaped` and `table_of`.
    """
    sections = "".join(f"<section>{table_of(table)}</section>\n" for table in tables)
    lines = "".join(f"<p>{escaped(remark)}</p>\n" for remark in remarks)
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    with atomic_write(path) as file:
        file.write(
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escaped(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
            f"<h1>{escaped(title)}</h1>\n{sections}{lines}{opened}</main>\n</body>\n</html>\n"
        )
