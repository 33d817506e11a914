"""`hyperseek pretrain`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def pretrain(
    recipe: Annotated[
        str, typer.Argument(help="A YAML file, or the name of one in recipes/, as mlm-tiny-pydocs or albert_mlm.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Changes: section.field=value, as in train.max_steps=200.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", show_default="runs/RECIPE", help="Folder for the encoder and run.json."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on with a run that was interrupted, or start it anew.")
    ] = True,
) -> None:
    """Train an encoder to predict masked tokens of any texts; its folder is a trunk for `hyperseek train`.

    \b
    hyperseek pretrain mlm-tiny-pydocs --output encoder
    hyperseek train qnet-minilm-pydocs model.trunk=encoder
    torchrun --nproc-per-node 8 -m hyperseek pretrain albert_mlm --output encoder
    """  # noqa: D301 (the mark for lines as they are is the character itself)
    from hyperseek.pretraining import pretrain as run
    from hyperseek.pretraining import read_pretrain_recipe

    read = read_pretrain_recipe(recipe, overrides or ())
    folder = output or (Path(read.output.folder) if read.output.folder else Path("runs") / Path(recipe).stem)
    record = run(read, output=folder, resume=resume)
    if os.environ.get("RANK", "0") != "0":
        return  # one of several processes; the first one has the whole record, and tells
    typer.echo(f"{folder}: {record.steps} steps in {record.seconds.get('training', 0.0):.0f} s", err=True)
    if record.validation:
        before, after = record.validation[0].scores, record.validation[-1].scores
        for name in before:
            typer.echo(f"validation {name}: {before[name]:.4g} before, {after[name]:.4g} after", err=True)
