"""`hyperseek prepare`: training data, or a collection as a BEIR folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hyperseek.cli._echo import echo, echo_json

if TYPE_CHECKING:
    from hyperseek.data import ErrorReport, PreparedInfo
    from hyperseek.mining import MiningOptions, Teacher
    from hyperseek.types import Qrels

_MINING, _FILTERS = "Mining hard negatives", "Filtering"
_TEACHER_MARGIN = 0.95
_QRELS, _HYPENCODER, _COLUMNS = "Sources with judgements", "Sources hypencoder:FILE", "Sources columns:FILE"


def prepare(
    out: Annotated[Path, typer.Argument(help="The folder to write.", show_default=False)],
    sources: Annotated[
        list[str],
        typer.Argument(
            help="What to learn from: a BEIR folder, pydocs, ir_datasets:ID or hub:NAME, each with :SPLIT after it "
            "(train if not said); hypencoder:FILE.jsonl; columns:FILE.jsonl or columns:hub:NAME. NAME= before any "
            "of them sets its name. Or one prepared folder, to be mined or filtered.",
            show_default=False,
        ),
    ],
    beir: Annotated[bool, typer.Option("--beir", help="Write one collection as a BEIR folder instead.")] = False,
    on_error: Annotated[
        Literal["raise", "skip"], typer.Option(help="At a bad record: stop, or leave it out and count it.")
    ] = "raise",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what an earlier run wrote.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print the report as JSON on standard output.")] = False,
    mine: Annotated[
        list[str] | None,
        typer.Option(
            help="Index to mine, NAME=INDEX if it holds another collection than its name says, or a model that "
            "encodes the collections first. May be repeated.",
            rich_help_panel=_MINING,
        ),
    ] = None,
    negatives: Annotated[
        int,
        typer.Option(min=0, help="To mine for each query; 0 for filtering alone.", rich_help_panel=_MINING),
    ] = 7,
    depth: Annotated[int, typer.Option(min=1, help="Candidates to look at.", rich_help_panel=_MINING)] = 100,
    skip_top: Annotated[int, typer.Option(min=0, help="First candidates not to take.", rich_help_panel=_MINING)] = 0,
    margin: Annotated[
        float,
        typer.Option(
            min=0,
            help="Drop what scores above this share of the lowest positive's score; 0.9 to 0.98 are usual, 0 for none.",
            rich_help_panel=_MINING,
        ),
    ] = 0.95,
    max_score: Annotated[float | None, typer.Option(help="Drop what scores higher.", rich_help_panel=_MINING)] = None,
    min_score: Annotated[float | None, typer.Option(help="Drop what scores lower.", rich_help_panel=_MINING)] = None,
    sampling: Annotated[
        Literal["top", "random"], typer.Option(help="Take the best candidates, or draw.", rich_help_panel=_MINING)
    ] = "top",
    seed: Annotated[int, typer.Option(min=0, help="Of every draw.", rich_help_panel=_MINING)] = 0,
    keep_negatives: Annotated[
        bool, typer.Option(help="Keep the negatives that are there already.", rich_help_panel=_MINING)
    ] = True,
    engine: Annotated[
        str, typer.Option(help="auto, exact, or the name of an engine of the index.", rich_help_panel=_MINING)
    ] = "auto",
    plan: Annotated[
        Path | None, typer.Option(help="YAML file of stages that find candidates, as BM25.", rich_help_panel=_MINING)
    ] = None,
    exclude_relevant: Annotated[
        list[str] | None,
        typer.Option(
            help="Further judgements of the collection NAME, NAME=FILE: what is relevant there is no negative.",
            rich_help_panel=_MINING,
        ),
    ] = None,
    consistent_top: Annotated[
        int | None,
        typer.Option(
            min=1, help="Keep a positive only if it is among the first so many of its query.", rich_help_panel=_FILTERS
        ),
    ] = None,
    consistent_pool: Annotated[
        int | None,
        typer.Option(min=1, help="... among so many drawn documents, not all.", rich_help_panel=_FILTERS),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            help="Cross-encoder or retriever that scores positives and negatives and drops false negatives.",
            rich_help_panel=_FILTERS,
        ),
    ] = None,
    teacher_margin: Annotated[
        float, typer.Option(min=0, help="As --margin, of the teacher's scores.", rich_help_panel=_FILTERS)
    ] = _TEACHER_MARGIN,
    teacher_max_score: Annotated[
        float | None, typer.Option(help="Drop what the teacher scores higher.", rich_help_panel=_FILTERS)
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="For models, as in cuda:0; a GPU if there is one.", rich_help_panel=_FILTERS)
    ] = None,
    task: Annotated[str | None, typer.Option(help="Task of examples that name none.")] = None,
    instruction: Annotated[str | None, typer.Option(help="Instruction of examples that have none.")] = None,
    minimum_grade: Annotated[int, typer.Option(help="Lowest grade of a positive.", rich_help_panel=_QRELS)] = 1,
    maximum_positives: Annotated[
        int | None, typer.Option(help="Positives kept for a query, highest grades first.", rich_help_panel=_QRELS)
    ] = None,
    judged_negatives: Annotated[
        bool, typer.Option(help="Documents judged 0 become negatives.", rich_help_panel=_QRELS)
    ] = True,
    exclude_same_id: Annotated[
        bool,
        typer.Option(
            "--exclude-same-id",
            help="Documents are queries, as in ArguAna: the one with the query's id is none of its own.",
            rich_help_panel=_QRELS,
        ),
    ] = False,
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

    Good first values: `hyperseek prepare training pydocs:train`, `hyperseek prepare mined training --mine INDEX`, and
    `hyperseek prepare --beir pydocs-beir pydocs`.
    """
    from hyperseek._config import read_yaml
    from hyperseek.data import PrepareOptions
    from hyperseek.data import prepare as write_training
    from hyperseek.errors import InputError
    from hyperseek.mining import ConsistencyOptions, MiningOptions, RefineOptions, TeacherOptions

    if beir:
        if mine or teacher:
            raise InputError("--beir copies a collection as it is; --mine and --teacher go with training data")
        _write_collection(out, sources, on_error, overwrite, json_output)
        return
    values = {
        "qrels": {
            "minimum_grade": minimum_grade,
            "maximum_positives": maximum_positives,
            "judged_negatives": judged_negatives,
            "drop_documents": _listed(drop_documents),
            "exclude_same_id": exclude_same_id,
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
    mining = MiningOptions.from_mapping(
        {
            "negatives": negatives or 1,
            "depth": depth,
            "skip_top": skip_top,
            "margin": margin or None,
            "max_score": max_score,
            "min_score": min_score,
            "sampling": sampling,
            "seed": seed,
            "keep_negatives": keep_negatives,
            "engine": engine,
            "plan": None if plan is None else read_yaml(plan),
        },
        source="the command line",
    )
    consistency = {"top": consistent_top, "pool": consistent_pool, "seed": seed, "engine": engine}
    _check_used(mine, teacher, mining, negatives, consistent_top, consistent_pool, teacher_margin, teacher_max_score)
    refining = RefineOptions(
        mining=mining if mine and negatives else None,
        consistency=ConsistencyOptions.from_mapping(consistency) if consistent_top else None,
        teacher=TeacherOptions(margin=teacher_margin or None, max_score=teacher_max_score) if teacher else None,
    )
    info = write_training(
        out,
        sources,
        options=None if options == PrepareOptions() else options,
        mine=mine,
        refining=None if refining == RefineOptions() else refining,
        teacher=None if teacher is None else _load_teacher(teacher, device),
        judged=_judged(exclude_relevant) if exclude_relevant else None,
        device=device,
        on_error=on_error,
        overwrite=overwrite,
    )
    if json_output:
        echo_json(info.model_dump(mode="json"), indent=2)
    _echo_report(out, info)


def _check_used(
    mine: list[str] | None,
    teacher: str | None,
    mining: MiningOptions,
    negatives: int,
    consistent_top: int | None,
    consistent_pool: int | None,
    teacher_margin: float,
    teacher_max_score: float | None,
) -> None:
    """Refuse options that nothing would read."""
    from hyperseek.errors import InputError

    if not mine:
        changed = sorted(mining.model_dump(exclude_defaults=True)) + ([] if negatives else ["negatives"])
        if "seed" in changed and consistent_top:
            changed.remove("seed")
        if changed:
            raise InputError(f"--{changed[0].replace('_', '-')} is about mining; say where to mine with --mine")
    elif not negatives and not consistent_top:
        raise InputError("--negatives 0 mines nothing; with --mine it goes with --consistent-top")
    if consistent_pool is not None and consistent_top is None:
        raise InputError("--consistent-pool goes with --consistent-top")
    if teacher is None and (teacher_max_score is not None or teacher_margin != _TEACHER_MARGIN):
        raise InputError("--teacher-margin and --teacher-max-score go with --teacher")


def _load_teacher(name: str, device: str | None) -> Teacher:
    from hyperseek.mining import load_teacher

    return load_teacher(name, device=device)


def _judged(named: list[str]) -> dict[str, Qrels]:
    from hyperseek.data import read_qrels
    from hyperseek.errors import InputError

    judged: dict[str, Qrels] = {}
    for text in named:
        name, equals, path = text.partition("=")
        if not equals:
            raise InputError(f"--exclude-relevant {text!r} must name its collection, as in NAME={text}")
        for query_id, own in read_qrels(path).items():
            judged.setdefault(name, {}).setdefault(query_id, {}).update(own)
    return judged


def _echo_report(out: Path, info: PreparedInfo) -> None:
    echo(
        f"{out}: {info.examples:,} examples, {info.documents:,} documents, {info.positives:,} positives, "
        f"{info.negatives:,} negatives, {info.scored:,} teacher scores; fingerprint {info.fingerprint}",
        err=True,
    )
    for source in info.sources:
        echo(f"  {source.name}: {source.examples:,} examples of {source.source}", err=True)
    for refined in info.refined:
        searched = ", ".join(f"{corpus.documents:,} documents of {corpus.name}" for corpus in refined.corpora)
        if searched:
            echo(f"  searched {searched}", err=True)
        if refined.mined or refined.short:
            echo(f"  {refined.mined:,} negatives mined; {refined.short:,} examples got fewer", err=True)
    _echo_dropped(info.dropped)


def _write_collection(
    out: Path, sources: list[str], on_error: Literal["raise", "skip"], overwrite: bool, json_output: bool
) -> None:

    from hyperseek.data import open_dataset, write_beir
    from hyperseek.errors import InputError

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
        echo_json(values, indent=2)
    judged = ", ".join(f"{count:,} queries in {split}" for split, count in counts.items()) or "no queries"
    echo(f"{out}: {dataset.count():,} documents, {judged}; fingerprint {dataset.fingerprint()}", err=True)
    _echo_dropped(report)


def _echo_dropped(report: ErrorReport) -> None:
    if report:
        echo(f"  left out {report.total:,}:", err=True)
    for line in report.lines():
        echo(f"    {line}", err=True)


def _listed(path: Path | None) -> list[str]:
    if path is None:
        return []
    from hyperseek.data import read_id_list

    return read_id_list(path)
