"""Damaged index folders: an error of ours that names the file, or the same answer; never other texts in silence."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from index_fakes import FakeRetriever

from hyperseek.errors import StoreError, UnknownNameError, WriteError
from hyperseek.index import Index
from hyperseek.plan import Graph
from hyperseek.types import Document
from programs import Programs

DOCUMENTS = [
    Document(f"d{n}", f"river stone {n} road {n % 7} " + "text " * 20, f"Title {n}", {"n": n, "tags": ["a", "b"]})
    for n in range(60)
]
ENGINES = ("exact", "hnsw")


def build(folder: Path) -> Path:
    index = Index.build(folder, DOCUMENTS, FakeRetriever())  # type: ignore[arg-type]
    index.add([Document("late", "river late")])
    index.build_engine("hnsw")
    index.build_graph(degree=4)
    return folder


def answers(index: Index) -> list[Any]:
    found: list[Any] = [index.search("river 3", k=5, engine=engine) for engine in ENGINES]
    found.append(index.search("river 3", k=5, plan=Graph(n=20)))
    found.append(index.search("river 3", k=5, where="n > 30"))
    found.append(list(index.documents()))
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("damage") / "index")


def mutate(path: Path, generator: random.Random) -> str:
    content = bytearray(path.read_bytes())
    kind = generator.choice(["flip", "flip", "zero", "cut", "swap", "insert", "delete", "empty"])
    size = len(content)
    if kind in ("delete",) or not size:
        path.unlink()
        return "delete"
    at, length = generator.randrange(size), generator.randrange(1, 64)
    if kind == "flip":
        content[at] ^= 1 << generator.randrange(8)
    elif kind == "zero":
        content[at : at + length] = bytes(len(content[at : at + length]))
    elif kind == "cut":
        del content[at:]
    elif kind == "swap":
        other = generator.randrange(size)
        content[at], content[other] = content[other], content[at]
    elif kind == "insert":
        content[at:at] = generator.randbytes(length)
    else:
        content = bytearray()
    path.write_bytes(content)
    return kind


def damaged(whole: Path, place: Path, count: int, seed: int) -> dict[str, int]:
    """Damage a copy of an index in many ways; return how each of them ended."""
    expected = answers(Index.open(whole, model=FakeRetriever()))  # type: ignore[arg-type]
    files = [path.relative_to(whole) for path in sorted(whole.rglob("*")) if path.is_file() and path.name != ".lock"]
    generator = random.Random(seed)
    ends = {"refused": 0, "same": 0}
    for number in range(count):
        folder = place / f"copy-{number}"
        shutil.copytree(whole, folder)
        # Large files are hit as often as small ones.
        name = generator.choice(files)
        before = (folder / name).read_bytes()
        kind = mutate(folder / name, generator)
        unchanged = (folder / name).exists() and (folder / name).read_bytes() == before
        start = time.monotonic()
        for verify in (False, True):
            try:
                index = Index.open(folder, model=FakeRetriever(), verify=verify)  # type: ignore[arg-type]
                found = answers(index)
            except (StoreError, UnknownNameError) as error:
                # An index whose list of engines is gone has none.
                assert isinstance(error, StoreError) or (name.name == "engines.json" and not verify)  # noqa: PT017
                ends["refused"] += 1
            else:
                assert found == expected, (name, kind, number)
                ends["same"] += 1
                # What is not noted is either not read or made anew by its reader.
                assert unchanged or not verify or name.name in ("latest_version_hint.json", "checksums.json"), (
                    name,
                    kind,
                )
        assert time.monotonic() - start < 10, (name, kind)
        shutil.rmtree(folder)
    return ends


def test_no_damage_goes_unnoticed(whole: Path, tmp_path: Path) -> None:
    ends = damaged(whole, tmp_path, 100, seed=0)
    assert ends["refused"] > 100


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_damage_goes_unnoticed_two_thousand_times(whole: Path, tmp_path: Path) -> None:
    damaged(whole, tmp_path, 2000, seed=1)


def test_an_undamaged_index_verifies_after_every_change(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "index")
    model: Any = FakeRetriever()
    index = Index.open(tmp_path / "index", model=model, verify=True)
    for change in (
        lambda: index.add([Document("a", "river a")]),
        lambda: index.add([Document("d3", "another text")], replace=True),
        lambda: index.delete(["d4"]),
        lambda: index.compact(),
        lambda: index.build_engine("flat"),
        lambda: index.drop("hnsw"),
        lambda: index.engines.tune(["river"], recall=0.5),
    ):
        change()
        Index.open(tmp_path / "index", model=model, verify=True)


def test_an_index_of_an_earlier_version_opens_and_cannot_be_verified(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "index")
    (tmp_path / "index" / "documents.lance" / "checksums.json").unlink()
    model: Any = FakeRetriever()
    assert len(Index.open(tmp_path / "index", model=model)) == 61
    with pytest.raises(StoreError, match="Compact the index"):
        Index.open(tmp_path / "index", model=model, verify=True)
    Index.open(tmp_path / "index", model=model).compact()
    Index.open(tmp_path / "index", model=model, verify=True)


_LIMITED = """
import os, resource, signal, sys
sys.path.insert(0, os.path.dirname(sys.argv[2]))
from pathlib import Path
from test_damage import DOCUMENTS, FakeRetriever, Index
from hyperseek import HyperseekError
model = FakeRetriever()
new = [DOCUMENTS[0].__class__("x", "river")]
def actions(folder):
  return {
    "build": lambda: Index.build(folder.parent / f"new-{folder.name}", DOCUMENTS, model),
    "add": lambda: Index.open(folder, model=model).add(new),
    "delete": lambda: Index.open(folder, model=model).delete(["d1"]),
    "compact": lambda: Index.open(folder, model=model).compact(),
    "scan": lambda: Index.open(folder, model=model).build_engine("flat", name="new"),
    "hnsw": lambda: Index.open(folder, model=model).build_engine("hnsw", name="new"),
    "ivf": lambda: Index.open(folder, model=model).build_engine("ivf", name="new"),
    "lance": lambda: Index.open(folder, model=model).build_engine("lance", name="new"),
    "graph": lambda: Index.open(folder, model=model).build_graph(degree=50, name="other"),
    "tune": lambda: Index.open(folder, model=model).engines.tune(["river"], recall=0.1),
}
place = Path(sys.argv[1])
for act in actions(place / "warm").values():
    act()  # imports come first
