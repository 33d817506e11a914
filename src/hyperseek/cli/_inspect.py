"""`hyperseek inspect`, and the printing of an index and its measurements."""

from __future__ import annotations

from collections.abc import Mapping
from math import degrees
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hyperseek.cli import _diagnose
from hyperseek.cli._echo import echo, echo_json, shown_text
from hyperseek.cli._search import CardOption, Options, query_options

if TYPE_CHECKING:
    from hyperseek.analysis import CardReport, LevelPath, LevelsReport, QueryChange, SpaceReport, SpecificityReport
    from hyperseek.data import LengthReport
    from hyperseek.index import Index, Tuning

_By = Annotated[
    str | None,
    typer.Option(help="Specificity: a metadata field of numbers, or depth or length. Default: depth, else length."),
]
_Hierarchy = Annotated[
    str | None, typer.Option(help="TSV file of child and parent ids, or the metadata field that names parents.")
]

inspect = typer.Typer(
    help="Show an index, its engines, space, levels and health, cards, lengths of texts, and systems query by query.",
    no_args_is_help=True,
)


@inspect.command("index")
def index_(
    index: Annotated[Path, typer.Argument(help="Folder that `hyperseek encode` made.")],
    verify: Annotated[bool, typer.Option("--verify", help="Verify every file against its checksum.")] = False,
    json: Annotated[bool, typer.Option("--json", help="As JSON, on standard output.")] = False,
) -> None:
    """Show the contents of an index: documents, space, model, metadata fields, engines, and tuned plans."""
    from hyperseek.index import Index

    _print_description(_describe_index(Index.open(index, verify=verify)), as_json=json)
    if verify:
        echo("all files match their checksums", err=True)


@inspect.command("recall")
def recall(
    index: Annotated[Path, typer.Argument(help="Folder that `hyperseek encode` made, with an engine or a graph.")],
    queries: Annotated[Path, typer.Option("--queries", "-Q", help="File of queries: JSONL or TSV, plain or .gz.")],
    k: Annotated[int, typer.Option("-k", "--top-k", min=1, help="Documents per query.")] = 10,
    target: Annotated[float, typer.Option(help="Sufficient recall of the exhaustive top k, in (0, 1].")] = 0.99,
    model: Annotated[
        str | None, typer.Option(help="Compile queries with this model instead of the index's own.")
    ] = None,
    engine: Annotated[str | None, typer.Option(help="Measure only this engine or graph.")] = None,
    card: CardOption = None,
    option: Options = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of queries, from the start of the file.")] = 100,
    save: Annotated[bool, typer.Option(help="Store the cheapest sufficient plan in the index.")] = True,
    json: Annotated[bool, typer.Option("--json", help="Write everything as JSON to standard output.")] = False,
    device: Annotated[str | None, typer.Option(help="As in cuda:0; a GPU if there is one.")] = None,
) -> None:
    """Measure recall and latency of engine settings against exhaustive search, and store the cheapest good one."""
    from itertools import islice

    from hyperseek.data import read_queries
    from hyperseek.index import Index
    from hyperseek.models import load

    opened = Index.open(index, model=None if model is None else load(model, device=device), device=device)
    texts = [query.text for query in islice(read_queries(queries), limit)]
    tuning = opened.engines.tune(
        texts, k=k, recall=target, engine=engine, options=query_options(option, card), save=save
    )
    _print_tuning(tuning, saved=save, as_json=json)


@inspect.command("space")
def space(
    index: Annotated[Path, typer.Argument(help="Folder that `hyperseek encode` made.")],
    by: _By = None,
    hierarchy: _Hierarchy = None,
    sample: Annotated[int, typer.Option(min=4, help="Maximum points in the neighbour graph and the pictures.")] = 5000,
    neighbours: Annotated[int, typer.Option(min=1, help="Nearest neighbours per point.")] = 10,
    edges: Annotated[int, typer.Option(min=1, help="Maximum edges whose curvature is measured.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of all samples.")] = 0,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder for pictures and space.json.")] = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON, on standard output.")] = False,
) -> None:
    """Analyse the space: radius by specificity, Gromov's delta, Ollivier-Ricci curvature, a picture of the disk."""
    from hyperseek.analysis import inspect_space
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
    _print_space(report, as_json=json)


