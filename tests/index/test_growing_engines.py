"""A token index in an index that changes: documents come and go, updates are killed, readers read on."""

from __future__ import annotations

import os
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hyperseek.engines._centroids import Centroids
from hyperseek.engines._token_codes import Codebook
from hyperseek.errors import StoreError
from hyperseek.index import Index
from hyperseek.plan import Engine, Rescore, stages
from hyperseek.scoring import MaxSimScorer, Space
from hyperseek.store.attachments import Attachments
from hyperseek.types import Document
from programs import Programs

DIMENSION = 8
SPACE = Space("tokens", DIMENSION)
EVERYTHING = Engine(name="centroids", n=1000, effort=1000) >> Rescore()


def vectors_of(names: list[str]) -> list[Any]:
    """Return 1 to 6 token vectors of each name."""
    found = []
    for name in names:
        generator = torch.Generator().manual_seed(int(name.strip("dex")))
        found.append(torch.randn(1 + int(name[-1]) % 6, DIMENSION, generator=generator))
    return found


def named(start: int, stop: int) -> list[str]:
    return [f"d{number}" for number in range(start, stop)]


def add(index: Index, names: list[str], **settings: Any) -> int:
    documents = [Document(name, "", metadata={"n": int(name.strip("dex"))}) for name in names]
    return index.add(documents, vectors=vectors_of(names), **settings)


def make(folder: Path, count: int = 60) -> Index:
    names = named(0, count)
    documents = [Document(name, "", metadata={"n": number}) for number, name in enumerate(names)]
    index = Index.from_vectors(folder, zip(documents, vectors_of(names), strict=True), SPACE)
    index.build_engine({"kind": "centroids", "bits": 4})
    return index


def queries() -> MaxSimScorer:
    tokens = torch.randn(5, 4, DIMENSION, generator=torch.Generator().manual_seed(77))
    return MaxSimScorer(SPACE, tokens, torch.ones(5, 4))


def ids(found: Any) -> list[list[str]]:
    return [[hit.id for hit in hits] for hits in found]


def shown_of(index: Index) -> dict[str, Any]:
    return index.attachments[0].described()


def check(index: Index) -> None:
    """Compare with exact search what the engine finds with all probes, and see that no document is unknown to it."""
    index = Index.open(index.path, verify=True)
    scorer = queries()
    for where in (None, "n >= 20"):
        exact = index.search(scorer, k=200, engine="exact", where=where)
        assert ids(index.search(scorer, k=200, plan=EVERYTHING, where=where)) == ids(exact)
    notes = index.explain(scorer, plan=EVERYTHING).lines()
    assert not any("unknown" in line for line in notes)
    [record] = index.attachments
    assert record.count >= len(index)


def test_documents_come_and_go(tmp_path: Path) -> None:
    index = make(tmp_path / "index")
    check(index)
    for start, stop in ((60, 61), (61, 63), (63, 70), (70, 71), (71, 130)):
        add(index, named(start, stop))
        check(index)
    [record] = index.attachments
    parts = [part["documents"] for part in record.details["parts"]]
    assert sum(parts) == 130
    assert parts[0] == 60  # what was built stays as it is
    assert all(first >= 2 * second for first, second in pairwise(parts[1:]))
    index.delete(named(5, 40))
    add(index, named(0, 3), replace=True)
    check(index)
    assert index.attachments[0].count == 133  # deleted ones are passed over
    index.compact()
    check(index)
    [record] = index.attachments
    assert record.count == len(index) == 95
    assert [part["documents"] for part in record.details["parts"]] == [22, 73]
    again = index.attachments[0].details["parts"][1]
    index.compact()
    assert index.attachments[0].details["parts"][1]["tokens"] == again["tokens"]


def test_drift_is_shown(tmp_path: Path) -> None:
    index = make(tmp_path / "index")
    shown = shown_of(index)
    assert "drift" not in shown
    assert 0 < shown["centroid_error"] < 1
    documents = [Document(f"e{number}", "") for number in range(20)]
    index.add(documents, vectors=[5 * torch.ones(3, DIMENSION) + torch.randn(3, DIMENSION) for _ in documents])
    shown = shown_of(index)
    assert shown["drift"] > 1  # of another distribution: it is time to learn anew
    assert shown["centroid_error_of_newest"] > 2 * shown["centroid_error"]
    index.compact()
    assert shown_of(index)["drift"] == pytest.approx(shown["drift"], abs=0.01)


def test_a_reader_goes_on_with_what_it_sees(tmp_path: Path) -> None:
    index = make(tmp_path / "index")
    reader = Index.open(index.path)
    before = ids(reader.search(queries(), k=10, plan=EVERYTHING))
    add(index, named(60, 90))
    index.delete(named(0, 20))
    index.compact()
    assert ids(reader.search(queries(), k=10, plan=EVERYTHING)) == before
    check(index)


def test_an_update_that_fails_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    index = make(tmp_path / "index")
    with monkeypatch.context() as patch:

        def failing(*_: Any) -> Any:
            raise StoreError("the disk is gone")

        patch.setattr(Centroids, "extend", failing)
        assert add(index, named(60, 70)) == 10
    assert (
        "the engine 'centroids' stays as it is, and what it does not know is scanned: the disk is gone" in caplog.text
    )
    assert ids(index.search(queries(), k=80, plan=EVERYTHING)) == ids(index.search(queries(), k=80, engine="exact"))
    assert any("unknown" in line for line in index.explain(queries(), plan=EVERYTHING).lines())
    add(index, named(70, 72))  # takes in what was missed
    check(index)


