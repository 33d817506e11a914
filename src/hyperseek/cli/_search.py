"""`hyperseek search`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hyperseek.cli._echo import BackendOption, echo, echo_exactly, echo_json, plain_rows, print_matches, print_tables

if TYPE_CHECKING:
    from hyperseek.index import Index
    from hyperseek.models import Retriever
    from hyperseek.serve import RemoteIndex
    from hyperseek.types import Hit, Query, QueryOptions

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


def hybrid_plan(k: int, engine: str) -> dict[str, Any]:
    """Return the plan of `--hybrid` for `k` documents per query, as plain values, which need no import."""
    n = max(_CANDIDATES, k)
    sources = [{"kind": "full_text", "n": n}, {"kind": "auto", "n": n, "engine": engine}]
    return {"stages": [{"kind": "fusion", "sources": sources}]}


def broad_to_narrow_plan(k: int, engine: str) -> dict[str, Any]:
    """Return the plan of `--broad-to-narrow` for `k` documents per query, as plain values."""
    named = {"auto": None, "exact": "exhaustive"}.get(engine, engine)
    nearest = {"kind": "nearest", "n": max(_NEIGHBOURHOOD, 10 * k), "engine": named, "options": {"level": 1}}
    return {"stages": [nearest, {"kind": "rescore"}]}


def read_plan(path: Path, *, server: bool) -> Any:
    """Read a plan from a file; its values, for a server, which checks them."""
    if server:
        from hyperseek._config import read_yaml_value

        return read_yaml_value(path)
    from hyperseek.plan import Plan

    return Plan.load(path)


def search(
    index: Annotated[
        str | None, typer.Argument(help="Folder that `hyperseek encode` made; left out where --server is given.")
    ] = None,
    text: Annotated[str | None, typer.Argument(help="The query; without it, and without --queries, a prompt.")] = None,
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
    json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
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
    combine: Annotated[
        Literal["best", "soft"],
        typer.Option(help="Score of a document of passages: that of the best, or the soft maximum of all."),
    ] = "best",
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
    server: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Ask a server instead, as http://127.0.0.1:8080; its key is read from HYPERSEEK_API_KEY.",
        ),
    ] = None,
    index_name: Annotated[
        str | None, typer.Option("--index", metavar="NAME", help="Index of the server; the first unless given.")
    ] = None,
) -> None:
    """Find the best documents for one query, a file of queries, or those that are typed at a prompt.

    Without TEXT and --queries, queries are read from standard input, one on a line: on a terminal it is a prompt, whose
    commands :help lists.
    """
    from hyperseek._relevance import excluded_ids
    from hyperseek.errors import InputError

    if server is not None:
        if text is not None or any(given is not None for given in (model, device, backend)):
            raise InputError("with --server give neither INDEX nor --model, --device, --backend: it has its own")
        text = index
    elif index is None or index_name is not None:
        raise InputError(
            "give INDEX, the folder of an index; or --server URL, with --index NAME for one of its indexes"
        )
    if text is not None and queries is not None:
        raise InputError("give one query as TEXT, or a file of queries with --queries, not both")
    if json:
        if format not in ("table", "json"):
            raise InputError(f"give --json or --format {format}, not both")
        format = "json"
    if hybrid + broad_to_narrow + (plan is not None) > 1:
        raise InputError("--hybrid, --broad-to-narrow and --plan exclude each other; give one of them")
    grouping = None if group_by is None else _grouping(group_by, format)
    stages = None if plan is None else read_plan(plan, server=server is not None)
    prompt = text is None and queries is None
    if hybrid and not prompt:  # at a prompt, by the number of documents that each query asks for
        stages = hybrid_plan(k, engine)
    elif broad_to_narrow:
        stages = broad_to_narrow_plan(k, engine)
    asked_of_model = query_options(option, card)
    asked = [] if prompt else _read(text, queries)
    excluded = excluded_ids(asked)
    opened: Any = _opened(index or "", model, device, backend) if server is None else _connected(server, index_name)
    options: dict[str, Any] = {
        "k": k,
        "where": where,
        "engine": engine,
        "plan": stages,
        "options": asked_of_model,
        "exclude": [{*excluded.get(query.id, ()), *([query.id] if exclude_same_id else [])} for query in asked],
        "texts": format == "table" or (format in ("jsonl", "json") and texts),
        "combine": combine,
        "level": level,
        "document_level": document_level,
        "broaden": broaden,
        "relation": relation,
        "radius_weight": radius_weight,
    }
    if prompt:
        from hyperseek.cli._prompt import Session, run_prompt

        options.pop("exclude")
        run_prompt(Session(opened, options, format, explain=explain, hybrid=hybrid, tag=tag, grouping=grouping))
        return
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
        for row in plain_rows(asked, hits, matches=explain):
            echo_json(row)
    elif format == "json":
        echo_json(plain_rows(asked, hits, matches=explain), indent=2)
    else:
        print_tables(asked, hits, grouping)
        if explain:
            print_matches(asked, hits)


def _opened(index: str, model: str | None, device: str | None, backend: str | None) -> Index:
    from hyperseek.index import Index

    return Index.open(
        index, model=None if model is None else _loaded(model, device, backend), device=device, backend=backend
    )


def _connected(server: str, index: str | None) -> RemoteIndex:
    from hyperseek.serve.client import connect

    return connect(server, index)


def _loaded(model: str, device: str | None, backend: str | None) -> Retriever:
    from hyperseek.models import load  # which takes seconds

    return load(model, device=device, backend=backend)


def _read(text: str | None, path: Path | None) -> list[Query]:
    from hyperseek.types import Query

    if path is None:
        return [Query("q", text or "")]
    from hyperseek.data import read_queries  # which one query does without

    return list(read_queries(path))


def _print_trec(queries: Sequence[Query], hits: Sequence[Sequence[Hit]], tag: str) -> None:
    from hyperseek.data import trec_lines

    run = {query.id: {hit.id: hit.score for hit in found} for query, found in zip(queries, hits, strict=True)}
    for line in trec_lines(run, tag=tag):
        echo_exactly(line, instead="--format jsonl")


def _grouping(given: str, format: str) -> tuple[str, int | None]:
    """Read FIELD or FIELD:DEPTH."""
    from hyperseek.errors import InputError, shown

    name, colon, depth = given.partition(":")
    if format != "table":
        raise InputError(f"--group-by is for tables, not for --format {format}; hits of JSON carry their metadata")
    if not name or (colon and not depth.isdecimal()) or len(depth) > 9:
        raise InputError(f"--group-by is FIELD or FIELD:DEPTH, as in path:2, not {shown(given)}")
    return name, int(depth) if colon else None
