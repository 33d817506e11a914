"""`hyperseek encode` and `hyperseek update`, and building an engine for both, whose cost is printed first."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hyperseek.cli._echo import BackendOption, echo

if TYPE_CHECKING:
    from hyperseek.data import Dataset
    from hyperseek.engines import StructureEstimate
    from hyperseek.index import Estimate, Index
    from hyperseek.models import Retriever
    from hyperseek.types import Document

_DOCARRAY = ".docs"
# Reasons for which files are left out by design, and counted rather than named.
_COUNTED = ("other_kind_of_file", "hidden_or_cache", "attachment")
_FEW = 64  # documents: so few are encoded as soon as a sample of them would be


def encode(
    model: Annotated[str, typer.Argument(help="Folder or Hub name of a model, or 'minilm'.")],
    corpus: Annotated[
        str,
        typer.Argument(
            help="Folder of files of any usual kind, BEIR folder, FILE.jsonl, .tsv, .csv or .parquet, ir_datasets:ID, "
            "hub:NAME, pydocs, NAME:PLACE of a registered data source, a .docs file of the original Hypencoder, or a "
            "folder that `hyperseek export` made."
        ),
    ],
    index: Annotated[Path, typer.Option("--index", "-i", help="Folder of the index to create.", show_default=False)],
    storage: Annotated[
        Literal["float32", "float16"], typer.Option(help="Storage type of vectors; float16 takes half the space.")
    ] = "float32",
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        typer.Option(help="Precision of the model; auto takes bfloat16 if the processor supports it."),
    ] = "auto",
    pooling: Annotated[
        list[str] | None,
        typer.Option(help="Fewer token vectors: pool_factor=5, budget=32, linkage=ward ...; may be repeated."),
    ] = None,
    passages: Annotated[
        str | None,
        typer.Option(
            metavar="auto|off|TOKENS[:OVERLAP]",
            help="Split long documents into passages: auto for as long as the model reads, off for whole documents. "
            "Without it: auto for a new index of files, off for other collections.",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first N documents; of a folder of files, whole files.")
    ] = None,
    id_key: Annotated[str | None, typer.Option(help="Key or column of ids, or its number; found if not given.")] = None,
    text_key: Annotated[str | None, typer.Option(help="Key or column of texts; found if not given.")] = None,
    on_error: Annotated[
        Literal["raise", "skip"], typer.Option(help="On an invalid record: stop, or skip and count it.")
    ] = "raise",
    resume: Annotated[bool, typer.Option(help="Resume an earlier run that was interrupted.")] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing index.")] = False,
    engine: Annotated[
        str | None, typer.Option(help="Also build an engine: auto, flat, hnsw, ivf, lance, qdrant or another kind.")
    ] = None,
    chart: Annotated[
        str | None, typer.Option(help="The chart to build the engine on: learned for a learned encoding of tokens.")
    ] = None,
    level: Annotated[
        int | None, typer.Option(min=1, help="Level that the engine finds by; the narrowest unless given.")
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Keep an index of files up to date until Ctrl-C is pressed.")
    ] = False,
    device: Annotated[str | None, typer.Option(help="As in cuda:0; a GPU if there is one.")] = None,
    backend: BackendOption = None,
) -> None:
    """Encode a corpus into an index; an interrupted run resumes without encoding anything twice.

    An index of a folder of files is brought up to date by the same command.
    """
    from itertools import islice

    from hyperseek._config import apply_overrides
    from hyperseek.errors import InputError, require
    from hyperseek.index import is_token_files
    from hyperseek.models import load

    if chart is not None and engine is None:
        raise InputError("--chart sets the chart of an engine; also give --engine")
    if level is not None and engine is None:
        raise InputError("--level is that of an engine; also give --engine")
    if engine is not None:
        check_engine(engine, chart)  # before all documents are encoded, not after
    split = None if passages is None else _split(passages)
    if watch:
        require("watchfiles", extra="files")
    retriever = load(model, device=device, backend=backend)
    if corpus.endswith(_DOCARRAY) or is_token_files(corpus):
        given = {
            "--id-key": id_key,
            "--text-key": text_key,
            "--dtype": dtype != "auto",
            "--backend": backend,
            "--pooling": pooling,
            "--passages": split,
            "--on-error": on_error == "skip",
            "--watch": watch,
        }
        if useless := [option for option, value in given.items() if value]:
            raise InputError(f"{corpus} has vectors and fixed field names; leave out {', '.join(useless)}")
        made = _import(retriever, corpus, index, storage, limit, resume, overwrite)
    else:
        from hyperseek.data import open_dataset
        from hyperseek.index import Index, estimate, stored_documents

        dataset = open_dataset(corpus, id_key=id_key, text_key=text_key, on_error=on_error)
        done = 0 if overwrite else stored_documents(index)
        pooled = None if pooling is None else apply_overrides({}, pooling)
        settings: dict[str, Any] = {"storage": storage, "dtype": dtype, "pooling": pooled, "passages": split or None}
        files = dataset.file_reader()
        if files is not None:
            settings["passages"] = split
            made = _opened(index, retriever, settings, name=dataset.name, resume=resume, overwrite=overwrite)
            settings["passages"] = made.info.passages
            changed = _synchronise(made, dataset, limit, settings) or not made.attachments
            if engine is not None and changed:
                build_engine(made, engine, chart=chart, level=level)
            if watch:
                _watch(made, dataset, files.place, settings)
            return
        if watch:
            raise InputError(f"--watch follows a folder of files, and {corpus} is another kind of source")
        read = islice(dataset.documents(), limit)
        cost = estimate(read, retriever, **settings, done=done)
        _say(cost)
        made = Index.build(
            index,
            islice(dataset.documents(), limit),
            retriever,
            **settings,
            name=dataset.name,
            total=cost.rows,
            resume=resume,
            overwrite=overwrite,
        )
        for line in dataset.report.lines():
            echo(f"skipped: {line}", err=True)
    parts = "" if made.passages is None else f" in {made.passages:,} passages"
    echo(f"{index}: {len(made):,} documents{parts}, {made.space}, fingerprint {made.info.fingerprint}", err=True)
    if engine is not None:
        build_engine(made, engine, chart=chart, level=level)


def _split(given: str) -> bool | dict[str, int]:
    """Read `--passages`; False for whole documents."""
    from hyperseek.errors import InputError, shown

    if given in ("auto", "off"):
        return given == "auto"
    tokens, colon, overlap = given.partition(":")
    if not tokens.isdecimal() or (colon and not overlap.isdecimal()) or max(len(tokens), len(overlap)) > 9:
        raise InputError(f"--passages is auto, off, TOKENS or TOKENS:OVERLAP, as in 256:32, not {shown(given)}")
    return {"tokens": int(tokens), **({"overlap": int(overlap)} if colon else {})}


def _say(cost: Estimate) -> None:
    _say_cut(cost)
    echo(str(cost), err=True)


def _say_cut(cost: Estimate) -> None:
    if cost.long is not None and cost.long.long:
        echo(f"{cost.long}{'; --passages auto searches them' if cost.passages is None else ''}", err=True)


def _opened(
    path: Path, retriever: Retriever, settings: dict[str, Any], *, name: str, resume: bool, overwrite: bool
) -> Index:
    """Open the index of a folder of files, or make an empty one."""
    from hyperseek.errors import InputError, MissingExtraError, StoreError
    from hyperseek.index import Index, IndexInfo

    given = settings["passages"]
    if overwrite or not resume or not IndexInfo.exists(path) or IndexInfo.read(path).state != "finished":
        build = partial(Index.build, path, [], retriever, name=name, resume=resume, overwrite=overwrite)
        try:
            return build(**{**settings, "passages": True if given is None else given})
        except (MissingExtraError, InputError) as error:  # the latter for a model whose tokens cannot be counted
            if given is not None:
                raise
            echo(f"documents stay whole, and what the model does not read of them is not searched: {error}", err=True)
            return build(**settings)
    made = Index.open(path, model=retriever)
    there = made.info.passages
    fits = there is not None if given is True else there is None if not given else {**(there or {}), **given} == there
    if given is not None and not fits:
        raise StoreError(
            f"the index {path} was made with passages {there}; leave --passages out, or give another folder or "
            f"--overwrite"
        )
    for key in ("storage", "pooling"):
        there, here = getattr(made.info, key), settings[key]
        if (there != here) if key == "storage" else (here is not None and not here.items() <= (there or {}).items()):
            raise StoreError(
                f"the index {path} was made with {key} {there} and is now to be brought up to date with {here}; give "
                f"{key} {there} again, another folder, or --overwrite"
            )
    return made


def _synchronise(index: Index, dataset: Dataset, limit: int | None, settings: dict[str, Any]) -> bool:
    """Bring an index of files up to date, and say what changed and what was not read."""
    from itertools import chain, islice

    from hyperseek.index import estimate, sync

    def say_cost(documents: Iterable[Document]) -> int:
        stream = iter(documents)
        first = list(islice(stream, _FEW + 1))
        if len(first) > _FEW:
            cost = estimate(chain(first, stream), index.model, **settings)
            _say(cost)
        else:
            cost = estimate(first, index.model, **settings, done=sys.maxsize)  # which encodes nothing
            _say_cut(cost)
        return cost.rows

    changes = sync(index, dataset, limit=limit, before=say_cost)
    for reason, count in changes.report.counts.items():
        told = changes.report.examples[reason]
        if reason.startswith(_COUNTED):
            echo(f"left out: {count:,} {reason} (first: {told[0]})", err=True)
            continue
        for message in told:
            echo(f"not read, {reason}: {message}", err=True)
        if count > len(told):
            echo(f"not read, {reason}: and {count - len(told):,} others", err=True)
    for note in changes.report.notes:
        echo(f"note: {note}", err=True)
    parts = "" if index.passages is None else f" in {index.passages:,} passages"
    echo(f"{index.path}: {changes}; {len(index):,} documents{parts}", err=True)
    return bool(changes)


def _watch(index: Index, dataset: Dataset, place: Path, settings: dict[str, Any]) -> None:
    from watchfiles import DefaultFilter, watch

    from hyperseek.errors import HyperseekError

    echo(f"watching {place}; press Ctrl-C to stop", err=True)
    own = str(index.path.resolve())
    usual = DefaultFilter()
    failed = True  # what changed while the index was brought up to date has not been reported
    # Once a minute without changes, what failed before is tried again.
    for changes in watch(
        place,
        watch_filter=lambda change, path: not path.startswith(own) and usual(change, path),
        rust_timeout=60_000,
        yield_on_timeout=True,
    ):
        if not (changes or failed):
            continue
        try:
            _synchronise(index, dataset, None, settings)
            failed = False
        except HyperseekError as error:
            failed = True
            echo(f"not up to date: {error}", err=True)


def _import(
    retriever: Retriever,
    path: str,
    index: Path,
    storage: Literal["float32", "float16"],
    limit: int | None,
    resume: bool,
    overwrite: bool,
) -> Index:
    from itertools import chain, islice

    from hyperseek.errors import DataError
    from hyperseek.index import Index, is_token_files, read_token_files
    from hyperseek.index.vector_files import read_docs

    pairs: Iterator[tuple[Any, Any]] = read_token_files(path)[2] if is_token_files(path) else read_docs(path)
    first = next(pairs, None)
    if first is None:
        raise DataError("contains no documents", path=path)
    return Index.from_vectors(
        index,
        islice(chain([first], pairs), limit),
        model=retriever,
        storage=storage,
        name=Path(path).stem,
        resume=resume,
        overwrite=overwrite,
    )


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
    backend: BackendOption = None,
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
    opened = Index.open(index, device=device, backend=backend)
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
