"""`hyperseek train`, and what it shares with `pretrain`: arguments, where a run goes, which process reports it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hyperseek.cli._echo import echo, shown_text

if TYPE_CHECKING:
    from hyperseek.training import RunRecord

Overrides = Annotated[list[str] | None, typer.Argument(help="Changes: section.field=value, as in train.max_steps=200.")]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", show_default="runs/RECIPE", help="Folder for what is trained, and run.json."),
]
Resume = Annotated[
    bool, typer.Option("--resume/--no-resume", help="Resume a run that was interrupted, or start it anew.")
]


def folder_of(recipe: str, named: str | None, output: Path | None) -> Path:
    """Return where a run goes: as the command says, else as the recipe says, else by the recipe's name."""
    return output or (Path(named) if named else Path("runs") / Path(recipe).stem)


def tell(folder: Path, record: RunRecord) -> bool:
    """Report a run, and return whether this process is the one that reports: it alone has the whole record."""
    from hyperseek.runs.arguments import is_first_process

    if not is_first_process():
        return False
    echo(f"{folder}: {record.steps} steps in {record.seconds.get('training', 0.0):.0f} s", err=True)
    if not record.changed:
        echo(f"{folder}: this run changed nothing; the model is unchanged", err=True)
    return True


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
