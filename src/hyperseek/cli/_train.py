"""`hyperseek train`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def train(
    recipe: Annotated[
        str,
        typer.Argument(help="A YAML file, or the name of one in recipes/, as qnet-minilm-pydocs or lorentz-minilm."),
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Changes: section.field=value, as in train.max_steps=200.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", show_default="runs/RECIPE", help="Folder for the model and run.json."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on with a run that was interrupted, or start it anew.")
    ] = True,
) -> None:
    """Train a model as a recipe says, and save it where every other verb can read it.

    \b
    hyperseek train qnet-minilm-pydocs --output model
    hyperseek train my.yaml train.learning_rate=3e-4 losses.anchor.weight=0.5
    """  # noqa: D301 (the mark for lines as they are is the character itself)
    from hyperseek.training import read_recipe
    from hyperseek.training import train as run

    read = read_recipe(recipe, overrides or ())
    folder = output or (Path(read.output.folder) if read.output.folder else Path("runs") / Path(recipe).stem)
    record = run(read, output=folder, resume=resume)
    if os.environ.get("RANK", "0") != "0":
        return  # one of several processes; the first one has the whole record, and tells
    typer.echo(f"{folder}: {record.steps} steps in {record.seconds.get('training', 0.0):.0f} s", err=True)
    if record.validation:
        _show_validation(record.metric or "", record.validation[0].scores, record.final_scores)


def _show_validation(metric: str, before: dict[str, float], after: dict[str, float]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("dev set", "untrained", "trained", title=metric)
    for name, score in before.items():
        table.add_row(name, f"{score:.4f}", f"{after[name]:.4f}")
    Console(stderr=True).print(table)
