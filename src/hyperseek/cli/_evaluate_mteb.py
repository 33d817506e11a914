"""`hyperseek evaluate --mteb`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hyperseek.cli._echo import BackendOption, echo_json
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
        Path | None, typer.Option(help="Rerank what this TREC run, or JSON lines, give for the one collection.")
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
