"""`hyperseek prepare`: training data, or a collection as a BEIR folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from hyperseek.data import ErrorReport

_QRELS, _HYPENCODER, _COLUMNS = "Sources with judgements", "Sources hypencoder:FILE", "Sources columns:FILE"


def prepare(
    out: Annotated[Path, typer.Argument(help="The folder to write.", show_default=False)],
    sources: Annotated[
        list[str],
        typer.Argument(
            help="What to learn from: a BEIR folder, pydocs, ir_datasets:ID or hub:NAME, each with :SPLIT after it "
            "(train if not said); hypencoder:FILE.jsonl; columns:FILE.jsonl or columns:hub:NAME. NAME= before any "
            "of them sets its name.",
            show_default=False,
        ),
    ],
    beir: Annotated[bool, typer.Option("--beir", help="Write one collection as a BEIR folder instead.")] = False,
    on_error: Annotated[
        Literal["raise", "skip"], typer.Option(help="At a bad record: stop, or leave it out and count it.")
    ] = "raise",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what an earlier run wrote.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print the report as JSON on standard output.")] = False,
    task: Annotated[str | None, typer.Option(help="Task of examples that name none.")] = None,
    instruction: Annotated[str | None, typer.Option(help="Instruction of examples that have none.")] = None,
    minimum_grade: Annotated[int, typer.Option(help="Lowest grade of a positive.", rich_help_panel=_QRELS)] = 1,
    maximum_positives: Annotated[
        int | None, typer.Option(help="Positives kept for a query, highest grades first.", rich_help_panel=_QRELS)
    ] = None,
    judged_negatives: Annotated[
        bool, typer.Option(help="Documents judged 0 become negatives.", rich_help_panel=_QRELS)
    ] = True,
    drop_documents: Annotated[
        Path | None,
        typer.Option(help="File of ids that must not appear, one ID or NAME/ID a line.", rich_help_panel=_QRELS),
    ] = None,
    positive_filter: Annotated[
        Literal["first", "type", "score_above"],
        typer.Option(help="Which items are positives.", rich_help_panel=_HYPENCODER),
    ] = "first",
    positive_type: Annotated[
        str | None, typer.Option(help="Type of positives, for 'type'.", rich_help_panel=_HYPENCODER)
    ] = None,
    score_threshold: Annotated[float, typer.Option(help="For 'score_above'.", rich_help_panel=_HYPENCODER)] = 0.0,
    score_key: Annotated[
        str, typer.Option(help="Key of the teacher's score; '' reads none.", rich_help_panel=_HYPENCODER)
    ] = "score",
    query_column: Annotated[
        str | None, typer.Option(help="Column of the query; found if not said.", rich_help_panel=_COLUMNS)
    ] = None,
    positive_column: Annotated[
        str | None, typer.Option(help="Column of positives; found if not said.", rich_help_panel=_COLUMNS)
    ] = None,
    negative_column: Annotated[
        list[str] | None, typer.Option(help="Column of negatives; may be repeated.", rich_help_panel=_COLUMNS)
    ] = None,
    score_column: Annotated[
        str | None, typer.Option(help="Column of teacher scores.", rich_help_panel=_COLUMNS)
    ] = None,
) -> None:
    """Write training data from one or several sources, and report what was dropped and why.

    Good first values: `hyperseek prepare training pydocs:train`, and `hyperseek prepare --beir pydocs-beir pydocs`.
    """
    from hyperseek.data import PrepareOptions
    from hyperseek.data import prepare as write_training

    if beir:
        _write_collection(out, sources, on_error, overwrite, json_output)
        return
    values = {
        "qrels": {
            "minimum_grade": minimum_grade,
            "maximum_positives": maximum_positives,
            "judged_negatives": judged_negatives,
            "drop_documents": _listed(drop_documents),
        },
        "hypencoder": {
            "positive_filter": positive_filter,
            "positive_type": positive_type,
            "score_threshold": score_threshold,
            "score_key": score_key or None,
        },
        "columns": {
            "query": query_column,
            "positive": positive_column,
            "negatives": negative_column or (),
            "score": score_column,
        },
        "task": task,
        "instruction": instruction,
    }
    options = PrepareOptions.from_mapping(values, source="the command line")
    info = write_training(out, sources, options=options, on_error=on_error, overwrite=overwrite)
    if json_output:
        typer.echo(info.model_dump_json(indent=2))
    typer.echo(
        f"{out}: {info.examples:,} examples, {info.documents:,} documents, {info.positives:,} positives, "
        f"{info.negatives:,} negatives, {info.scored:,} teacher scores; fingerprint {info.fingerprint}",
        err=True,
    )
    for source in info.sources:
        typer.echo(f"  {source.name}: {source.examples:,} examples of {source.source}", err=True)
    _echo_dropped(info.dropped)


def _write_collection(
    out: Path, sources: list[str], on_error: Literal["raise", "skip"], overwrite: bool, json_output: bool
) -> None:
    import json

    from hyperseek._errors import InputError
    from hyperseek.data import open_dataset, write_beir

    if len(sources) != 1:
        raise InputError(f"--beir writes one collection, got {len(sources)}: {sources}")
    dataset = open_dataset(sources[0], on_error=on_error)
    write_beir(dataset, out, overwrite=overwrite)
    counts = {split: len(dataset.qrels(split)) for split in dataset.splits}
    report = dataset.report
    if json_output:
        values = {
            "name": dataset.name,
            "fingerprint": dataset.fingerprint(),
            "documents": dataset.count(),
            "queries": counts,
            "dropped": report.to_dict(),
        }
        typer.echo(json.dumps(values, indent=2, ensure_ascii=False))
    judged = ", ".join(f"{count:,} queries in {split}" for split, count in counts.items()) or "no queries"
    typer.echo(f"{out}: {dataset.count():,} documents, {judged}; fingerprint {dataset.fingerprint()}", err=True)
    _echo_dropped(report)


def _echo_dropped(report: ErrorReport) -> None:
    if report:
        typer.echo(f"  left out {report.total:,}:", err=True)
    for line in report.lines():
        typer.echo(f"    {line}", err=True)


def _listed(path: Path | None) -> list[str]:
    if path is None:
        return []
    from hyperseek.data import read_id_list

    return read_id_list(path)
