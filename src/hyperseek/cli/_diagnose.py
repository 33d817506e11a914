"""`hyperseek inspect queries`, `hyperseek inspect health` and `hyperseek inspect pool`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from hyperseek.cli._echo import echo, echo_json, result_console

_Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Folder for one self-contained HTML page and the same as JSON.")
]


def queries(
    dataset: Annotated[str, typer.Argument(help="Texts and judgements, as for evaluate.")],
    index: Annotated[
        list[Path] | None, typer.Option(help="Search this index of the data set's documents; repeat to compare.")
    ] = None,
    runs: Annotated[list[Path] | None, typer.Option(help="Read this TREC run; repeat to compare.")] = None,
    bm25: Annotated[bool, typer.Option("--bm25", help="Add BM25.")] = False,
    split: Annotated[str, typer.Option(help="Split of the judgements.")] = "test",
    measure: Annotated[str, typer.Option("--measure", "-m", help="What queries win and lose by.")] = "nDCG@10",
    baseline: Annotated[str | None, typer.Option(help="Ranking to compare with; by default the first.")] = None,
    k: Annotated[int, typer.Option("-k", "--top-k", min=1, help="Top ranks for overlaps and holes.")] = 10,
    depth: Annotated[int, typer.Option(min=1, help="Documents per query that indexes and BM25 rank.")] = 100,
    show: Annotated[int, typer.Option(min=0, help="Most wins, and most losses, to show.")] = 5,
    output: _Output = None,
    device: Annotated[str | None, typer.Option(help="As in cuda:0; a GPU if there is one.")] = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON, on standard output, with all queries.")] = False,
) -> None:
    """Compare systems query by query: wins, losses and what they share, bounds of fusion, unjudged hits, scores."""
    from hyperseek.analysis import inspect_queries
    from hyperseek.cli._evaluate_rankings import short_names
    from hyperseek.data import open_dataset
    from hyperseek.evaluation import rank_bm25, rank_file, rank_index
    from hyperseek.index import Index

    opened = open_dataset(dataset)
    qrels = opened.qrels(split)
    indexes = {name: Index.open(path, device=device) for name, path in short_names(index or [])}
    how: dict[str, Any] = {"split": split, "k": max(k, depth)}
    rankings = [rank_index(one, opened, name=name, **how) for name, one in indexes.items()]
    rankings += [rank_file(path, qrels, name=name) for name, path in short_names(runs or [])]
    rankings += [rank_bm25(opened, **how)] if bm25 else []
    report = inspect_queries(
        rankings,
        opened,
        split=split,
        measure=measure,
        baseline=baseline,
        k=k,
        show=show,
        indexes=indexes,
        output=output,
    )
    _show(report, json)


def health(
    index: Annotated[Path, typer.Argument(help="Folder that `hyperseek encode` made.")],
    dataset: Annotated[
        str | None, typer.Option(help="Queries with judgements: which top ranks hubs and duplicates take.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split of the judgements.")] = "test",
    k: Annotated[int, typer.Option("-k", "--top-k", min=1, help="Nearest documents, and top ranks.")] = 10,
    sample: Annotated[int, typer.Option(min=3, help="Most documents compared with each other by their points.")] = 2000,
    similar: Annotated[
        float, typer.Option(min=0.5, max=1, help="Share of common runs of five words of nearly equal texts.")
    ] = 0.8,
    seed: Annotated[int, typer.Option(help="Seed of the sample.")] = 0,
    output: _Output = None,
    device: Annotated[str | None, typer.Option(help="As in cuda:0; a GPU if there is one.")] = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON, on standard output.")] = False,
) -> None:
    """Look for hubs, unused directions, and equal and nearly equal documents in an index."""
    from hyperseek.analysis import inspect_health
    from hyperseek.data import open_dataset
    from hyperseek.index import Index

    report = inspect_health(
        Index.open(index, device=device),
        dataset=None if dataset is None else open_dataset(dataset),
        split=split,
        k=k,
        sample=sample,
        similar=similar,
        seed=seed,
        output=output,
    )
    _show(report, json)


def pool(
    files: Annotated[
        list[Path], typer.Argument(help="What people judged, one file for each: .jsonl or .csv; or judgements.")
    ],
    conflicts: Annotated[
        str, typer.Option(help="Where grades differ: leave-out, lowest, highest, or median, the lower of two.")
    ] = "leave-out",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File of judgements to write, .tsv.")] = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON, on standard output.")] = False,
) -> None:
    """Merge what people judged from pools of `evaluate --pool`, and show how far they agree."""
    from hyperseek.data import write_qrels
    from hyperseek.evaluation import merge_judgements

    merged = merge_judgements(files, conflicts=cast("Any", conflicts))
    if json:
        echo_json(merged.model_dump(mode="json"), indent=2)
    else:
        result_console().print(merged)
    if output is not None:
        write_qrels(merged.qrels, output)
        _name_files([output])


def _show(report: Any, as_json: bool) -> None:
    if as_json:
        echo_json(report.to_json(), indent=2)
    else:
        result_console().print(report)
    _name_files(report.files)


def _name_files(files: list[Path]) -> None:
    for path in files:
        echo(f"wrote {path}", err=True)
