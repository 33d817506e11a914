"""`hyperseek serve`."""

from __future__ import annotations

from typing import Annotated

import typer

from hyperseek.cli._echo import BackendOption, echo


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
