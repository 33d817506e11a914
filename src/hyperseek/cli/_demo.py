"""`hyperseek demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hyperseek.cli._echo import shown_text


def demo(
    folder: Annotated[Path, typer.Argument(help="Folder for index, model, tables and picture.")] = Path("demo"),
) -> None:
    """Build, search, train, evaluate and draw on this machine's Python documentation; takes minutes on two cores."""
    from rich.console import Console

    from hyperseek.demo import run_demo

    console = Console()
    result = run_demo(folder, tell=lambda line: console.print(shown_text(line)))
    for question, hits in result.hits.items():
        console.print()
        console.print(shown_text(question, style="bold"))
        for hit in hits:
            summary = "" if hit.document is None else " ".join(hit.document.text.split())[:70]
            line = shown_text(f"  {hit.score:.3f}  {hit.id}  ") + shown_text(summary, style="dim")
            console.print(line, soft_wrap=True)
    console.print()
    console.print(result.comparison)
    console.print()
    console.print(shown_text(f"The picture: {result.picture}   The tables: {result.folder / 'comparison.md'}"))
