"""What engines cost, which one is chosen, and the cap on memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hyperseek.engines import Engine, build_engine, choose_engine, estimate_engine
from hyperseek.engines.structure import parse_structure
from hyperseek.errors import InputError

Build = Callable[..., Engine]

_MEASURE = """
import json, re, sys, torch
from pathlib import Path
from hyperseek.engines import build_engine
from hyperseek.engines.structure import parse_structure

values, folder, count, dimension = json.loads(sys.argv[1])
config = parse_structure(values)

def build(name, count):
    starts = range(0, count, 8192)
    chunks = (torch.randn(min(8192, count - start), dimension) for start in starts)
    build_engine(Path(folder) / name, chunks, config, metric="l2", count=count, dimension=dimension)

def resident(name):
    return 1024 * int(re.search(name + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text()).group(1))

torch.set_num_threads(1)
build("small", 600)
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew; getrusage's would be that of the parent
before = resident("VmRSS")
build("large", count)
print(resident("VmHWM") - before)
"""


def measured(values: dict[str, Any], folder: Path, count: int, dimension: int) -> int:
    """Return by how much building a large engine after a small one raises a process's memory at its peak."""
    arguments = json.dumps([values, str(folder), count, dimension])
    command = [sys.executable, "-c", _MEASURE, arguments]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")
@pytest.mark.parametrize(
    ("values", "count", "least"),
    [
        # The least says that the estimate is no idle bound: a share of it is really used.
        ({"kind": "flat"}, 300_000, 0.0),
        ({"kind": "flat", "storage": "float16"}, 300_000, 0.0),
        ({"kind": "hnsw", "m": 16, "ef_construction": 16}, 200_000, 0.5),
        ({"kind": "ivf", "lists": 64}, 400_000, 0.4),
        ({"kind": "ivf", "lists": 500}, 200_000, 0.4),
        ({"kind": "ivf", "lists": 64, "pq": 16}, 300_000, 0.1),
        ({"kind": "lance"}, 200_000, 0.1),
    ],
    ids=str,
)
def test_building_stays_within_the_estimate(values: dict[str, Any], count: int, least: float, tmp_path: Path) -> None:
    estimate = estimate_engine(parse_structure(values), count=count, dimension=128)
    grown = measured(values, tmp_path, count, 128)
    assert least * estimate.building_bytes <= grown <= estimate.building_bytes
    disk = sum(path.stat().st_size for path in (tmp_path / "large").rglob("*") if path.is_file())
    assert 0.9 * disk <= estimate.disk_bytes <= 1.2 * disk + 2**20


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf"])
def test_disk_estimates_are_what_lies_there(kind: str, tmp_path: Path, build: Build) -> None:
    build(tmp_path / "a", torch.randn(3000, 16), kind, "l2")
    disk = sum(path.stat().st_size for path in (tmp_path / "a").iterdir())
    assert abs(estimate_engine(parse_structure(kind), count=3000, dimension=16).disk_bytes / disk - 1) < 0.1


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf", "lance", "qdrant"])
def test_a_cap_is_checked_before_any_work(kind: str, tmp_path: Path) -> None:
    def unread() -> Iterator[Tensor]:
        raise AssertionError("a vector was read")
        yield

    with pytest.raises(InputError, match=rf"building '{kind}' for 50000 vectors .* none fits; the smallest, 'flat'"):
        build_engine(
            tmp_path / "a", unread(), parse_structure(kind), metric="l2", count=50_000, dimension=64, max_bytes=10**6
        )
    assert not (tmp_path / "a").exists()


def test_a_refusal_names_what_would_fit(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"more than the 900,000,000 .* these would fit: 'flat' \([0-9,]+\)$"):
        build_engine(
            tmp_path, [], parse_structure("hnsw"), metric="l2", count=10**6, dimension=384, max_bytes=900_000_000
        )


def test_a_sufficient_cap_changes_nothing(tmp_path: Path) -> None:
    estimate = estimate_engine(parse_structure("hnsw"), count=50, dimension=4)
    vectors = torch.randn(50, 4)
    engine = build_engine(
        tmp_path / "a",
        [vectors],
        parse_structure("hnsw"),
        metric="l2",
        count=50,
        dimension=4,
        max_bytes=estimate.building_bytes,
    )
    assert len(engine) == 50


def test_shapes_out_of_range_are_refused(tmp_path: Path) -> None:
    for count, dimension in ((-1, 3), (3, 0)):
        with pytest.raises(InputError, match=f"not {count} of {dimension}"):
            estimate_engine(parse_structure("flat"), count=count, dimension=dimension)
        with pytest.raises(InputError, match=f"not {count} of {dimension}"):
            build_engine(tmp_path / "a", [], parse_structure("flat"), metric="l2", count=count, dimension=dimension)


def test_estimates_grow_with_the_collection() -> None:
    for kind in ("flat", "hnsw", "ivf", "lance", "qdrant"):
        small, large = (
            estimate_engine(parse_structure(kind), count=count, dimension=64) for count in (100_000, 1_000_000)
        )
        assert large.disk_bytes > 9 * small.disk_bytes
        assert large.memory_bytes > small.memory_bytes
        assert large.seconds is not None
        assert small.seconds is not None
        assert large.seconds > small.seconds
    server = estimate_engine(parse_structure({"kind": "qdrant", "server": True}), count=10**6, dimension=64)
    assert server.seconds is None
    assert server.disk_bytes == 0


@pytest.mark.parametrize(
    ("count", "metric", "max_bytes", "kind", "reason"),
    [
        (0, "l2", None, "flat", "flat and exact"),
        (20_000, "l2", None, "flat", "compared in some milliseconds"),
        (1_000_000, "l2", None, "hnsw", "graph"),
        (1_000_000, "inner_product", None, "ivf", "inner products mislead graphs"),
        (1_000_000, "l2", 1_800_000_000, "ivf", "shortened vectors (IVF-PQ), because 1,000,000 vectors"),
        (1_000_000, "inner_product", 200_000_000, "flat", "nothing faster"),
    ],
)
def test_auto_chooses_by_size_metric_and_memory(
    count: int, metric: Any, max_bytes: int | None, kind: str, reason: str
) -> None:
    config, why = choose_engine(count=count, dimension=384, metric=metric, max_bytes=max_bytes)
    assert config.kind == kind
    assert (getattr(config, "pq", None) == 96) == ("PQ" in why)
    assert reason in why
    if max_bytes is not None:
        assert estimate_engine(config, count=count, dimension=384).building_bytes <= max_bytes


def test_auto_says_when_nothing_fits() -> None:
    with pytest.raises(InputError, match=r"no engine for .* can be built in 1,000 bytes; a flat one takes"):
        choose_engine(count=10, dimension=4, metric="l2", max_bytes=1000)
