"""What a result was measured on and with, and whether two results may be compared.

Two results are alike if they agree on what was asked of the systems: the data, the split, the judgements, the depth,
the exclusions and the options of the queries (`COMPARED`). The systems themselves (model, prompts, truncation, number
type, versions) may differ, since that is what a comparison is about; a comparison lists the differences.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from hyperseek._config import Config
from hyperseek._machine import installed_versions
from hyperseek.errors import ProtocolError
from hyperseek.types import NO_OPTIONS, QueryOptions

COMPARED = ("data", "split", "qrels", "k", "exclude_same_id", "options")
"""The keys of `Protocol` in which compared results must agree."""

_PACKAGES = (
    "hyperseek",
    "bm25s",
    "ir-measures",
    "pytrec-eval-terrier",
    "sentence-transformers",
    "torch",
    "transformers",
)


class Protocol(Config):
    """How a result came about. None means that it is not known, as for a run read from a file.

    Attributes:
        dataset: The data set's name; for people only, since folders are renamed.
        data: Fingerprint of its corpus and queries.
        split: Which judgements.
        qrels: Fingerprint of the judgements themselves.
        k: How many documents a query the run keeps.
        exclude_same_id: Whether a document with the query's own id was left out of its ranking.
        options: What was asked of the model besides the texts; None for a system that has no options, as BM25, which
            may be compared with any.
        system: What answered: model, prompts, truncation lengths, number types, parameters.
        versions: Installed package versions.
    """

    dataset: str | None = None
    data: str | None = None
    split: str | None = None
    qrels: str
    k: int | None = None
    exclude_same_id: bool | None = None
    options: QueryOptions | None = NO_OPTIONS
    system: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)


def measuring_versions() -> dict[str, str]:
    """Return the versions of the packages that can change a result."""
    return installed_versions(_PACKAGES)


def unlike_keys(protocols: Sequence[Protocol]) -> tuple[str, ...]:
    """Return the keys of `COMPARED` in which the protocols differ; a known and an unknown value differ."""
    values = {key: {getattr(protocol, key) for protocol in protocols} for key in COMPARED}
    values["options"].discard(None)
    return tuple(key for key in COMPARED if len(values[key]) > 1)


def check_alike(protocols: Mapping[str, Protocol]) -> None:
    """Raise ProtocolError, naming keys and values, unless all protocols agree in `COMPARED`."""
    keys = unlike_keys(list(protocols.values()))
    if not keys:
        return
    lines = "\n".join(
        f"  {key}: " + ", ".join(f"{name} {getattr(protocol, key)!r}" for name, protocol in protocols.items())
        for key in keys
    )
    raise ProtocolError(
        f"these results were not measured alike; they differ in {', '.join(keys)}:\n{lines}\n"
        f"measure them alike, or allow it explicitly (allow_unlike=True, --allow-unlike) and it will be listed"
    )


def recorded_differences(protocols: Mapping[str, Protocol]) -> dict[str, dict[str, Any]]:
    """List what the systems are and do not share.

    Args:
        protocols: By the results' names.

    Returns:
        `differences[key][name]` for every dotted key of `system` and `versions` whose values differ among the systems
        that have it.
    """
    flat = {
        name: dict(_flatten({"system": protocol.system, "versions": protocol.versions}))
        for name, protocol in protocols.items()
    }
    keys = dict.fromkeys(key for values in flat.values() for key in values)
    rows = {key: {name: values[key] for name, values in flat.items() if key in values} for key in keys}
    return {key: row for key, row in rows.items() if len({repr(value) for value in row.values()}) > 1}


def _flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            pairs += _flatten(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", value))
    return pairs
