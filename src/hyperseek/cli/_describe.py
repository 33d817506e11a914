"""How `hyperseek inspect` prints an index and measurements."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from hyperseek.index import Index, Tuning


def describe_index(index: Index) -> dict[str, Any]:
    """Return what there is to know about an index, as plain values."""
    info = index.info
    return {
        "path": str(index.path),
        "documents": len(index),
        "space": index.space.to_json(),
        "storage": info.storage,
        "model": info.source,
        "fingerprint": info.fingerprint,
        "created": info.created.isoformat(),
        "fields": index.fields,
        "engines": {item.name: _attachment(item, len(index)) for item in index.attachments},
        "plans": index.tuned_plans,
    }


def print_description(description: dict[str, Any], *, as_json: bool) -> None:
    """Print it for people, or as JSON."""
    if as_json:
        typer.echo(json.dumps(description, indent=2))
        return
    for name, value in description.items():
        if isinstance(value, dict) and name != "space":
            typer.echo(f"{name}:" if value else f"{name}: none")
            for key, part in value.items():
                typer.echo(f"  {key}: {_line(part)}")
        else:
            typer.echo(f"{name}: {_line(value)}")


def print_tuning(tuning: Tuning, *, saved: bool, as_json: bool) -> None:
    """Print measurements for people, or as JSON."""
    if as_json:
        rows = [
            {
                "plan": one.plan.model_dump(mode="json", exclude_defaults=True),
                "recall": one.recall,
                "milliseconds": one.milliseconds,
                "single_milliseconds": one.single_milliseconds,
                "chosen": one is tuning.chosen,
            }
            for one in tuning.measured
        ]
        summary = {"kind": tuning.kind, "k": tuning.k, "queries": tuning.queries, "wanted": tuning.wanted}
        typer.echo(json.dumps({**summary, "measured": rows}, indent=2))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    title = f"{tuning.queries} queries, {tuning.kind} scorers, recall of the exhaustive top {tuning.k}"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for heading in ("plan", "recall", "ms a query", "alone", ""):
        table.add_column(heading, justify="left" if heading in ("plan", "") else "right", overflow="fold")
    for one in tuning.measured:
        mark = "chosen" if one is tuning.chosen else ""
        numbers = (f"{one.recall:.4f}", f"{one.milliseconds:.3f}", f"{one.single_milliseconds:.3f}")
        table.add_row(Text(one.title), *numbers, mark)
    Console().print(table)
    where = "kept in the index: searches use it from now on" if saved else "not kept"
    typer.echo(f"cheapest with a recall of {tuning.wanted}: {tuning.chosen.title}; {where}", err=True)


def _attachment(item: Any, documents: int) -> dict[str, Any]:
    config = None if item.config is None else item.config.model_dump(mode="json", exclude_none=True)
    charts = [chart.name for chart in item.charts]
    return {"kind": item.kind, "documents": item.count, "of": documents, "charts": charts, "config": config}


def _line(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_line(part)}" for key, part in value.items() if part not in (None, [], {}))
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
