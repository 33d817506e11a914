"""What engines are made from: one configuration a kind, told apart by `kind`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, get_args

from pydantic import Field, model_validator

from hyperseek._config import Config
from hyperseek.errors import ConfigError, UnknownNameError, shown


class EngineConfig(Config):
    """Base of all engines' configurations.

    Attributes:
        kind: Names the engine.
    """

    exact: ClassVar[bool] = False
    """Whether the engine always finds the best vectors, however little effort it is given."""

    kind: str

    @property
    def graph(self) -> bool:
        """Whether the engine walks a graph of neighbours: such engines need charts that are searched by distance."""
        return False


class ScanConfig(EngineConfig):
    """Compare all vectors, exactly.

    Attributes:
        kind: `scan`.
        storage: Number type on the disk. Scores are those of the stored numbers, computed without loss.
        device: `auto` takes a CUDA device where there is one with room for all vectors; else they stay on the disk,
            mapped into memory.
    """

    exact: ClassVar[bool] = True

    kind: Literal["scan"] = "scan"
    storage: Literal["float32", "float16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"


class HnswConfig(EngineConfig):
    """Walk a hierarchical graph of near vectors (faiss), mapped into memory.

    Attributes:
        kind: `hnsw`.
        m: Links of a vector; twice as many on the lowest level.
        ef_construction: Candidates that are weighed for the links of a new vector.
        effort: Candidates that a search keeps in mind (efSearch); at least `k` are taken.
    """

    kind: Literal["hnsw"] = "hnsw"
    m: int = Field(default=32, ge=2, le=256)
    ef_construction: int = Field(default=200, ge=1)
    effort: int = Field(default=128, ge=1)

    @property
    def graph(self) -> bool:
        """True."""
        return True


class IvfConfig(EngineConfig):
    """Compare the vectors in the cells nearest to the query (faiss), mapped into memory.

    Attributes:
        kind: `ivf`.
        lists: Number of cells; None for about four times the square root of the number of vectors.
        effort: Cells that a search visits (nprobe).
        pq: Bytes to which each vector is shortened, a divisor of the dimension; None to keep all of it. Shortened
            vectors have approximate scores.
        seed: Of the training sample and the cells.
    """

    kind: Literal["ivf"] = "ivf"
    lists: int | None = Field(default=None, ge=1)
    effort: int = Field(default=32, ge=1)
    pq: int | None = Field(default=None, ge=1)
    seed: int = 0


class LanceConfig(EngineConfig):
    """Search an index that stays on the disk (Lance).

    Attributes:
        kind: `lance`.
        index: Lance's name of the sort of index. `PQ` and `SQ` shorten vectors.
        partitions: Number of cells, of 256 vectors or more; None for the square root of the number of vectors.
        effort: Cells that a search visits (nprobes). In `HNSW` indexes also the candidates that it keeps in mind in
            each of them.
        pq: Bytes to which `IVF_PQ` shortens a vector, a divisor of the dimension; None for an eighth of it.
        refine: Times `k` that are compared in full after the search among shortened vectors; None for no such step.
    """

    kind: Literal["lance"] = "lance"
    index: Literal["IVF_FLAT", "IVF_PQ", "IVF_SQ", "IVF_HNSW_FLAT", "IVF_HNSW_SQ"] = "IVF_FLAT"
    partitions: int | None = Field(default=None, ge=1)
    effort: int = Field(default=32, ge=1)
    pq: int | None = Field(default=None, ge=1)
    refine: int | None = Field(default=None, ge=1)

    @property
    def graph(self) -> bool:
        """Whether the cells hold graphs."""
        return "HNSW" in self.index


class QdrantConfig(EngineConfig):
    """Ask Qdrant: a server, or without one its client's own exact search, for tests and small collections.

    Attributes:
        kind: `qdrant`.
        server: Whether to ask the server that `use_qdrant` or the environment names; None does so if there is one.
        collection: How the collection's name begins; a part that makes it unique follows.
        m: Links of a vector.
        ef_construction: Candidates that are weighed for the links of a new vector.
        effort: Candidates that a search keeps in mind.
    """

    kind: Literal["qdrant"] = "qdrant"
    server: bool | None = None
    collection: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_-]{1,100}$")
    m: int = Field(default=32, ge=2, le=256)
    ef_construction: int = Field(default=200, ge=4)
    effort: int = Field(default=128, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _no_server(cls, values: Any) -> Any:
        # A folder that comes from a stranger would otherwise say where vectors and keys are sent.
        if isinstance(values, dict) and {"url", "api_key_variable"} & values.keys():
            raise ValueError(
                "the server and its key are no part of an engine; name them with hyperseek.engines.use_qdrant or "
                "HYPERSEEK_QDRANT_URL and HYPERSEEK_QDRANT_API_KEY, and give server=True"
            )
        return values

    @property
    def graph(self) -> bool:
        """True: servers walk a graph."""
        return True


AnyEngineConfig: TypeAlias = Annotated[
    ScanConfig | HnswConfig | IvfConfig | LanceConfig | QdrantConfig, Field(discriminator="kind")
]
"""A configuration of any kind of engine."""

KINDS: dict[str, type[ScanConfig | HnswConfig | IvfConfig | LanceConfig | QdrantConfig]] = {
    config.model_fields["kind"].default: config for config in get_args(get_args(AnyEngineConfig)[0])
}


def parse_engine(engine: str | Mapping[str, Any] | AnyEngineConfig) -> AnyEngineConfig:
    """Make a configuration from what is easy to write.

    Args:
        engine: A kind with its defaults, as `"hnsw"`; plain values, as `{"kind": "hnsw", "m": 16}`; or a
            configuration.

    Returns:
        The configuration.

    Raises:
        UnknownNameError: There is no such kind of engine.
        ConfigError: The values do not validate, or are none.
    """
    if isinstance(engine, ScanConfig | HnswConfig | IvfConfig | LanceConfig | QdrantConfig):
        return engine
    if not isinstance(engine, str | Mapping):
        raise ConfigError(
            f"an engine is given by its kind, as 'hnsw', or by a configuration, as {{'kind': 'hnsw', 'm': 16}}, not "
            f"{shown(engine)}"
        )
    values = {"kind": engine} if isinstance(engine, str) else dict(engine)
    kind = str(values.get("kind"))
    if kind not in KINDS:
        raise UnknownNameError("kind of engine", kind, KINDS)
    return KINDS[kind].from_mapping(values, source=f"engine {kind!r}")


def what_fits(building_bytes: Callable[[AnyEngineConfig], int], max_bytes: int) -> str:
    """Say which kinds of engines with their defaults would fit into memory, by what building each of them takes."""
    needs = {kind: building_bytes(make()) for kind, make in KINDS.items()}
    fitting = [f"{kind!r} ({need:,})" for kind, need in needs.items() if need <= max_bytes]
    if fitting:
        return f"with their defaults these would fit: {', '.join(fitting)}"
    return f"none fits; the smallest, {min(needs, key=needs.__getitem__)!r}, takes {min(needs.values()):,}"
