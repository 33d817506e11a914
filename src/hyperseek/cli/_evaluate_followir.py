"""`hyperseek evaluate --followir`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from hyperseek.cli._echo import BackendOption, echo_json
from hyperseek.cli._evaluate_rankings import OWN, candidates_of, short_names
from hyperseek.cli._search import CardOption, Options, query_options


def evaluate_followir(
    index: Annotated[Path, typer.Argument(help="Index of the data set's documents.")],
    dataset: Annotated[
        str,
        typer.Argument(help="followir:core17, followir:FOLDER#core17, or queries in two versions: -og, -changed."),
    ],
    model: Annotated[
        list[str] | None, typer.Option(help="Search with this model instead of the index's own; repeat.")
    ] = None,
    candidates: Annotated[
        str, typer.Option(help="Rerank the data set's own lists, those of a file, or with all, search all documents.")
    ] = OWN,
    card: CardOption = None,
    option: Options = None,
    card_field: Annotated[
        str | None,
        typer.Option(help="Ask with a card that this field describes: instruction, of followir:SET+plain."),
    ] = None,
    bm25: Annotated[bool, typer.Option("--bm25", help="Add BM25.")] = False,
    measures: Annotated[
        list[str] | None, typer.Option("--measures", "-m", help="By default AP@1000 and nDCG@5.")
    ] = None,
    k: Annotated[int, typer.Option("-k", "--top-k", min=1, help="Documents per query.")] = 1000,
    backend: BackendOption = None,
    output: Annotated[Path | None, typer.Option(help="File for the results as JSON.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Write everything as JSON to standard output.")] = False,
) -> None:
    """Measure whether systems follow instructions: both versions of each query, and p-MRR between them."""
    from rich.console import Console

    from hyperseek._files import write_json
    from hyperseek.data import open_dataset
    from hyperseek.evaluation import measure_instructions, rank_bm25, rank_index
    from hyperseek.index import Index
    from hyperseek.models import load

    opened = open_dataset(dataset)
    qrels = opened.qrels("test")
    how: dict[str, Any] = {"k": k}
    if candidates != "all":
        how["candidates"] = candidates_of(opened, candidates)
    asked: dict[str, Any] = {"options": query_options(option, card), "card_field": card_field}
    systems: list[Any] = []
    if model:
        for name, source in short_names(model):
            searched = Index.open(index, model=load(source, backend=backend))
            systems.append(partial(rank_index, searched, opened, name=name, **asked, **how))
    else:
        systems.append(partial(rank_index, Index.open(index, backend=backend), opened, **asked, **how))
    if bm25:
        systems.append(partial(rank_bm25, opened, **how))
    given: dict[str, Any] = {} if not measures else {"measures": [one for item in measures for one in item.split()]}
    results = [measure_instructions(system(), qrels, **given) for system in systems]
    console = Console(stderr=json)
    for result in results:
        console.print(result)
    described = [result.model_dump(mode="json") for result in results]
    if output is not None:
        write_json(output, described)
    if json:
        echo_json(described, indent=2)
