"""What the engines of an index are built on: a chart each, of a width of its own, and what they cost together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field

from hyperseek._config import Config
from hyperseek.engines import AnyEngineConfig, EngineEstimate, estimate_engine
from hyperseek.engines.configs import what_fits
from hyperseek.errors import InputError
from hyperseek.scoring import Space, TokenPoints, VectorPoints


class ChartRecord(Config):
    """A chart of an engine.

    Attributes:
        name: Within the space.
        parameters: What `Space.chart` makes it from.
    """

    name: str
    parameters: dict[str, Any] = Field(default_factory=dict)


def charts_for(
    space: Space, config: AnyEngineConfig, charts: Sequence[ChartRecord] | None = None
) -> tuple[ChartRecord, ...]:
    """Return the charts that an engine is built on: the given ones, or those that suit the space and its kind."""
    if charts is not None:
        return tuple(charts)
    names = space.graph_charts if config.graph else (space.flat_chart,)
    return tuple(ChartRecord(name=name) for name in names)


def chart_width(space: Space, record: ChartRecord) -> int:
    """Return the numbers of a document's vector on a chart."""
    # The bound of a chart, which is known only when all documents have been read, does not change its width.
    chart = space.chart(record.name, **{"bound": 1.0, **record.parameters})
    nothing = torch.zeros(0, space.width)
    none = TokenPoints(nothing, torch.zeros(1, dtype=torch.int64)) if space.kind == "tokens" else VectorPoints(nothing)
    return chart.lift_documents(none).shape[1]


def widest_chart(space: Space) -> int:
    """Return the largest width of the charts that engines are built on unless others are named."""
    names = {space.flat_chart, *space.graph_charts}
    return max(chart_width(space, ChartRecord(name=name)) for name in names)


def estimate_charts(
    space: Space, config: AnyEngineConfig, *, count: int, charts: Sequence[ChartRecord] | None = None
) -> EngineEstimate:
    """Estimate what the engines of all charts cost together.

    Args:
        space: Of the documents.
        config: Which engine.
        count: Documents.
        charts: What to build on; None for what suits the space and the kind of engine.

    Returns:
        Sums; of the memory that building takes the largest, since one is closed before the next is begun.
    """
    widths = [chart_width(space, record) for record in charts_for(space, config, charts)]
    parts = [estimate_engine(config, count=count, dimension=width) for width in widths]
    seconds = [part.seconds for part in parts if part.seconds is not None]
    return EngineEstimate(
        sum(part.memory_bytes for part in parts),
        max((part.building_bytes for part in parts), default=0),
        sum(part.disk_bytes for part in parts),
        sum(seconds) if len(seconds) == len(parts) else None,
    )


def check_building(
    space: Space,
    config: AnyEngineConfig,
    *,
    count: int,
    charts: Sequence[ChartRecord],
    max_bytes: int,
) -> None:
    """Raise InputError if building would take more memory than is allowed.

    Args:
        space: Of the documents.
        config: Which engine.
        count: Documents.
        charts: What to build on.
        max_bytes: Memory that building may take.

    Raises:
        InputError: It would take more; the message says what would fit.
    """

    def needed(config: AnyEngineConfig, charts: Sequence[ChartRecord] | None = None) -> int:
        return estimate_charts(space, config, count=count, charts=charts).building_bytes

    if (need := needed(config, charts)) > max_bytes:
        on = " and ".join(f"{chart_width(space, chart)} dimensions ({chart.name})" for chart in charts)
        raise InputError(
            f"building {config.kind!r} for {count:,} documents of {on} takes about {need:,} bytes of memory, more than "
            f"the {max_bytes:,} that are allowed; {what_fits(needed, max_bytes)}"
        )
