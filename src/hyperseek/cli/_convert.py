"""`hyperseek convert` and `export`: models and token vectors, from and to the formats of others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hyperseek.cli._echo import echo


def convert(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="Folder of a Hypencoder, BE-base or HypRAG checkpoint, file of an HRM one, or Hydra's hypernet.pt; "
            "with --to, a model."
        ),
    ],
    output: Annotated[Path, typer.Argument(help="Folder to write, for `hyperseek encode`, `search` and `train`.")],
    to: Annotated[str | None, typer.Option(help="Export a late-interaction model instead: pylate or stanford.")] = None,
    trunk: Annotated[
        str | None, typer.Option(help="Folder or name of the trunk, if not as in the checkpoint; minilm for Hydra.")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="HypRAG: folder or Hub name of the tokenizer, if the folder has none.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Weight file, if it has an unusual name.")] = None,
    pooling: Annotated[str | None, typer.Option(help="HypRAG: a pooling other than that of config.json.")] = None,
    legacy_padded_mean: Annotated[
        bool, typer.Option("--legacy-padded-mean", help="Mean pooling that includes padding, as Hypencoder trained.")
    ] = False,
    query_length: Annotated[
        int | None, typer.Option(help="Maximum tokens per query; 32 for Hypencoder (512 for BEIR), 256 for HypRAG.")
    ] = None,
    document_length: Annotated[
        int | None, typer.Option(help="Maximum tokens per document; 512 for Hypencoder, 256 for HypRAG.")
    ] = None,
) -> None:
    """Convert a checkpoint of the original Hypencoder, of BE-base, of HypRAG, of HRM or of Hydra to a hyperseek model.

    Checkpoints of PyLate and of Stanford's ColBERT need no conversion: every command reads them. `--to` writes a
    late-interaction model in their format.
    """
    from hyperseek._files import write_json
    from hyperseek.models import export_colbert, import_hrm, import_hydra, import_hypencoder, import_hyprag, load
    from hyperseek.models.importers.hyprag import is_hyprag
    from hyperseek.models.importers.one_file import HRMCheckpoint, is_hrm, is_hydra

    if to is not None:
        _refuse(
            {
                "trunk": trunk,
                "tokenizer": tokenizer,
                "weights": weights,
                "pooling": pooling,
                "legacy_padded_mean": legacy_padded_mean,
                "query_length": query_length,
                "document_length": document_length,
            },
            "to be given with --to",
        )
        export_colbert(load(checkpoint, device="cpu"), output, form=to)
        echo(f"wrote {output} in the format {to}", err=True)
        return
    lengths = {"query_length": query_length, "document_length": document_length}
    options: dict[str, Any] = {name: value for name, value in lengths.items() if value is not None}
    hydra = is_hydra(checkpoint)
    hrm = not hydra and is_hrm(checkpoint)
    hyprag = not hydra and not hrm and is_hyprag(checkpoint)
    others = {"trunk": trunk, "legacy_padded_mean": legacy_padded_mean}
    _refuse(others if hyprag else {"tokenizer": tokenizer, "pooling": pooling})
    settings = None
    if hydra:
        _refuse({"weights": weights, "legacy_padded_mean": legacy_padded_mean, **lengths})
        retriever = import_hydra(checkpoint, **({} if trunk is None else {"trunk": trunk}))
    elif hrm:
        _refuse({"weights": weights, "legacy_padded_mean": legacy_padded_mean})
        original = HRMCheckpoint.read(checkpoint)
        settings = original.settings
        retriever = import_hrm(original, trunk=trunk, **options)
    elif hyprag:
        names: dict[str, Any] = {"tokenizer": tokenizer, "pooling": pooling}
        retriever = import_hyprag(checkpoint, weights=weights, **names, **options)
    else:
        retriever = import_hypencoder(
            checkpoint, trunk=trunk, weights=weights, legacy_padded_mean=legacy_padded_mean, **options
        )
    retriever.save(output)
    if settings is not None:
        write_json(output / "original.json", settings.model_dump(mode="json"))
    echo(f"wrote {output}: {retriever.space.dimension} dimensions, fingerprint {retriever.fingerprint}", err=True)


def _refuse(given: dict[str, Any], purpose: str = "for this kind of checkpoint") -> None:
    """Raise InputError for options that would be ignored."""
    from hyperseek.errors import InputError

    for name, value in given.items():
        if value:
            raise InputError(f"--{name.replace('_', '-')} is not {purpose}; leave it out")


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
