"""`hyperseek serve` and `mcp`."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from hyperseek.cli._echo import BackendOption, echo
from hyperseek.cli._search import CardOption, Options, hybrid_plan, query_options, read_plan


def serve(
    indexes: Annotated[
        list[str] | None,
        typer.Argument(metavar="INDEX...", help="Folders that `hyperseek encode` made, or NAME=FOLDER."),
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option("--model", metavar="NAME=MODEL", help="A model without an index; repeat.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen at; 0 for a free one.")] = 8080,
    name: Annotated[
        list[str] | None, typer.Option(help="Further host name that the server is addressed by; repeat.")
    ] = None,
    writable: Annotated[bool, typer.Option("--writable", help="Let clients add and delete documents.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Let indexes of files follow their folders.")] = False,
    device: Annotated[str | None, typer.Option(help="As in cuda:0; a GPU if there is one.")] = None,
    backend: BackendOption = None,
) -> None:
    """Answer searches of other programs, and of people in a browser, until Ctrl-C is pressed.

    API keys are read from the environment variable HYPERSEEK_API_KEYS, separated by commas.
    """
    from hyperseek.errors import InputError, require

    if not indexes and not model:
        raise InputError("give at least one index, or a model with --model")
    for package in ("fastapi", "prometheus_client", "uvicorn"):
        require(package, extra="serve")
    from hyperseek.serve import ServeSettings, run

    settings = ServeSettings(host=host, port=port, hosts=tuple(name or ()), writable=writable, watch=watch)
    run(indexes or (), model or (), settings, device=device, backend=backend, ready=lambda url: echo(url, err=True))


def mcp(
    index: Annotated[
        str,
        typer.Argument(
            help="Folder that `hyperseek encode` made, or the address of a server, as http://HOST:PORT#NAME."
        ),
    ],
    k: Annotated[int, typer.Option("-k", "--top-k", min=1, help="Results of a search.")] = 10,
    where: Annotated[
        str | None, typer.Option(help='SQL condition that every result meets, as in "year > 2015".')
    ] = None,
    plan: Annotated[Path | None, typer.Option(help="YAML file of stages to search by.")] = None,
    hybrid: Annotated[
        bool, typer.Option("--hybrid", help="Fuse full-text search (BM25) with the model's own, by reciprocal rank.")
    ] = False,
    card: CardOption = None,
    option: Options = None,
    about: Annotated[
        str | None, typer.Option(help="What the documents are about, which tells an assistant when to search.")
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="Address of a document for citations, as in https://example.org/{id}.")
    ] = None,
    http: Annotated[
        bool, typer.Option("--http", help="Answer over streamable HTTP instead of standard input and output.")
    ] = False,
    host: Annotated[str, typer.Option(help="Address to listen at, with --http.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen at; 0 for a free one.")] = 8081,
    name: Annotated[
        list[str] | None,
        typer.Option(help="Further host that the server is addressed by, with its port; repeat."),
    ] = None,
) -> None:
    """Let an assistant search an index by the Model Context Protocol: its tools search, fetch, similar and explain.

    API keys of --http are read from the environment variable HYPERSEEK_API_KEYS, separated by commas.
    """
    from hyperseek.errors import InputError, require

    require("mcp.server.mcpserver", extra="mcp")
    from hyperseek.integrations.mcp import mcp_server, run_http, run_stdio

    if hybrid and plan is not None:
        raise InputError("--hybrid and --plan exclude each other; give one of them")
    remote = index.startswith(("http://", "https://"))
    stages = hybrid_plan(k, "auto") if hybrid else None if plan is None else read_plan(plan, server=remote)
    options = query_options(option, card)
    with contextlib.redirect_stdout(sys.stderr):  # standard output is for the protocol alone
        server = mcp_server(index, k=k, where=where, plan=stages, options=options, about=about, url=url)
    if http:
        run_http(server, host=host, port=port, hosts=tuple(name or ()), ready=lambda place: echo(place, err=True))
    else:
        run_stdio(server)
