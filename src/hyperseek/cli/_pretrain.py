"""`hyperseek pretrain`."""

from __future__ import annotations

from typing import Annotated

import typer

from hyperseek.cli._echo import echo
from hyperseek.cli._train import Output, Overrides, Resume, folder_of, tell


def pretrain(
    recipe: Annotated[
        str, typer.Argument(help="A YAML file, or the name of one in recipes/, as mlm-tiny-pydocs or albert_mlm.")
    ],
    overrides: Overrides = None,
    output: Output = None,
    resume: Resume = True,
) -> None:
    """Pre-train an encoder on masked tokens of any texts; its folder is a trunk for `hyperseek train`.

    \b
    hyperseek pretrain mlm-tiny-pydocs --output encoder
    hyperseek train qnet-minilm-pydocs model.trunk=encoder
    torchrun --nproc-per-node 8 -m hyperseek pretrain albert_mlm --output encoder
    """  # noqa: D301 (the mark for lines as they are is the character itself)
    from hyperseek.pretraining import pretrain as run
    from hyperseek.pretraining import read_pretrain_recipe

    read = read_pretrain_recipe(recipe, overrides or ())
    folder = folder_of(recipe, read.output.folder, output)
    record = run(read, output=folder, resume=resume)
    if tell(folder, record) and record.validation:
        before, after = record.validation[0].scores, record.validation[-1].scores
        for name in before:
            echo(f"validation {name}: {before[name]:.4g} before, {after[name]:.4g} after")