@inspect.command("levels")
def levels(
    index: Annotated[Path, typer.Argument(help="Folder that `hyperseek encode` made with a model with levels.")],
    text: Annotated[list[str] | None, typer.Option(help="Show this text's path through the levels; repeat.")] = None,
    id_: Annotated[list[str] | None, typer.Option("--id", help="Show this document's path; repeat.")] = None,
    by: _By = None,
    hierarchy: _Hierarchy = None,
    sample: Annotated[int, typer.Option(min=3, help="Maximum documents for cosines and overlaps.")] = 2000,
    neighbours: Annotated[int, typer.Option(min=1, help="Nearest neighbours, shown and compared.")] = 10,
    seed: Annotated[int, typer.Option(help="Seed of the sample.")] = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for levels.html, one page, and levels.json.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="As in cuda:0; a GPU if there is one.")] = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON, on standard output.")] = False,
) -> None:
    """Show whether levels differ, radius by specificity, and texts' paths and neighbours at each level."""
    from hyperseek.analysis import inspect_levels
    from hyperseek.index import Index

    report = inspect_levels(
        Index.open(index, device=device),
        texts=text or [],
        ids=id_ or [],
        by=by,
        hierarchy=hierarchy,
        sample=sample,
        neighbours=neighbours,
        seed=seed,
        output=output,
    )
    _print_level_report(report, as_json=json)


@inspect.command("card")
def card(
    card: Annotated[Path, typer.Argument(help="File of a task card, .yaml or .json.")],
    model: Annotated[str, typer.Option(help="Model with cards: a folder or Hub name.")],
    index: Annotated[
        Path | None, typer.Option(help="Index of the model's trunk: which rankings change, by the card's own queries.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Judged queries of that index, in place of the card's: what gains and loses.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split of the judgements.")] = "test",
    k: Annotated[int, typer.Option("-k", "--top-k", min=1, help="Documents per query.")] = 10,
    exclude_same_id: Annotated[
        bool, typer.Option("--exclude-same-id", help="Exclude the document with the query's id.")
    ] = False,
    show: Annotated[int, typer.Option(min=1, help="How many tasks and queries to print.")] = 5,
    device: Annotated[str | None, typer.Option(help="As in cuda:0; a GPU if there is one.")] = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON, on standard output, with all queries.")] = False,
) -> None:
    """Show what a model makes of a task card: nearest tasks, confidence, distance from the identity, gains, losses."""
    from hyperseek.analysis import inspect_card
    from hyperseek.cards import read_card
    from hyperseek.data import open_dataset
    from hyperseek.errors import InputError
    from hyperseek.index import Index
    from hyperseek.models import load

    if dataset is not None and index is None:
        raise InputError("--dataset asks an index; give --index too")
    loaded = load(model, device=device)
    report = inspect_card(
        read_card(card),
        loaded,
        index=None if index is None else Index.open(index, model=loaded),
        dataset=None if dataset is None else open_dataset(dataset),
        split=split,
        k=k,
        exclude_same_id=exclude_same_id,
    )
    if json:
        echo_json(report.to_json(), indent=2)
    else:
        _print_card(report, show)


@inspect.command("lengths")
def lengths(
    model: Annotated[str, typer.Argument(help="Folder, Hub name, or minilm.")],
    source: Annotated[str, typer.Argument(help="A prepared folder, or what `hyperseek prepare` reads.")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(help="How the source is read, as for `hyperseek prepare`: section.field=value."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most examples, the first of the source.")] = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON, on standard output.")] = False,
) -> None:
    """Show how long texts are in tokens, with prompts and special tokens, and what each limit would cut."""
    from itertools import islice

    from hyperseek._config import apply_overrides
    from hyperseek.data import PrepareOptions, measure_lengths, read_source
    from hyperseek.models import load

    options = PrepareOptions.from_mapping(apply_overrides({}, settings or []), source="the command line")
    report = measure_lengths(load(model, device="cpu"), islice(read_source(source, options=options), limit))
    if json:
        echo_json(report.model_dump(mode="json"), indent=2)
    else:
        _print_lengths(report)


