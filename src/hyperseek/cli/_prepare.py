"""`hyperseek prepare`: training data, or a collection as a BEIR folder."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from hyperseek.cli._echo import echo, echo_json

if TYPE_CHECKING:
    from hyperseek.data import ErrorReport, PreparedInfo

OnError = Annotated[Literal["raise", "skip"], typer.Option(help="On an invalid record: stop, or skip and count it.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output of an earlier run.")]
Json = Annotated[bool, typer.Option("--json", help="Print the report as JSON on standard output.")]

_MINE = "hyperseek mine PREPARED FOLDER INDEX"
# Options of earlier versions, and what replaces them.
_FORMER = {
    "--mine": _MINE,
    "--exclude-relevant": f"{_MINE} --exclude-relevant NAME=FILE",
    "--teacher": "hyperseek mine PREPARED FOLDER --teacher MODEL",
    "--device": f"{_MINE} --device DEVICE",
    "--no-keep-negatives": f"{_MINE} mining.keep_negatives=false",
    **{
        f"--{name}": f"{_MINE} mining.{name.replace('-', '_')}=VALUE"
        for name in (
            *("negatives", "depth", "skip-top", "margin", "max-score", "min-score"),
            *("sampling", "seed", "keep-negatives", "engine", "plan"),
        )
    },
    **{f"--consistent-{name}": f"{_MINE} consistency.{name}=VALUE" for name in ("top", "pool")},
    **{
        f"--teacher-{name}": f"hyperseek mine PREPARED FOLDER --teacher MODEL teacher.{name.replace('-', '_')}=VALUE"
        for name in ("margin", "max-score")
    },
    "--task": "task=NAME",
    "--instruction": "instruction=TEXT",
    "--minimum-grade": "qrels.minimum_grade=VALUE",
    "--maximum-positives": "qrels.maximum_positives=VALUE",
    "--judged-negatives": "qrels.judged_negatives=true",
    "--no-judged-negatives": "qrels.judged_negatives=false",
    "--exclude-same-id": "qrels.exclude_same_id=true",
    "--drop-documents": "qrels.drop_documents=FILE",
    "--positive-filter": "hypencoder.positive_filter=VALUE",
    "--positive-type": "hypencoder.positive_type=VALUE",
    "--score-threshold": "hypencoder.score_threshold=VALUE",
    "--score-key": "hypencoder.score_key=KEY",
    "--query-column": "columns.query=COLUMN",
    "--positive-column": "columns.positive=COLUMN",
    "--negative-column": "columns.negatives=[COLUMN, ...]",
    "--score-column": "columns.score=COLUMN",
}


class Command(TyperCommand):
    """The verb, with replacements for options of earlier versions."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; an InputError names the replacement of an option of earlier versions."""
        from hyperseek.errors import InputError

        for argument in args:
            option = argument.partition("=")[0]
            if option in _FORMER:
                raise InputError(f"{option} is no longer an option of `hyperseek prepare`; use {_FORMER[option]}")
        return super().parse_args(ctx, args)


def prepare(
    out: Annotated[Path, typer.Argument(help="The folder to write.", show_default=False)],
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            help="What to learn from: a BEIR folder, pydocs, ir_datasets:ID, hub:NAME or another data source, each "
            "with :SPLIT after it (train if not given); hypencoder:TABLE, columns:TABLE, reasonir:TABLE or kalm:TABLE, "
            "where a table is a .jsonl, .parquet or .arrow file, a folder of these, or hub:NAME. NAME= before any of "
            "them sets its name. Settings, section.field=value, go between or after them, as in "
            "qrels.maximum_positives=4.",
            show_default=False,
        ),
    ] = None,
    recipe: Annotated[Path | None, typer.Option(help="YAML file of sources and settings.")] = None,
    beir: Annotated[bool, typer.Option("--beir", help="Write one collection as a BEIR folder instead.")] = False,
    on_error: OnError = "raise",
    overwrite: Overwrite = False,
    json_output: Json = False,
) -> None:
    """Write training data from one or several sources, and report what was dropped and why.

    \b
    hyperseek prepare training pydocs:train
    hyperseek prepare training medquad:train qrels.maximum_positives=4
    hyperseek prepare --beir pydocs-beir pydocs

    Settings, beside task and instruction; `hyperseek mine` adds hard negatives:

    \b
    qrels       minimum_grade (1), maximum_positives, judged_negatives,
                exclude_same_id, drop_documents (ids, or a file of them)
    hypencoder  positive_filter (first, type or score_above), positive_type,
                score_threshold, score_key
    columns     query, positive, negatives, score, positive_scores,
                negative_scores
    reasonir    documents (a table: hub:xlangai/BRIGHT#documents, a file, a
                folder), positives (ids, texts or either)
    kalm        exclude (names of data sets), max_train_examples, seed
    coarse      rules (parent, path, far, title, first_sentence, shorter,
                truncated), coarse_max_chars (60)
    leaks       against (collections and their splits), action (report, drop
                or fail)
    """  # noqa: D301 (the mark for lines as they are is the character itself)
    from hyperseek._config import apply_overrides
    from hyperseek._recipe_files import recipe_values
    from hyperseek.data import prepare as write_training
    from hyperseek.data.preparing import PrepareRecipe

    named, settings = divided(sources or (), PrepareRecipe.model_fields)
    values = apply_overrides({}, settings) if recipe is None else recipe_values(recipe, settings)
    read = PrepareRecipe.from_mapping(values, source="the command line" if recipe is None else str(recipe))
    chosen = [*read.sources, *named]
    if beir:
        _write_collection(out, chosen, settings, on_error, overwrite, json_output)
        return
    info = write_training(out, chosen, options=read.options(), on_error=on_error, overwrite=overwrite)
    if json_output:
        echo_json(info.model_dump(mode="json"), indent=2)
    echo_prepared(out, info)


def divided(arguments: Sequence[str], fields: Iterable[str]) -> tuple[list[str], list[str]]:
    """Separate settings, `section.field=value`, from sources, which may begin with `NAME=`.

    Args:
        arguments: Both, in any order.
        fields: The names that settings begin with.

    Returns:
        The sources and the settings.
    """
    known = set(fields)
    sources: list[str] = []
    settings: list[str] = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        # A dotted name before something that is not a source is a misspelt setting, and is reported as such.
        misspelt = "." in key and ":" not in value and not os.path.exists(value)
        is_setting = bool(equals) and not os.path.exists(argument) and (key.split(".")[0] in known or misspelt)
        (settings if is_setting else sources).append(argument)
    return sources, settings


def echo_prepared(out: Path, info: PreparedInfo) -> None:
    """Report the content of a prepared folder, its sources, and what was left out."""
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
            echo(f"  {refined.mined:,} negatives mined; {refined.short:,} examples have fewer than requested", err=True)
    echo_dropped(info.dropped)
    for leak in info.leaks:
        echo(f"  {leak.line()}", err=True)


def _write_collection(
    out: Path,
    sources: list[str],
    settings: list[str],
    on_error: Literal["raise", "skip"],
    overwrite: bool,
    json_output: bool,
) -> None:
    from hyperseek.data import open_dataset, write_beir
    from hyperseek.errors import InputError

    if settings:
        raise InputError(f"--beir copies a collection as it is; leave out {settings[0]}")
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
    echo_dropped(report)


def echo_dropped(report: ErrorReport) -> None:
    """Report what was left out and why."""
    if report:
        echo(f"  left out {report.total:,}:", err=True)
    for line in report.lines():
        echo(f"    {line}", err=True)
