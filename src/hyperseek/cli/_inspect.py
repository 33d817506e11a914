"""`hyperseek inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hyperseek.cli._echo import echo

inspect = typer.Typer(
    help="What an index holds, what its engines find and cost, and the shape of its space.", no_args_is_help=True
)


@inspect.command("index")
def index_(
    index: Annotated[Path, typer.Argument(help="Folder that `hyperseek encode` made.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare every byte with the checksums noted when it was written.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="As JSON, on standard output.")] = False,
) -> None:
    """Show what an index holds: documents, space, model, metadata fields, engines, and tuned plans."""
    from hyperseek.cli._describe import describe_index, print_description
    from hyperseek.index import Index

    print_description(describe_index(Index.open(index, verify=verify)), as_json=json)
    if verify:
        echo("every file holds what was written", err=True)


@inspect.command("recall")
def recall(
    index: Annotated[Path, typer.Argument(help="Folder that `hyperseek encode` made, with an engine or a graph.")],
    queries: Annotated[Path, typer.Option("--queries", "-Q", help="File of queries: JSONL or TSV, plain or .gz.")],
    k: Annotated[int, typer.Option("-k", "--top-k", min=1, help="Documents a query.")] = 10,
    target: Annotated[float, typer.Option(help="Recall of the exhaustive top k that is enough, in (0, 1].")] = 0.99,
    model: Annotated[
        str | None, typer.Option(help="Compile queries with this model instead of the index' own.")
    ] = None,
    engine: Annotated[str | None, typer.Option(help="Measure this engine or graph alone.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most queries, the first of the file.")] = 100,
    save: Annotated[bool, typer.Option(help="Keep the cheapest plan that finds enough in the index.")] = True,
    json: Annotated[bool, typer.Option("--json", help="Write everything as JSON to standard output.")] = False,
    device: Annotated[str | None, typer.Option(help="As in cuda:0; a GPU if there is one.")] = None,
) -> None:
    """Measure recall and latency of engine settings against exhaustive search, and keep the cheapest good one."""
    from itertools import islice

    from hyperseek.cli._describe import print_tuning
    from hyperseek.data import read_queries
    from hyperseek.index import Index
    from hyperseek.models import load

    opened = Index.open(index, model=None if model is None else load(model, device=device), device=device)
    texts = [query.text for query in islice(read_queries(queries), limit)]
    tuning = opened.tune(texts, k=k, recall=target, engine=engine, save=save)
    print_tuning(tuning, saved=save, as_json=json)


@inspect.command("space")
def space(
    index: Annotated[Path, typer.Argument(help="Folder that `hyperseek encode` made.")],
    by: Annotated[
        str | None,
        typer.Option(help="Specificity: a metadata field of numbers, or depth or length. Default: depth, else length."),
    ] = None,
    hierarchy: Annotated[
        str | None, typer.Option(help="TSV file of child and parent ids, or the metadata field that names parents.")
    ] = None,
    sample: Annotated[int, typer.Option(min=4, help="Most points of the neighbour graph and the pictures.")] = 5000,
    neighbours: Annotated[int, typer.Option(min=1, help="Nearest neighbours each is joined with.")] = 10,
    edges: Annotated[int, typer.Option(min=1, help="Most edges whose curvature is measured.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of all samples.")] = 0,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder for pictures and space.json.")] = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON, on standard output.")] = False,
) -> None:
    """Look at the space: radius by specificity, Gromov's delta, Ollivier-Ricci curvature, a picture of the disk."""
    from hyperseek.analysis import inspect_space
    from hyperseek.cli._describe import print_space
    from hyperseek.index import Index

    report = inspect_space(
        Index.open(index),
        by=by,
        hierarchy=hierarchy,
        sample=sample,
        neighbours=neighbours,
        edges=edges,
        seed=seed,
        output=output,
    )
    print_space(report, as_json=json)
