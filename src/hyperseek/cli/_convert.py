"""`hyperseek convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def convert(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of a Hypencoder or BE-base checkpoint.")],
    output: Annotated[Path, typer.Argument(help="Folder to write, for `hyperseek encode`, `search` and `train`.")],
    trunk: Annotated[
        str | None, typer.Option(help="Folder or Hub name of the trunk's configuration, if not the one it names.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Weight file, if it has an unusual name.")] = None,
    legacy_padded_mean: Annotated[
        bool, typer.Option("--legacy-padded-mean", help="Mean pooling that counts padding, as the original trained.")
    ] = False,
    query_length: Annotated[int, typer.Option(help="Most tokens of a query; 32 to 64 in domain, 512 for BEIR.")] = 32,
    document_length: Annotated[int, typer.Option(help="Most tokens of a document.")] = 512,
) -> None:
    """Turn a checkpoint of the original Hypencoder, or of BE-base, into a hyperseek model."""
    from hyperseek.models import import_hypencoder

    retriever = import_hypencoder(
        checkpoint,
        trunk=trunk,
        weights=weights,
        legacy_padded_mean=legacy_padded_mean,
        query_length=query_length,
        document_length=document_length,
    )
    retriever.save(output)
    typer.echo(f"wrote {output}: {retriever.space.dimension} dimensions, fingerprint {retriever.fingerprint}", err=True)