def test_measured_recall_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = make(tmp_path / "index")
    assert shown_of(index)["recall"] >= 0.98
    few = "every document is scored, which is fast for fewer than"
    assert index.explain(queries()).reason.startswith(few)
    monkeypatch.setattr(stages, "_FEW", 10)
    assert index.explain(queries()).reason.startswith("candidates from 'centroids'")
    listed = Attachments.read(index.path)
    [item] = listed.items
    assert item.recall is not None
    poor = item.model_copy(update={"recall": item.recall.model_copy(update={"share": 0.51})})
    listed.with_changed(poor).write(index.path)
    index.refresh()
    reason = index.explain(queries()).reason
    assert reason.startswith(
        "every document is scored, since 'centroids' found only 0.510 of the best when it was built"
    )
    assert index.explain(queries(), engine="centroids").reason.startswith("candidates from 'centroids'")
    tuning = index.engines.tune(queries(), k=5, recall=0.9)
    assert index.explain(queries(), k=5).reason.startswith("the plan tuned on this index for maxsim scorers: recall@5")
    assert tuning.chosen.recall >= 0.9


KILLED_BUILD = """
import os, signal, sys
from hyperseek.engines import _centroids as module
from hyperseek.index import Index

module._COMMIT_EVERY, module.TOKEN_CHUNK = -1.0, 8
noted = []
seal = module.write_sealed

def write_sealed(path, values):
    seal(path, values)
    noted.append(values["part"]["documents"])
    if len(noted) == 4:
        os.kill(os.getpid(), signal.SIGKILL)

module.write_sealed = write_sealed
Index.open(sys.argv[1]).build_engine({"kind": "centroids", "bits": 4})
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kills by a signal")
def test_a_killed_build_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, programs: Programs) -> None:
    whole, index = make(tmp_path / "whole"), make(tmp_path / "index")
    index.drop("centroids")
    done = programs.run(["-c", KILLED_BUILD, str(index.path)])
    assert done.returncode == -9
    assert not Index.open(index.path, verify=True).attachments  # what is unfinished is in no list
    monkeypatch.setattr(Codebook, "learn", None)  # nothing is learned again
    assigned = []
    assign = Codebook.assign

    def counted(book: Codebook, vectors: torch.Tensor) -> torch.Tensor:
        assigned.append(len(vectors))
        return assign(book, vectors)

    monkeypatch.setattr(Codebook, "assign", counted)
    index.build_engine({"kind": "centroids", "bits": 4})
    tokens = torch.tensor([len(vectors) for vectors in vectors_of(named(0, 60))])
    assert sum(assigned) == int(tokens[24:].sum())  # three pieces of eight documents were stored
    check(index)
    assert index.attachments[0].details["files"] == whole.attachments[0].details["files"]


KILLED = """
import os, signal, sys
import numpy as np
from pathlib import Path
sys.path.insert(0, sys.argv[3])
import test_growing_engines as tests
from hyperseek.engines import _token_parts
from hyperseek.index import Index

def killed(*arguments, **settings):
    os.kill(os.getpid(), signal.SIGKILL)

index = Index.open(sys.argv[1])
setattr(*{"writing": (_token_parts.PartWriter, "finish"), "keys": (np, "save")}[sys.argv[2]], killed)
tests.add(index, tests.named(60, 75))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kills by a signal")
@pytest.mark.parametrize("moment", ["writing", "keys"])
def test_a_killed_update_loses_nothing(moment: str, tmp_path: Path, programs: Programs) -> None:
    index = make(tmp_path / "index")
    source = str(Path(__file__).parent)
    done = programs.run(["-c", KILLED, str(index.path), moment, source])
    assert done.returncode == -9
    index = Index.open(index.path, verify=True)
    assert len(index) == 75
    assert ids(index.search(queries(), k=80, plan=EVERYTHING)) == ids(index.search(queries(), k=80, engine="exact"))
    [begun] = {path.name for path in (index.path / "engines").iterdir()} - {Path(index.attachments[0].folder).name}
    add(index, named(75, 80))
    check(index)
    assert not (index.path / "engines" / begun).exists()


def test_files_of_another_folder_are_never_written(tmp_path: Path) -> None:
    index = make(tmp_path / "index")
    [place] = (index.path / "engines").iterdir()
    kept = tmp_path / "kept"
    before = {}
    for path in place.rglob("*"):
        if path.is_file():
            target = kept / path.relative_to(place)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, target)
            before[target] = path.read_bytes()
    add(index, named(60, 80))
    index.delete(named(10, 30))
    index.compact()
    assert {path: path.read_bytes() for path in before} == before
    assert np.load(kept / "keys.npy").shape == (60,)


def test_candidates_are_read_from_the_disk(tmp_path: Path) -> None:
    index = make(tmp_path / "index")
    index.search(queries(), k=5, engine="centroids")
    assert index._opened.snapshot.in_memory is None
    index.search(queries(), k=5, engine="exact")
    assert index._opened.snapshot.in_memory is not None
