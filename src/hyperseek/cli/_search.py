"""`hyperseek search`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hyperseek.cli._echo import BackendOption, echo, echo_exactly, echo_json, shown_text

if TYPE_CHECKING:
    from rich.text import Text

    from hyperseek.models import Retriever
    from hyperseek.plan import Plan
    from hyperseek.types import Hit, Query, QueryOptions, Token, TokenMatch

_SNIPPET = 160
_NEAR = 80  # characters of context shown before and after a match
# Candidates of each half of a hybrid search, at least.
_CANDIDATES = 100
# Documents of a neighbourhood, at least.
_NEIGHBOURHOOD = 3000

Options = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="NAME=VALUE", help="Query option for the model, as in level=2; repeat."),
]


CardOption = Annotated[
    str | None,
    typer.Option("--card", help="For models with task cards: a file of a card, or the name of one of the training."),
]


def query_options(given: Sequence[str] | None, card: str | None = None) -> QueryOptions:
    """Parse query options, each `name=value` with the value read as YAML; a card is one of them."""
    from hyperseek._config import apply_overrides
    from hyperseek.errors import ConfigError, shown
    from hyperseek.types import QueryOptions

    for option in given or ():
        name, equals, value = option.partition("=")
        if not equals or not name.strip().isidentifier() or not value.strip():
            raise ConfigError(f"--option is NAME=VALUE, as in level=2, not {shown(option)}")
    return with_card(QueryOptions.of(apply_overrides({}, given or ())), card, "--option card=...")


def with_card(options: QueryOptions, card: str | None, other: str) -> QueryOptions:
    """Add `--card` to options; ConfigError if the `other` way gave one too."""
    from hyperseek.errors import ConfigError
    from hyperseek.types import QueryOptions

    if card is not None and options.card is not None:
        raise ConfigError(f"give --card or {other}, not both")
    return options if card is None else QueryOptions(**{**options, "card": card})


def hybrid_plan(k: int, engine: str) -> Plan:
    """Return the plan of `--hybrid` for `k` documents per query."""
    from hyperseek.plan import hybrid

    return hybrid(max(_CANDIDATES, k), engine=engine)


def broad_to_narrow_plan(k: int, engine: str) -> Plan:
    """Return the plan of `--broad-to-narrow` for `k` documents per query."""
    from hyperseek.engines.structure import EXHAUSTIVE
    from hyperseek.plan import AUTO, EXACT, broad_to_narrow

    named = {AUTO: None, EXACT: EXHAUSTIVE}.get(engine, engine)
    return broad_to_narrow(max(_NEIGHBOURHOOD, 10 * k), engine=named)


def search(
    index: Annotated[Path, typer.Argument(help="Folder that `hyperseek encode` made.")],
    text: Annotated[str | None, typer.Argument(help="The query; or give --queries.")] = None,
    queries: Annotated[
        Path | None, typer.Option("--queries", "-Q", help="File of queries: JSONL or TSV, plain or .gz.")
    ] = None,
    k: Annotated[
        int, typer.Option("-k", "--top-k", min=1, help="Documents per query; 10 to read, 100 to 1,000 to rerank.")
    ] = 10,
    format: Annotated[
        Literal["table", "trec", "jsonl", "json"],
        typer.Option("--format", "-f", help="A table to read, a TREC run, one JSON line per query, or one JSON list."),
    ] = "table",
    where: Annotated[
        str | None, typer.Option(help="SQL condition on documents, as in \"year > 2015 AND venue = 'ACL'\".")
    ] = None,
    engine: Annotated[
        str, typer.Option(help="auto, exact, or the name of an engine of the index (see hyperseek inspect index).")
    ] = "auto",
    plan: Annotated[Path | None, typer.Option(help="YAML file of stages to search by instead.")] = None,
    hybrid: Annotated[
        bool, typer.Option("--hybrid", help="Fuse full-text search (BM25) with the model's own, by reciprocal rank.")
    ] = False,
    level: Annotated[
        int | None, typer.Option(min=1, help="Level of the query, for models with levels: 1 is the broadest.")
    ] = None,
    document_level: Annotated[
        int | None, typer.Option(min=1, help="Level of the documents, if it is not that of the query.")
    ] = None,
    broaden: Annotated[
        float | None, typer.Option(min=0, max=1, help="Instead of levels: 0 for the narrowest, 1 for the broadest.")
    ] = None,
    relation: Annotated[
        Literal["distance", "is_a", "cone"] | None,
        typer.Option(help="For models with levels: near documents, what the query is a kind of, or what contains it."),
    ] = None,
    radius_weight: Annotated[
        float | None, typer.Option(min=0, help="How much is_a prefers general documents; 1 unless given.")
    ] = None,
    broad_to_narrow: Annotated[
        bool,
        typer.Option("--broad-to-narrow", help="Find the neighbourhood at level 1, then the best documents within it."),
    ] = False,
    card: CardOption = None,
    option: Options = None,
    group_by: Annotated[
        str | None,
        typer.Option(metavar="FIELD[:DEPTH]", help="Group the table by a metadata field, as in path or path:2."),
    ] = None,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain",
            help="Print time, candidates and recall of each stage, compared with an exhaustive search; and, for late "
            "interaction, the match of each query token.",
        ),
    ] = False,
    model: Annotated[
        str | None, typer.Option(help="Compile queries with this model instead of the index's own.")
    ] = None,
    texts: Annotated[bool, typer.Option(help="Whether JSON includes titles, texts and metadata.")] = True,
    exclude_same_id: Annotated[
        bool, typer.Option("--exclude-same-id", help="Exclude the document with the query's id.")
    ] = False,
    tag: Annotated[str, typer.Option(help="Last column of the TREC run.")] = "hyperseek",
    device: Annotated[str | None, typer.Option(help="As in cuda:0; a GPU if there is one.")] = None,
    backend: BackendOption = None,
) -> None:
    """Find the best documents for one query or a file of queries."""
    from hyperseek._relevance import excluded_ids
    from hyperseek.errors import InputError
    from hyperseek.index import Index
    from hyperseek.plan import Plan

    if (text is None) == (queries is None):
        raise InputError("give one query as TEXT, or a file of queries with --queries")
    if hybrid + broad_to_narrow + (plan is not None) > 1:
        raise InputError("--hybrid, --broad-to-narrow and --plan exclude each other; give one of them")
    grouping = None if group_by is None else _grouping(group_by, format)
    stages = None if plan is None else Plan.load(plan)
    if hybrid:
        stages = hybrid_plan(k, engine)
    elif broad_to_narrow:
        stages = broad_to_narrow_plan(k, engine)
    asked_of_model = query_options(option, card)
    asked = _read(text, queries)
    excluded = excluded_ids(asked)
    opened = Index.open(
        index, model=None if model is None else _loaded(model, device, backend), device=device, backend=backend
    )
    options: dict[str, Any] = {
        "k": k,
        "where": where,
        "engine": engine,
        "plan": stages,
        "options": asked_of_model,
        "exclude": [{*excluded.get(query.id, ()), *([query.id] if exclude_same_id else [])} for query in asked],
        "texts": format == "table" or (format in ("jsonl", "json") and texts),
        "level": level,
        "document_level": document_level,
        "broaden": broaden,
        "relation": relation,
        "radius_weight": radius_weight,
    }
    texts_asked = [query.text for query in asked]
    if explain:
        told = opened.explain(texts_asked, recall=True, **options)
        for line in told.lines():
            echo(line, err=True)
        hits = told.hits
    else:
        hits = opened.search(texts_asked, **options)
    if format == "trec":
        _print_trec(asked, hits, tag)
    elif format == "jsonl":
        for row in _rows(asked, hits, matches=explain):
            echo_json(row)
    elif format == "json":
        echo_json(_rows(asked, hits, matches=explain), indent=2)
    else:
        _print_tables(asked, hits, grouping)
        if explain:
            _print_matches(asked, hits)


def _loaded(model: str, device: str | None, backend: str | None) -> Retriever:
    from hyperseek.models import load  # which takes seconds

    return load(model, device=device, backend=backend)


def _read(text: str | None, path: Path | None) -> list[Query]:
    from hyperseek.types import Query

    if path is None:
        return [Query("q", text or "")]
    from hyperseek.data import read_queries  # which one query does without

    return list(read_queries(path))


def _print_trec(queries: list[Query], hits: list[list[Hit]], tag: str) -> None:
    from hyperseek.data import trec_lines

    run = {query.id: {hit.id: hit.score for hit in found} for query, found in zip(queries, hits, strict=True)}
    for line in trec_lines(run, tag=tag):
        echo_exactly(line, instead="--format jsonl")


def _rows(queries: list[Query], hits: list[list[Hit]], *, matches: bool) -> list[dict[str, object]]:
    return [
        {"query": {"id": query.id, "text": query.text}, "hits": [_plain(hit, matches=matches) for hit in found]}
        for query, found in zip(queries, hits, strict=True)
    ]


def _plain(hit: Hit, *, matches: bool) -> dict[str, object]:
    plain: dict[str, object] = {"id": hit.id, "score": hit.score, "rank": hit.rank}
    if hit.document is not None:
        plain |= {"title": hit.document.title, "text": hit.document.text, "metadata": dict(hit.document.metadata)}
    if matches and hit.matches:
        plain["matches"] = [match.to_json() for match in hit.matches]
    return plain


def _grouping(given: str, format: str) -> tuple[str, int | None]:
    """Read FIELD or FIELD:DEPTH."""
    from hyperseek.errors import InputError, shown

    name, colon, depth = given.partition(":")
    if format != "table":
        raise InputError(f"--group-by is for tables, not for --format {format}; hits of JSON carry their metadata")
    if not name or (colon and not depth.isdecimal()):
        raise InputError(f"--group-by is FIELD or FIELD:DEPTH, as in path:2, not {shown(given)}")
    return name, int(depth) if colon else None


def _print_tables(queries: list[Query], hits: list[list[Hit]], grouping: tuple[str, int | None] | None) -> None:
    from rich.console import Console
    from rich.table import Table

    from hyperseek.index import HitGroup, grouped

    console = Console()
    for query, found in zip(queries, hits, strict=True):
        table = Table(
            title=shown_text(query.text), title_justify="left", box=None, pad_edge=False, show_header=bool(found)
        )
        table.add_column("", justify="right", style="dim")
        table.add_column("score", justify="right")
        table.add_column("document", style="bold", overflow="fold")
        table.add_column("text", style="dim")
        groups = [HitGroup((), found)] if grouping is None else grouped(found, grouping[0], depth=grouping[1])
        for group in groups:
            if grouping is not None:
                table.add_row("", "", shown_text(" > ".join(group.path) or f"no {grouping[0]}", style="underline"), "")
            for hit in group.hits:
                table.add_row(str(hit.rank), f"{hit.score:.3f}", shown_text(hit.id), shown_text(_snippet(hit)))
        console.print(table if found else shown_text(f"{query.text}: no documents"))
        if query is not queries[-1]:
            console.print()


def _print_matches(queries: list[Query], hits: list[list[Hit]]) -> None:
    """Print the match of each query token, and the texts of the hits with matches highlighted."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for query, found in zip(queries, hits, strict=True):
        for hit in found:
            if not hit.matches:
                continue
            console.print()
            console.print(shown_text(f"{query.text} → {hit.id}", style="bold"))
            if hit.document is not None:
                console.print(_highlighted(hit.document.full_text, hit.matches))
            table = Table(box=None, pad_edge=False)
            table.add_column("query")
            table.add_column("document")
            table.add_column("similarity", justify="right")
            table.add_column("share", justify="right")
            for match in hit.matches:
                sides = (shown_text(_spelt(tokens)) for tokens in (match.query, match.document))
                table.add_row(*sides, f"{match.similarity:.3f}", f"{match.share:.3f}")
            console.print(table)


