"""What `train` and `pretrain` have in common: their arguments, where a run goes, and which process tells of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hyperseek.cli._echo import echo

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
    """Say what was done, and return whether this process is the one that tells: it alone has the whole record."""
    from hyperseek.runs.arguments import is_first_process

    if not is_first_process():
        return False
    echo(f"{folder}: {record.steps} steps in {record.seconds.get('training', 0.0):.0f} s", err=True)
    if not record.changed:
        echo(f"{folder}: this run changed nothing; the model is as it was before", err=True)
    return True