# As on a full disk, files cannot grow; the signal would otherwise end the process.
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limit, most = resource.getrlimit(resource.RLIMIT_FSIZE)
for case in sys.argv[3:]:
    if case == "forbidden":
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
        os.setgid(65534)
        os.setuid(65534)
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(case), most))
    for name, act in actions(place / case).items():
        try:
            act()
        except HyperseekError as error:
            print(case, name, type(error).__name__, str(error).splitlines()[0], flush=True)
        else:
            print(case, name, "done", flush=True)
"""


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A folder that others may enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_a_disk_that_cannot_be_written_is_an_error_of_ours(whole: Path, open_place: Path, programs: Programs) -> None:
    # Files of at most so many bytes; and a user who may not write there, whom only root can become.
    cases = ["100", "3000", *(["forbidden"] if os.getuid() == 0 else [])]
    for copy in ("warm", *cases):
        shutil.copytree(whole, open_place / copy)
    before = answers(Index.open(whole, model=FakeRetriever(), verify=True))  # type: ignore[arg-type]
    result = programs.run(["-c", _LIMITED, str(open_place), __file__, *cases], timeout=200)
    assert result.returncode == 0, result.stderr[-2000:]
    ends = [line.split(" ", 2) for line in result.stdout.splitlines()]
    assert len(ends) == 10 * len(cases)
    for case, action, end in ends:
        # Lance does not notice a short write by itself; the engine says so when it is first read.
        late = case == "3000" and (end == "done" or "build the engine again" in end)
        assert end.startswith("WriteError") or late, (case, action, end)
    assert ".rs" not in result.stdout
    assert "Traceback" not in result.stderr
    for case in cases:
        index = Index.open(open_place / case, model=FakeRetriever(), verify=True)  # type: ignore[arg-type]
        if case != "3000":
            assert answers(index) == before


def test_room_for_a_graph_is_taken_before_it_is_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    import torch

    from hyperseek.graph import NeighbourGraph

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(WriteError, match="the disk is full"):
        NeighbourGraph.build(tmp_path / "graph", torch.randn(20, 4), degree=3)