def _spelt(tokens: Sequence[Token]) -> str:
    return " ".join(token.text if token.kind == "text" else f"{token.text} ({token.kind})" for token in tokens) or "?"


def _highlighted(text: str, matches: Sequence[TokenMatch]) -> Text:
    """Return the parts of a text around matches, with the matches highlighted."""
    places = {
        (token.start, token.end)
        for match in matches
        for token in match.document
        if token.start is not None and token.end is not None
    }
    shown, done = shown_text(""), 0
    for start, end in sorted(places):
        if start < done:
            continue  # within a match that was shown
        if start - done > 2 * _NEAR:
            head = text[done : done + _NEAR] if done else ""
            shown.append_text(shown_text(f"{head} … {text[start - _NEAR : start]}"))
        else:
            shown.append_text(shown_text(text[done:start]))
        shown.append_text(shown_text(text[start:end], style="bold reverse"))
        done = end
    rest = text[done:]
    return shown.append_text(shown_text(rest if len(rest) <= _NEAR else f"{rest[:_NEAR]} …"))


def _snippet(hit: Hit) -> str:
    if hit.document is None:
        return ""
    parts: Iterable[str] = (hit.document.title if hit.document.title != hit.id else "", hit.document.text)
    words = " ".join(" ".join(parts).split())
    return words if len(words) <= _SNIPPET else words[: _SNIPPET - 1].rstrip() + "…"
