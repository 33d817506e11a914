"""`hyperseek export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hyperseek.cli._echo import echo


def export(
    index: Annotated[Path, typer.Argument(help="Folder that `hyperseek encode` made with a late-interaction model.")],
    output: Annotated[Path, typer.Argument(help="Folder to write.")],
    token_ids: Annotated[
        bool, typer.Option(help="Whether to write the token of each vector, which encodes all texts again.")
    ] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing export.")] = False,
    device: Annotated[str | None, typer.Option(help="As in cuda:0; a GPU if there is one.")] = None,
) -> None:
    """Export token vectors to plain files for other engines; `hyperseek encode` reads them back."""
    from hyperseek.index import Index

    Index.open(index, device=device).export_tokens(output, token_ids=token_ids, overwrite=overwrite)
    echo(f"{output}: vectors.npy, token_ids.npy, doclens.npy, documents.jsonl", err=True)
