"""`hyperseek demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    folder: Annotated[Path, typer.Argument(help="Where index, model, tables and picture go.")] = Path("demo"),
) -> None:
    """Build, search, train, measure and draw, on this machine's own Python documentation; minutes on two cores."""
    from rich.console import Console

    from hyperseek.demo import run_demo

    console = Console()
    result = run_demo(folder, tell=lambda line: console.print(line, highlight=False))
    for question, hits in result.hits.items():
        console.print(f"\n[bold]{question}[/bold]")
        for hit in hits:
            summary = "" if hit.document is None else " ".join(hit.document.text.split())[:70]
            console.print(f"  {hit.score:.3f}  {hit.id}  [dim]{summary}[/dim]", highlight=False, soft_wrap=True)
    console.print()
    console.print(result.comparison)
    console.print(f"\nThe picture: {result.picture}   The tables: {result.folder / 'comparison.md'}")
