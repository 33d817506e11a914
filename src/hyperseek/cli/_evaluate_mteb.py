"""`hyperseek evaluate --mteb` and `--followir`: benchmarks with rules of their own."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from hyperseek.cli._echo import BackendOption, echo_json
from hyperseek.cli._evaluate_rankings import short_names
from hyperseek.cli._search import CardOption, Options, query_options


def evaluate_mteb(
    model: Annotated[str, typer.Argument(help="Model folder, or a name.")],
    tasks: Annotated[
        list[str],
        typer.Argument(
            help="Benchmarks ('MTEB(eng, v2)'), tasks (SciFact), or collections: local:SOURCE, local:SOURCE:SPLIT, a "
            "folder."
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder of the results; finished tasks in it are not run again.")],
    split: Annotated[
        list[str] | None, typer.Option(help="Evaluate this split; by default those of each task; repeat.")
    ] = None,
    language: Annotated[
        list[str] | None, typer.Option(help="Of tasks in several languages, this one, as in eng; repeat.")
    ] = None,
    scoring: Annotated[
        str | None,
        typer.Option(
            help="What compares texts in tasks without queries: geodesic, squared or inner, which rank alike; by "
            "default the cosine of vectors."
        ),
    ] = None,
    card: CardOption = None,
    option: Options = None,
    card_field: Annotated[
        str | None,
        typer.Option(help="Ask each query with a card of its own, which this column describes, as in instruction."),
    ] = None,
    query_length: Annotated[int | None, typer.Option(min=1, help="Tokens of a query that the model reads.")] = None,
    candidates: Annotated[
        Path | None,
        typer.Option(
            help="Rerank what this TREC run, or JSON lines, or own, its own lists, give for the one collection."
        ),
    ] = None,
    exclude_same_id: Annotated[
        bool, typer.Option("--exclude-same-id", help="In collections, exclude the document with the query's id.")
    ] = False,
    name: Annotated[str | None, typer.Option(help="Name of the model in the results, as in ours/lorentz.")] = None,
    dtype: Annotated[str, typer.Option(help="Number type of encoding: auto, float32, bfloat16, float16.")] = "auto",
    device: Annotated[str | None, typer.Option(help="As in cuda:0; a GPU if there is one.")] = None,
    backend: BackendOption = None,
    predictions: Annotated[bool, typer.Option("--predictions", help="Keep the rankings, too, as mteb does.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Run finished tasks again.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Write the summary as JSON to standard output.")] = False,
) -> None:
    """Run mteb's benchmarks and tasks, or collections of yours, in mteb's own runner."""
    import sys
    import warnings

    from rich.console import Console

    from hyperseek.errors import DataError
    from hyperseek.evaluation import evaluate_mteb as measure
    from hyperseek.evaluation import mteb_tasks
    from hyperseek.models import load
    from hyperseek.models.loading import set_query_length

    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # mteb's and its packages' own, of which there are many
    chosen = mteb_tasks(tasks, splits=split, languages=language, candidates=candidates, exclude_same_id=exclude_same_id)
    retriever = load(model, device=device, backend=backend)
    if query_length is not None:
        set_query_length(retriever, query_length)
    summary = measure(
        retriever,
        chosen,
        output=output,
        name=name,
        options=query_options(option, card),
        scoring=scoring,
        card_field=card_field,
        dtype=dtype,
        predictions=predictions,
        overwrite=overwrite,
    )
    Console(stderr=json).print(summary)
    if json:
        echo_json(summary.model_dump(mode="json"), indent=2)
    if summary.failed:
        told = "\n".join(f"  {task}: {reason}" for task, reason in summary.failed.items())
        raise DataError(
            f"{len(summary.failed)} of {len(chosen)} tasks failed; the same command runs them again:\n{told}"
        )


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
    ] = "own",
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
    from hyperseek.evaluation.candidates import candidates_of
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
