"""`hyperseek encode`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hyperseek.cli._echo import echo
from hyperseek.cli._update import build_engine, check_engine

if TYPE_CHECKING:
    from hyperseek.index import Index
    from hyperseek.models import Retriever

_DOCARRAY = ".docs"


def encode(
    model: Annotated[str, typer.Argument(help="Folder or Hub name of a model, or 'minilm'.")],
    corpus: Annotated[
        str,
        typer.Argument(
            help="BEIR folder, folder of text files, FILE.jsonl or .tsv (plain or .gz), ir_datasets:ID, hub:NAME, "
            "pydocs, NAME:PLACE of a registered data source, a .docs file of the original Hypencoder, or a folder that "
            "`hyperseek export` made."
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
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N documents.")] = None,
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
    device: Annotated[str | None, typer.Option(help="As in cuda:0; a GPU if there is one.")] = None,
) -> None:
    """Encode a corpus into an index; an interrupted run resumes without encoding anything twice."""
    from itertools import islice

    from hyperseek._config import apply_overrides
    from hyperseek.errors import InputError
    from hyperseek.index import is_token_files
    from hyperseek.models import load

    if chart is not None and engine is None:
        raise InputError("--chart sets the chart of an engine; also give --engine")
    if level is not None and engine is None:
        raise InputError("--level is that of an engine; also give --engine")
    if engine is not None:
        check_engine(engine, chart)  # before all documents are encoded, not after
    retriever = load(model, device=device)
    if corpus.endswith(_DOCARRAY) or is_token_files(corpus):
        given = {
            "--id-key": id_key,
            "--text-key": text_key,
            "--dtype": dtype != "auto",
            "--pooling": pooling,
            "--on-error": on_error == "skip",
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
        read = islice(dataset.documents(), limit)
        cost = estimate(read, retriever, storage=storage, dtype=dtype, pooling=pooled, done=done)
        echo(str(cost), err=True)
        made = Index.build(
            index,
            islice(dataset.documents(), limit),
            retriever,
            storage=storage,
            dtype=dtype,
            pooling=pooled,
            name=dataset.name,
            total=cost.documents,
            resume=resume,
            overwrite=overwrite,
        )
        for line in dataset.report.lines():
            echo(f"skipped: {line}", err=True)
    echo(f"{index}: {len(made):,} documents, {made.space}, fingerprint {made.info.fingerprint}", err=True)
    if engine is not None:
        build_engine(made, engine, chart=chart, level=level)


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
    from hyperseek.models.importers.docs import read_docs

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
