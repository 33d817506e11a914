"""`hyperseek train`."""

from __future__ import annotations

from typing import Annotated

import typer

from hyperseek.cli._echo import shown_text
from hyperseek.cli._recipe_run import Output, Overrides, Resume, folder_of, tell


def train(
    recipe: Annotated[
        str,
        typer.Argument(help="A YAML file, or the name of one in recipes/, as qnet-minilm-pydocs or lorentz-minilm."),
    ],
    overrides: Overrides = None,
    output: Output = None,
    resume: Resume = True,
) -> None:
    """Train a model as a recipe says, and save it where every other verb can read it.

    \b
    hyperseek train qnet-minilm-pydocs --output model
    hyperseek train my.yaml train.learning_rate=3e-4 losses.anchor.weight=0.5
    """  # noqa: D301 (the mark for lines as they are is the character itself)
    from hyperseek.training import read_recipe
    from hyperseek.training import train as run

    read = read_recipe(recipe, overrides or ())
    folder = folder_of(recipe, read.output.folder, output)
    record = run(read, output=folder, resume=resume)
    if tell(folder, record) and record.validation:
        _show_validation(record.metric or "", record.validation[0].scores, record.final_scores)


def _show_validation(metric: str, before: dict[str, float], after: dict[str, float]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("dev set", "untrained", "trained", title=shown_text(metric))
    for name, score in before.items():
        table.add_row(shown_text(name), f"{score:.4f}", f"{after[name]:.4f}")
    Console().print(table)
