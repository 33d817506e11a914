"""`hyperseek update`, and building an engine for `encode` and `update`, whose cost is printed first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hyperseek.cli._echo import echo

if TYPE_CHECKING:
    from hyperseek.engines import StructureEstimate
    from hyperseek.index import Index


def update(
    index: Annotated[Path, typer.Argument(help="Folder that `hyperseek encode` made.")],
    add: Annotated[
        str | None,
        typer.Option(help="Corpus of new documents: BEIR folder, FILE.jsonl or .tsv, or NAME:PLACE."),
    ] = None,
    replace: Annotated[
        str | None, typer.Option(help="Corpus of documents that replace those with the same ids.")
    ] = None,
    delete: Annotated[list[str] | None, typer.Option(help="Id of a document to delete; repeat for more.")] = None,
    delete_file: Annotated[Path | None, typer.Option(help="File of ids to delete, one per line.")] = None,
    engine: Annotated[
        str | None, typer.Option(help="Build an engine: auto, flat, hnsw, ivf, lance, qdrant or another kind.")
    ] = None,
    chart: Annotated[
        str | None, typer.Option(help="The chart to build the engine on: learned for a learned encoding of tokens.")
    ] = None,
    level: Annotated[
        int | None,
        typer.Option(min=1, help="Level that the engine, or the graph, finds by; the narrowest unless given."),
    ] = None,
    graph: Annotated[bool, typer.Option("--graph", help="Build the neighbour graph.")] = False,
    import_graph: Annotated[
        Path | None, typer.Option(help="Import a neighbour graph of the original Hypencoder: JSONL, plain or .gz.")
    ] = None,
    max_gigabytes: Annotated[float | None, typer.Option(min=0, help="Memory limit for building an engine.")] = None,
    compact: Annotated[bool, typer.Option("--compact", help="Rewrite without deleted and replaced documents.")] = False,
    device: Annotated[str | None, typer.Option(help="As in cuda:0; a GPU if there is one.")] = None,
) -> None:
    """Change an index: delete, replace and add documents, then compact, then build engines; in this order."""
    from hyperseek.data import open_dataset, read_id_list
    from hyperseek.errors import InputError
    from hyperseek.index import Index

    if not any((add, replace, delete, delete_file, engine, graph, import_graph, compact)):
        raise InputError(
            "there is nothing to do; give --add, --replace, --delete, --engine, --graph, --import-graph or --compact"
        )
    if graph and import_graph is not None:
        raise InputError("--graph builds a graph and --import-graph imports one; give one of them")
    if import_graph is not None and not (import_graph.is_file() and import_graph.stat().st_size):
        raise InputError(
            f"there is no file {import_graph}, or it is empty; --import-graph reads the original's graph in JSONL"
        )
    if max_gigabytes is not None and engine is None:
        raise InputError("--max-gigabytes limits the building of an engine; also give --engine")
    # Errors in later steps are found before the first step changes anything.
    if chart is not None and engine is None:
        raise InputError("--chart sets the chart of an engine; also give --engine")
    if level is not None and engine is None and not graph:
        raise InputError("--level is that of an engine or a graph; also give --engine or --graph")
    if engine is not None:
        check_engine(engine, chart)
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
        build_engine(opened, engine, chart=chart, level=level, max_gigabytes=max_gigabytes)
    if graph:
        opened.engines.build("graph", level=level)
    elif import_graph is not None:
        opened.build_graph(source=str(import_graph))
    echo(f"{index}: {len(opened):,} documents", err=True)


def check_engine(engine: str, chart: str | None) -> None:
    """Raise UnknownNameError for an unknown kind of engine, and ConfigError for an engine without charts."""
    from hyperseek.engines.structure import parse_structure

    if engine != "auto":
        parse_structure(engine, **_charts(chart))


def _charts(chart: str | None) -> dict[str, Any]:
    return {} if chart is None else {"charts": (chart,)}


def build_engine(
    index: Index,
    engine: str,
    *,
    chart: str | None = None,
    level: int | None = None,
    max_gigabytes: float | None = None,
) -> None:
    """Print the cost of building an engine, then build it.

    Args:
        index: The index.
        engine: Kind of engine, or `auto`.
        chart: Name of a chart or an encoding to build it on; None for those that suit it.
        level: Level of the points that it finds; None for the narrowest.
        max_gigabytes: Memory limit for building; None for no limit.

    Raises:
        InputError: It would take more memory; the cost has been printed.
    """
    from hyperseek.engines.structure import parse_structure

    limit = None if max_gigabytes is None else int(max_gigabytes * 1e9)
    if engine == "auto":
        config, reason = index.engines.choose(max_bytes=limit)
        config = parse_structure(config, **_charts(chart))
        echo(f"engine {config.kind}: {reason}", err=True)
    else:
        config = parse_structure(engine, **_charts(chart))
    echo(f"engine {config.kind}: {_words(index.engines.estimate(config, level=level))}", err=True)
    built = index.build_engine(config, level=level, max_bytes=limit)
    described = built.described()
    on = "".join(f", on {', '.join(map(str, value))}" for value in described.values() if isinstance(value, list))
    found = "" if built.recall is None else f"; {built.recall}"
    echo(f"engine {built.name}: built for {built.count:,} documents{on}; {built.config!r}{found}", err=True)


def _words(cost: StructureEstimate) -> str:
    from hyperseek.errors import size_in_words, time_in_words

    memory = f"{size_in_words(cost.building_bytes)} of memory to build, {size_in_words(cost.memory_bytes)} to search"
    duration = "" if cost.seconds is None else f", {time_in_words(cost.seconds)}"
    return f"about {memory}, {size_in_words(cost.disk_bytes)} on disk{duration}"
