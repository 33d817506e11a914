"""`hyperseek prepare`: training data, or a collection as a BEIR folder; hierarchies; and cards of tasks."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from hyperseek.cli._echo import echo, echo_json

if TYPE_CHECKING:
    from hyperseek.cards import Card
    from hyperseek.data import ErrorReport, PreparedInfo
    from hyperseek.models import Retriever

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


class PrepareCommand(TyperCommand):
    """`prepare`, with replacements for options of earlier versions."""

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


def prepare_hierarchy(
    edges: Annotated[
        Path,
        typer.Argument(
            help="Tab-separated file of children and parents, or a folder with edges.tsv and nodes.jsonl or "
            "corpus.jsonl; each may be .gz.",
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Argument(help="The folder to write.", show_default=False)],
    settings: Annotated[list[str] | None, typer.Argument(help="Settings, as in share=0.1.", show_default=False)] = None,
    nodes: Annotated[
        Path | None,
        typer.Option(help="Names (titles) and definitions (texts) of nodes: a corpus file.", show_default=False),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the collection.", show_default=False)] = None,
    on_error: OnError = "raise",
    overwrite: Overwrite = False,
    json_output: Json = False,
) -> None:
    """Write a hierarchy as training data with hops, as a collection of ancestors, and as the pairs of HiT.

    \b
    hyperseek prepare hierarchy edges.tsv animals --nodes nodes.jsonl --name animals
    hyperseek train recipe.yaml data.sources.animals.source=animals/train
    hyperseek evaluate INDEX animals/animals --split test --hierarchy animals/animals/edges.tsv.gz

    \b
    share               of leaves and pairs held out, twice (0.05)
    seed                of all draws (42)
    negatives           of a pair and of a training example (10)
    training_negatives  hard (siblings) or random
    itself              whether a node is its own nearest positive (false)
    queries             text (name and definition) or name
    entities            in HiT's files: name, text or id
    coarse              rules of coarse positives ([far])
    hit                 whether HiT's files are written (true)
    """  # noqa: D301 (the mark for lines as they are is the character itself)
    from hyperseek._config import apply_overrides
    from hyperseek.data import ErrorReport, HierarchyOptions
    from hyperseek.data import prepare_hierarchy as write

    options = HierarchyOptions.from_mapping(apply_overrides({}, settings or ()), source="the command line")
    info = write(edges, output, nodes=nodes, name=name, options=options, on_error=on_error, overwrite=overwrite)
    if json_output:
        echo_json(info.model_dump(mode="json"), indent=2)
    echo(
        f"{output}: {info.nodes:,} nodes, {info.edges:,} edges, {info.pairs:,} pairs of a node and an ancestor, "
        f"{info.roots:,} roots, {info.deepest} edges deep",
        err=True,
    )
    echo(f"  {output / 'train'}: {info.examples:,} examples", err=True)
    asked = ", ".join(f"{count:,} queries in {split}" for split, count in info.queries.items())
    echo(f"  {output / info.name}: {asked}", err=True)
    for task, counts in info.hit.items():
        pairs = ", ".join(f"{count:,} pairs in {split}" for split, count in counts.items())
        echo(f"  {output / 'hit' / task}-random, -hard: {pairs}", err=True)
    echo_dropped(ErrorReport.from_dict(info.dropped))


def prepare_card(
    source: Annotated[
        str,
        typer.Argument(
            help="What to draft from: a BEIR folder, pydocs, ir_datasets:ID, hub:NAME or another data source, with "
            ":SPLIT after it (train if not given; never a test). With --check or --compare, a card's file.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The card to write, .yaml or .json.", show_default=False)
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Check a card instead; exit code 1 if it is wrong.")] = False,
    against: Annotated[
        list[str] | None,
        typer.Option(help="Evaluation whose queries and answers the card must not hold, as in scifact:test."),
    ] = None,
    compare: Annotated[
        Path | None, typer.Option(help="Compare a card with this one instead.", show_default=False)
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="For --check, tells which parts are too long for it; for --compare, gives cosines."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="The card's name; that of the collection if not given.")] = None,
    queries: Annotated[int, typer.Option(help="Example queries.")] = 20,
    documents: Annotated[int, typer.Option(help="Example documents.")] = 10,
    judged: Annotated[int, typer.Option(help="Judged pairs.")] = 0,
    characters: Annotated[int, typer.Option(help="Longest example document; longer ones end before.")] = 600,
    seed: Annotated[int, typer.Option(help="Of the sample that examples are chosen from.")] = 0,
    device: Annotated[str | None, typer.Option(help="For the model, as in cuda:0; a GPU if there is one.")] = None,
    overwrite: Overwrite = False,
    json_output: Json = False,
) -> None:
    """Draft the card of a task, check one, or compare two.

    \b
    hyperseek prepare card medquad --output medquad.yaml
    hyperseek prepare card medquad.yaml --check --against medquad:test --model minilm
    hyperseek prepare card medquad.yaml --compare scifact.yaml --model minilm

    A draft is printed if no output is given. What it does not know begins with TODO, and the check reports that.
    """  # noqa: D301 (click's mark for unwrapped lines is the character itself)
    from hyperseek.cards import read_card
    from hyperseek.data import draft_card
    from hyperseek.errors import InputError

    if check and compare is not None:
        raise InputError("--check and --compare are two things; give one of them")
    if not check and (against or (model is not None and compare is None)):
        raise InputError("--against is for --check, and --model for --check or --compare; give one of these too")
    if (check or compare is not None) and output is not None:
        raise InputError("--output is for a draft; leave it out with --check and --compare")
    if check:
        _check(read_card(source), against or [], _loaded(model, device), json_output)
    elif compare is not None:
        _compare(read_card(source), read_card(compare), _loaded(model, device), json_output)
    else:
        if output is not None and output.exists() and not overwrite:
            raise InputError(f"{output} exists; name another file, or replace it with --overwrite")
        card = draft_card(
            source, name=name, queries=queries, documents=documents, judged=judged, characters=characters, seed=seed
        )
        if output is not None:
            card.write(output)
        if output is None or json_output:
            echo_json(card.to_mapping(), indent=2)
        _echo_draft(card, output)


def _echo_draft(card: Card, output: Path | None) -> None:
    from hyperseek.data import check_card

    echo(
        f"{output or card.name}: {len(card.query_examples)} example queries, {len(card.doc_examples)} example "
        f"documents, {len(card.judged)} judged pairs",
        err=True,
    )
    for found in check_card(card):
        echo(f"  {found.place} {found.message}", err=True)


def _check(card: Card, against: list[str], model: Retriever | None, json_output: bool) -> None:
    from hyperseek.data import check_card

    findings = check_card(card, against=against, model=model)
    if json_output:
        echo_json([one.model_dump(mode="json") for one in findings], indent=2)
    else:
        for one in findings:
            echo(f"{'wrong' if one.wrong else 'advice'}: {one.place} {one.message}")
        if not findings:
            echo(f"{card.name}: nothing to mend")
    if any(one.wrong for one in findings):
        raise typer.Exit(1)


def _compare(first: Card, second: Card, model: Retriever | None, json_output: bool) -> None:
    from hyperseek.data import compare_cards

    found = compare_cards(first, second, model=model)
    if json_output:
        echo_json(found.model_dump(mode="json"), indent=2)
        return
    if found.same:
        echo("the cards differ in their names at most")
    for what, shared, overlap in (
        ("queries", found.shared_queries, found.query_overlap),
        ("documents", found.shared_documents, found.document_overlap),
    ):
        echo(f"{len(shared)} shared example {what}, {overlap:.0%} of all")
    for what, cosine in found.cosines.items():
        echo(f"cosine of {what}: {cosine:.3f}")


def _loaded(name: str | None, device: str | None) -> Retriever | None:
    from hyperseek.models import load

    return None if name is None else load(name, device=device)
