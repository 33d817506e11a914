"""`hyperseek search`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hyperseek.cli._echo import echo, echo_exactly, echo_json, shown_text

if TYPE_CHECKING:
    from hyperseek.plan import Plan
    from hyperseek.types import Hit, Query, QueryOptions

_SNIPPET = 160
# Candidates of each half of a hybrid search, at least.
_CANDIDATES = 100

Options = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="NAME=VALUE", help="Asked of the model with the query, as in level=2; repeat."),
]


def query_options(given: Sequence[str] | None) -> QueryOptions:
    """Return the options of queries that a command was given, each as `name=value` with the value read as YAML."""
    from hyperseek._config import apply_overrides
    from hyperseek.errors import ConfigError, shown
    from hyperseek.types import QueryOptions

    for option in given or ():
        name, equals, value = option.partition("=")
        if not equals or not name.strip().isidentifier() or not value.strip():
            raise ConfigError(f"--option is NAME=VALUE, as in level=2, not {shown(option)}")
    return QueryOptions.of(apply_overrides({}, given or ()))


def hybrid_plan(k: int, engine: str) -> Plan:
    """Return the plan of `--hybrid` for `k` documents per query."""
    from hyperseek.plan import hybrid

    return hybrid(max(_CANDIDATES, k), engine=engine)


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
        str | None, typer.Option(help="SQL that documents must meet, as in \"year > 2015 AND venue = 'ACL'\".")
    ] = None,
    engine: Annotated[
        str, typer.Option(help="auto, exact, or the name of an engine of the index (see hyperseek inspect index).")
    ] = "auto",
    plan: Annotated[Path | None, typer.Option(help="YAML file of stages to search by instead.")] = None,
    hybrid: Annotated[
        bool, typer.Option("--hybrid", help="Fuse full-text search (BM25) with the model's own, by reciprocal rank.")
    ] = False,
    option: Options = None,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Print time, candidates and recall of each stage; also searches exhaustively."),
    ] = False,
    model: Annotated[
        str | None, typer.Option(help="Compile queries with this model instead of the index's own.")
    ] = None,
    texts: Annotated[bool, typer.Option(help="Whether JSON carries titles, texts and metadata.")] = True,
    exclude_same_id: Annotated[
        bool, typer.Option("--exclude-same-id", help="Leave out a document whose id is the query's.")
    ] = False,
    tag: Annotated[str, typer.Option(help="Last column of the TREC run.")] = "hyperseek",
    device: Annotated[str | None, typer.Option(help="As in cuda:0; a GPU if there is one.")] = None,
) -> None:
    """Find the best documents of one query or of a file of them."""
    from hyperseek.errors import InputError
    from hyperseek.index import Index
    from hyperseek.models import load
    from hyperseek.plan import Plan

    if (text is None) == (queries is None):
        raise InputError("give one query as TEXT, or a file of queries with --queries")
    if hybrid and plan is not None:
        raise InputError("--hybrid is a plan of its own; give it or --plan")
    stages = hybrid_plan(k, engine) if hybrid else None if plan is None else Plan.load(plan)
    asked_of_model = query_options(option)
    asked = _read(text, queries)
    opened = Index.open(index, model=None if model is None else load(model, device=device), device=device)
    options: dict[str, Any] = {
        "k": k,
        "where": where,
        "engine": engine,
        "plan": stages,
        "options": asked_of_model,
        "exclude": [query.id for query in asked] if exclude_same_id else None,
        "texts": format == "table" or (format in ("jsonl", "json") and texts),
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
        for row in _rows(asked, hits):
            echo_json(row)
    elif format == "json":
        echo_json(_rows(asked, hits), indent=2)
    else:
        _print_tables(asked, hits)


def _read(text: str | None, path: Path | None) -> list[Query]:
    from hyperseek.data import read_queries
    from hyperseek.types import Query

    return [Query("q", text or "")] if path is None else list(read_queries(path))


def _print_trec(queries: list[Query], hits: list[list[Hit]], tag: str) -> None:
    from hyperseek.data import trec_lines

    run = {query.id: {hit.id: hit.score for hit in found} for query, found in zip(queries, hits, strict=True)}
    for line in trec_lines(run, tag=tag):
        echo_exactly(line, instead="--format jsonl")


def _rows(queries: list[Query], hits: list[list[Hit]]) -> list[dict[str, object]]:
    return [
        {"query": {"id": query.id, "text": query.text}, "hits": [_plain(hit) for hit in found]}
        for query, found in zip(queries, hits, strict=True)
    ]


def _plain(hit: Hit) -> dict[str, object]:
    plain: dict[str, object] = {"id": hit.id, "score": hit.score, "rank": hit.rank}
    if hit.document is not None:
        plain |= {"title": hit.document.title, "text": hit.document.text, "metadata": dict(hit.document.metadata)}
    return plain


def _print_tables(queries: list[Query], hits: list[list[Hit]]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for query, found in zip(queries, hits, strict=True):
        table = Table(
            title=shown_text(query.text), title_justify="left", box=None, pad_edge=False, show_header=bool(found)
        )
        table.add_column("", justify="right", style="dim")
        table.add_column("score", justify="right")
        table.add_column("document", style="bold", overflow="fold")
        table.add_column("text", style="dim")
        for hit in found:
            table.add_row(str(hit.rank), f"{hit.score:.3f}", shown_text(hit.id), shown_text(_snippet(hit)))
        console.print(table if found else shown_text(f"{query.text}: no documents"))
        if query is not queries[-1]:
            console.print()


def _snippet(hit: Hit) -> str:
    if hit.document is None:
        return ""
    parts: Iterable[str] = (hit.document.title if hit.document.title != hit.id else "", hit.document.text)
    words = " ".join(" ".join(parts).split())
    return words if len(words) <= _SNIPPET else words[: _SNIPPET - 1].rstrip() + "…"
