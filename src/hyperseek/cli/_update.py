"""`hyperseek update`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hyperseek.cli._echo import echo


def update(
    index: Annotated[Path, typer.Argument(help="Folder that `hyperseek encode` made.")],
    add: Annotated[
        str | None,
        typer.Option(help="Corpus of new documents: BEIR folder, FILE.jsonl or .tsv, or NAME:PLACE."),
    ] = None,
    replace: Annotated[
        str | None, typer.Option(help="Corpus of documents that may take the place of those with their ids.")
    ] = None,
    delete: Annotated[list[str] | None, typer.Option(help="Id of a document to delete; repeat for more.")] = None,
    delete_file: Annotated[Path | None, typer.Option(help="File with an id to delete on each line.")] = None,
    engine: Annotated[
        str | None, typer.Option(help="Build an engine: auto, flat, hnsw, ivf, lance, qdrant or another kind.")
    ] = None,
    graph: Annotated[bool, typer.Option("--graph", help="Build the neighbour graph.")] = False,
    import_graph: Annotated[
        Path | None, typer.Option(help="Take over a neighbour graph of the original Hypencoder: JSONL, plain or .gz.")
    ] = None,
    max_gigabytes: Annotated[float | None, typer.Option(min=0, help="Memory that building an engine may take.")] = None,
    compact: Annotated[bool, typer.Option("--compact", help="Rewrite without deleted and replaced documents.")] = False,
    device: Annotated[str | None, typer.Option(help="As in cuda:0; a GPU if there is one.")] = None,
) -> None:
    """Change an index: delete, replace and add documents, then compact, then build engines; in this order."""
    from hyperseek.cli._engine import build_engine, check_engine
    from hyperseek.data import open_dataset, read_id_list
    from hyperseek.errors import InputError
    from hyperseek.index import Index

    if not any((add, replace, delete, delete_file, engine, graph, import_graph, compact)):
        raise InputError(
            "there is nothing to do; give --add, --replace, --delete, --engine, --graph, --import-graph or --compact"
        )
    if graph and import_graph is not None:
        raise InputError("--graph builds a graph and --import-graph takes one over; give one of them")
    if import_graph is not None and not (import_graph.is_file() and import_graph.stat().st_size):
        raise InputError(
            f"there is no file {import_graph}, or it is empty; --import-graph wants the original's graph in JSONL"
        )
    if max_gigabytes is not None and engine is None:
        raise InputError("--max-gigabytes limits the building of an engine; give --engine too")
    # What is wrong with later steps is found out before the first one changes anything.
    if engine is not None:
        check_engine(engine)
    corpora = [(open_dataset(source), replaces) for source, replaces in ((replace, True), (add, False)) if source]
    opened = Index.open(index, device=device)
    gone = [*(delete or []), *(read_id_list(delete_file) if delete_file else [])]
    if gone:
        echo(f"deleted {opened.delete(gone):,} of {len(gone):,} ids", err=True)
    for corpus, replaces in corpora:
        count = opened.add(corpus.documents(), replace=replaces)
        echo(f"{'replaced or added' if replaces else 'added'} {count:,}", err=True)
    if compact:
        opened.compact()
    if engine is not None:
        build_engine(opened, engine, max_gigabytes=max_gigabytes)
    if graph or import_graph is not None:
        opened.build_graph(source=None if import_graph is None else str(import_graph))
    echo(f"{index}: {len(opened):,} documents", err=True)
