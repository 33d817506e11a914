"""The command line: each verb is a thin wrapper over a public function with the same argument names."""

from __future__ import annotations

import errno
import importlib
import io
import logging
import os
import re
import sys
from contextlib import suppress
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

# In the order of use, as `hyperseek --help` lists them.
_VERBS = (
    "demo",
    "prepare",
    "prepare card",
    "prepare hierarchy",
    "prepare preferences",
    "mine",
    "recipes",
    "pretrain",
    "train",
    "encode",
    "adapt",
    "update",
    "search",
    "serve",
    "mcp",
    "evaluate",
    "evaluate --cards",
    "evaluate --suite",
    "evaluate --mteb",
    "evaluate --rag",
    "evaluate --adherence",
    "evaluate --followir",
    "inspect",
    "convert",
    "export",
)
# The files of verbs that share one with another.
_FILES = {
    "evaluate_followir": "evaluate_mteb",
    "prepare_card": "prepare",
    "prepare_hierarchy": "prepare",
    "prepare_preferences": "mine",
    "recipes": "train",
    "evaluate_adherence": "evaluate_rag",
    "pretrain": "train",
    "adapt": "train",
    "update": "encode",
    "export": "convert",
    "mcp": "serve",
}


class _Group(TyperGroup):
    """Verbs, some of two words, that report what is stored when Ctrl-C stops them.

    A second word that is a flag stands anywhere: `evaluate --cards FILE` has arguments and help of its own.
    """

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        for place, word in enumerate(args):
            flag, equals, value = word.partition("=")
            if flag.startswith("--") and (both := f"{args[0]} {flag}") in self.commands:
                return both, self.commands[both], [*args[1:place], *([value] if equals else []), *args[place + 1 :]]
        both = " ".join(args[:2])
        if len(args) > 1 and both in self.commands:
            return both, self.commands[both], args[2:]
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stopped:
            from hyperseek.errors import printable

            told = f"stopped; {printable(str(stopped), lines=True)}" if str(stopped) else "stopped"
            typer.echo(f"\nhyperseek: {told}", err=True)
            raise typer.Exit(130) from stopped


app = typer.Typer(
    cls=_Group,
    name="hyperseek",
    help="Neural retrieval beyond the dot product: encode once, index once, search with any scoring function.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from hyperseek._version import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars; only warnings and errors.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log decisions and their reasons.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    from hyperseek._long_work import set_quiet

    set_quiet(quiet)
    _quiet_dependencies()
    level = logging.WARNING if quiet else logging.INFO if verbose else logging.WARNING
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter("%(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])


class _Formatter(logging.Formatter):
    """Makes messages safe to print, since they quote data from unknown sources."""

    def format(self, record: logging.LogRecord) -> str:
        from hyperseek.errors import printable

        return printable(super().format(record), lines=True)


def _quiet_dependencies() -> None:
    """Suppress other libraries' progress bars and start-up messages; ours show the progress."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _register() -> None:
    for verb in _VERBS:
        name = re.sub(r"\W+", "_", verb)
        module = importlib.import_module(f"hyperseek.cli._{_FILES.get(name, name)}")
        function = getattr(module, name)
        if isinstance(function, typer.Typer):
            app.add_typer(function, name=verb)
        else:
            app.command(name=verb, cls=getattr(module, f"{name.capitalize()}Command", None))(function)


_register()


def main() -> None:
    """Run the command line; an error becomes a message on standard error and exit code 2, or 1 if it is a bug."""
    from hyperseek.errors import HyperseekError

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with suppress(OSError):  # of a file that was opened for appending and cannot be sought in
                stream.reconfigure(errors="backslashreplace")  # of texts that the terminal's encoding lacks
    try:
        app()
    except HyperseekError as error:
        _fail(str(error), 2)
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename is None:
            _fail("the output cannot be written: the disk is full", 2)
        if logging.getLogger().isEnabledFor(logging.INFO):  # --verbose
            raise
        from hyperseek._registry import foreign_place

        place = foreign_place(error.__traceback__)
        whose = "this is a bug in hyperseek; please report it with the output of: hyperseek -v …"
        if place is not None:
            whose = f"raised in or below {place}; hyperseek -v … prints the whole traceback"
        _fail(f"{type(error).__name__}: {error}\n{whose}", 1)


def _fail(message: str, code: int) -> NoReturn:
    from hyperseek.errors import printable

    typer.secho(f"hyperseek: {printable(message, lines=True)}", fg=typer.colors.RED, err=True)
    raise SystemExit(code) from None