inspect.command("queries")(_diagnose.queries)
inspect.command("health")(_diagnose.health)
inspect.command("pool")(_diagnose.pool)


def _describe_index(index: Index) -> dict[str, Any]:
    """Return a description of an index, as plain values."""
    info = index.info
    return {
        "path": str(index.path),
        "documents": len(index),
        **({} if index.passages is None else {"passages": index.passages, "split": info.passages}),
        "space": index.space.to_json(),
        "storage": info.storage,
        **({} if info.pooling is None else {"pooling": _pooling(info.pooling)}),
        "model": info.source,
        "fingerprint": info.fingerprint,
        "created": info.created.isoformat(),
        "fields": index.fields,
        **({"unusable_fields": index.unusable_fields} if index.unusable_fields else {}),
        "engines": {item.name: _attachment(item, index.passages or len(index)) for item in index.attachments},
        "plans": index.engines.plans,
    }


def _pooling(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return how an index pools the token vectors of a document, defaults included."""
    from hyperseek.nn.token_pooling import PoolingConfig

    pooling = PoolingConfig.from_mapping(stored, source="the index's pooling")
    unused = set() if pooling.budget is None and pooling.keep_ratio is None else {"pool_factor"}
    return pooling.model_dump(mode="json", exclude_none=True, exclude=unused | {"tasks"})


def _print_description(description: dict[str, Any], *, as_json: bool) -> None:
    """Print a description for people, or as JSON."""
    if as_json:
        echo_json(description, indent=2)
        return
    for name, value in description.items():
        if isinstance(value, dict) and name not in ("space", "pooling"):
            echo(f"{name}:" if value else f"{name}: none")
            for key, part in value.items():
                echo(f"  {key}: {_plan(part) if name == 'plans' else _line(part)}")
        else:
            echo(f"{name}: {_line(value)}")


def _plan(tuned: dict[str, Any]) -> str:
    """Return a tuned plan as it is written, with its measurements."""
    from hyperseek.errors import StoreError
    from hyperseek.plan import Plan

    try:
        plan = Plan.from_mapping(tuned["plan"], source="the plan", error=StoreError)
    except StoreError as error:  # of a package that is not installed; the index can still be inspected
        return f"cannot be used: {error}"
    measured = f"recall@{tuned['k']} {tuned['recall']:.4f} on {tuned['queries']:,} queries"
    return f"{plan!r}  ({measured}, {tuned['milliseconds']:.3g} ms per query)"


def _print_tuning(tuning: Tuning, *, saved: bool, as_json: bool) -> None:
    """Print measurements for people, or as JSON."""
    if as_json:
        rows = [
            {
                "plan": one.plan.model_dump(mode="json", exclude_defaults=True),
                "recall": one.recall,
                "milliseconds": one.milliseconds,
                "single_milliseconds": one.single_milliseconds,
                "chosen": one is tuning.chosen,
            }
            for one in tuning.measured
        ]
        summary: dict[str, Any] = {
            "kind": tuning.kind,
            "options": tuning.options.to_json(),
            "k": tuning.k,
            "queries": tuning.queries,
            "wanted": tuning.wanted,
        }
        echo_json({**summary, "measured": rows}, indent=2)
        return
    from rich.console import Console
    from rich.table import Table

    title = f"{tuning.queries} queries, {tuning.kind} scorers, recall of the exhaustive top {tuning.k}"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for heading in ("plan", "recall", "ms per query", "alone", ""):
        table.add_column(heading, justify="left" if heading in ("plan", "") else "right", overflow="fold")
    for one in tuning.measured:
        mark = "chosen" if one is tuning.chosen else ""
        numbers = (f"{one.recall:.4f}", f"{one.milliseconds:.3f}", f"{one.single_milliseconds:.3f}")
        table.add_row(shown_text(one.title), *numbers, mark)
    Console().print(table)
    where = "stored in the index and used by searches from now on" if saved else "not stored"
    echo(f"cheapest with a recall of {tuning.wanted}: {tuning.chosen.title}; {where}")


def _print_lengths(report: LengthReport) -> None:
    kinds = {"query": report.query, "positive": report.positive, "negative": report.negative}
    present = {name: lengths for name, lengths in kinds.items() if lengths is not None}
    echo("tokens    " + "".join(f"{name:>9}" for name in report.query.percentiles) + "    texts")
    for name, lengths in present.items():
        echo(
            f"{name:<10}" + "".join(f"{tokens:>9,}" for tokens in lengths.percentiles.values()) + f"{lengths.texts:>9,}"
        )
    echo()
    echo("cut at    " + "".join(f"{name:>20}" for name in present))
    for limit in sorted({limit for lengths in present.values() for limit in lengths.cut}):
        cells = []
        for lengths in present.values():
            mark = "*" if limit == lengths.limit else " "
            count = lengths.cut.get(limit)
            cells.append(" " if count is None else f"{count:,} ({count / lengths.texts:.1%}){mark}")
        echo(f"{limit:<10,}" + "".join(f"{cell:>20}" for cell in cells))
    echo(f"* the model's own; it could read {report.context:,}")


def _print_space(report: SpaceReport, *, as_json: bool) -> None:
    """Print the shape of a space for people, or as JSON."""
    if as_json:
        echo_json(report.to_json(), indent=2)
        return
    echo(f"{report.documents:,} documents in {report.space}; distances: {report.metric}")
    if report.radii is not None:
        least, low, _, median, _, high, greatest = report.radii.quantiles
        echo(
            f"radii: median {median:.4g}, mean {report.radii.mean:.4g}, 90% within {low:.4g} to {high:.4g}, "
            f"all within {least:.4g} to {greatest:.4g}"
        )
        echo(f"  {_bars(report.radii.histogram)}")
    if report.specificity is not None:
        _print_levels(report.specificity)
    delta, curvature = report.delta, report.curvature
    if delta is not None:
        echo(
            f"delta: 2 delta / diameter {delta.relative:.4f} at most, {delta.mean_relative:.4f} on average (0 is a "
            f"tree): delta {delta.greatest:.4g} and {delta.mean:.4g}, diameter {delta.diameter:.4g}; all quadruples "
            f"with {delta.bases} of {delta.points} random points, and {delta.quadruples:,} random ones, "
            f"seed {delta.seed}"
        )
    if curvature is not None:
        echo(
            f"Ollivier-Ricci curvature: mean {curvature.mean:.4f}, standard deviation {curvature.deviation:.4f}, "
            f"{curvature.negative:.0%} of edges below 0; {curvature.edges:,} of {curvature.graph_edges:,} edges of the "
            f"{curvature.neighbours}-nearest-neighbour graph of {curvature.points:,} points, alpha {curvature.alpha:g}"
        )
    for disk in report.disks:
        plane = "" if disk.variance is None else f"{disk.variance:.1%} of the tangent variance, "
        echo(
            f"disk by {disk.layout}: {plane}rank correlation of distances {disk.spearman:.3f}, radii times "
            f"{disk.scale:.3g}"
        )
    for what, reason in report.left_out.items():
        echo(f"no {what}: {reason}", err=True)
    for path in report.files:
        echo(f"wrote {path}", err=True)


def _print_level_report(report: LevelsReport, *, as_json: bool) -> None:
    if as_json:
        echo_json(report.to_json(), indent=2)
        return
    echo(f"{report.documents:,} documents in {report.space}; {report.sampled:,} sampled, seed {report.seed}")
    for title, values in (
        ("mean cosine of a text between levels", report.cosines),
        (f"mean share of the {report.neighbours} nearest neighbours in common", report.overlap),
    ):
        echo(title)
        echo("  level " + "".join(f"{level:>8}" for level in range(1, report.space.levels + 1)))
        for level, row in enumerate(values, start=1):
            echo(f"  {level:<6}" + "".join(f"{value:>8.3f}" for value in row))
    for level, (radii, specificity) in enumerate(zip(report.radii, report.specificity, strict=True), start=1):
        echo(f"level {level}: median radius {radii.quantiles[3]:.4g}, 90% within {radii.quantiles[1]:.4g} to "
             f"{radii.quantiles[5]:.4g}")  # fmt: skip
        if specificity is not None:
            _print_levels(specificity)
    for path in report.paths:
        _print_path(path)
    for what, reason in report.left_out.items():
        echo(f"no {what}: {reason}", err=True)
    for file in report.files:
        echo(f"wrote {file}", err=True)


def _print_path(path: LevelPath) -> None:
    from rich.console import Console
    from rich.table import Table

    echo()
    echo(path.title if path.id is None else f"{path.id}: {path.title}")
    table = Table(box=None, pad_edge=False)
    for level, (radius, angle) in enumerate(zip(path.radii, path.angles, strict=True), start=1):
        table.add_column(f"level {level}\nradius {radius:.3g}, angle {degrees(angle):.0f}°", ratio=1, overflow="fold")
    for rank in range(max(map(len, path.near))):
        table.add_row(*(shown_text(f"{near[rank].distance:.3f} {near[rank].title}") if rank < len(near) else ""
                        for near in path.near))  # fmt: skip
    console = Console()
    if not console.is_terminal:
        console.width = 40 * len(path.near)
    console.print(table)


def _print_card(report: CardReport, show: int) -> None:
    echo(f"{report.card}: confidence {report.confidence:.2f}, fingerprint {report.fingerprint}")
    for name, distance in report.nearest[:show]:
        echo(f"  {distance:.3f} from {name}")
    if not report.nearest:
        echo("  the model keeps no tasks of its training")
    if report.is_unlike:
        echo(f"  unlike all of them: none is farther than {report.farthest:.3f} from its nearest other", err=True)
    change = report.change
    if change is not None:
        if change.texts == 1:
            echo(f"the head moves 1 query by {change.length:.1%} of its length, {change.angle:.2f}°")
        else:
            echo(
                f"the head moves {_queries(change.texts)} by {change.length:.1%} of their length, {change.angle:.2f}° "
                f"on average, {change.largest_angle:.2f}° at most; {change.common:.0%} of it is the same for all"
            )
    if not report.queries:
        return
    overlap = sum(query.overlap for query in report.queries) / len(report.queries)
    echo(f"{overlap:.1%} of the best {report.k} documents stay, over {_queries(len(report.queries))}")
    if report.difference is None or report.interval is None:
        for query in report.queries[:show]:
            echo(f"  {query.overlap:.0%} stay: {shown_text(query.text)}")
        return
    low, high = report.interval
    echo(
        f"{report.measure}: {report.difference:+.4f} ({low:+.4f} to {high:+.4f}, p {report.p_value:.3f}); "
        f"{len(report.gained):,} queries gain, {len(report.lost):,} lose"
    )
    for title, queries in (("gain", report.gained), ("lose", report.lost)):
        for query in queries[:show]:
            echo(f"  {title} {_change_of(query)}: {shown_text(query.text)}")


def _change_of(query: QueryChange) -> str:
    return f"{query.before:.3f} → {query.after:.3f}"


def _print_levels(report: SpecificityReport) -> None:
    # A p-value below the smallest float is 0 and would be read as certainty.
    p_value = "below 1e-300" if report.p_value < 1e-300 else f"{report.p_value:.2g}"
    echo(f"radius by {report.by}: Spearman {report.spearman:.4f}, p {p_value}, {report.count:,} documents")
    names = [f"{one.low:g}" if one.low == one.high else f"{one.low:g} to {one.high:g}" for one in report.levels]
    width = max(map(len, names))
    for name, one in zip(names, report.levels, strict=True):
        echo(f"  {name:>{width}}  mean {one.mean:.4g} ± {one.deviation:.2g}, {one.count:,} documents")


def _bars(counts: list[int]) -> str:
    """Draw a histogram as a line of text."""
    marks = " ▁▂▃▄▅▆▇█"
    most = max([1, *counts])
    return "".join(marks[-(-count * (len(marks) - 1) // most)] for count in counts)


def _attachment(item: Any, documents: int) -> dict[str, Any]:
    config = None if item.config is None else item.config.model_dump(mode="json", exclude_none=True)
    recall = {} if item.recall is None else {"recall": round(item.recall.share, 4)}
    return {"kind": item.kind, "documents": item.count, "of": documents, **item.described(), **recall, "config": config}


def _line(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_line(part)}" for key, part in value.items() if part not in (None, [], {}))
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _queries(count: int) -> str:
    return "1 query" if count == 1 else f"{count:,} queries"
