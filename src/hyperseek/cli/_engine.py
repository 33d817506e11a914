"""Building an engine from the command line: what it will cost is said before it begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hyperseek.cli._echo import echo

if TYPE_CHECKING:
    from hyperseek.engines import StructureEstimate
    from hyperseek.index import Index


def check_engine(engine: str) -> None:
    """Raise UnknownNameError unless this is a kind of engine, or `auto`."""
    from hyperseek.engines.structure import parse_structure

    if engine != "auto":
        parse_structure(engine)


def build_engine(index: Index, engine: str, *, max_gigabytes: float | None = None) -> None:
    """Say what building an engine costs, then build it.

    Args:
        index: For its documents.
        engine: Its kind, or `auto`.
        max_gigabytes: Memory that building may take; None for no limit.

    Raises:
        InputError: It would take more; what it takes was said before.
    """
    from hyperseek.engines.structure import parse_structure

    limit = None if max_gigabytes is None else int(max_gigabytes * 1e9)
    if engine == "auto":
        config, reason = index.engines.choose(max_bytes=limit)
        echo(f"engine {config.kind}: {reason}", err=True)
    else:
        config = parse_structure(engine)
    echo(f"engine {config.kind}: {_words(index.engines.estimate(config))}", err=True)
    built = index.build_engine(config, max_bytes=limit)
    described = built.described()
    on = "".join(f", on {', '.join(map(str, value))}" for value in described.values() if isinstance(value, list))
    echo(f"engine {built.name}: built for {built.count:,} documents{on}; {built.config!r}", err=True)


def _words(cost: StructureEstimate) -> str:
    from hyperseek._display import size_in_words, time_in_words

    memory = f"{size_in_words(cost.building_bytes)} of memory to build, {size_in_words(cost.memory_bytes)} to search"
    duration = "" if cost.seconds is None else f", {time_in_words(cost.seconds)}"
    return f"about {memory}, {size_in_words(cost.disk_bytes)} on the disk{duration}"
