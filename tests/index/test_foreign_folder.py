"""An index folder from a stranger is data: nothing outside it is read, written or deleted, whatever it says."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from index_fakes import FakeRetriever

from hyperseek import HyperseekError
from hyperseek.errors import StoreError
from hyperseek.index import Index
from hyperseek.plan import Graph
from hyperseek.types import Document

NAMES = [
    "..",
    "../victim",
    "../../victim",
    "engines/../../victim",
    "/tmp",
    "C:\\victim",
    "\\\\server\\share",
    "engines/./x",
    "",
    ".",
    "engines//x",
    "engines/x\0y",
    "engines/" + "x" * 300,
    "/".join(["engines", *"abcdefghijklmnopqrst"]),
    "file:///victim",
    "s3://bucket/victim",
]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index with an engine and a graph, and beside it what must stay as it is."""
    place = tmp_path_factory.mktemp("foreign")
    documents = [Document(f"d{n}", f"river {n}", metadata={"n": n}) for n in range(30)]
    index = Index.build(place / "index", documents, FakeRetriever())  # type: ignore[arg-type]
    index.build_engine("flat")
    index.build_graph(degree=3)
    # The victim is an index itself, so that whatever is opened or deleted there would work.
    Index.build(place / "victim", documents[:5], FakeRetriever()).build_engine("flat")  # type: ignore[arg-type]
    return place


@pytest.fixture
def place(built: Path, tmp_path: Path) -> Path:
    shutil.copytree(built, tmp_path / "place")
    return tmp_path / "place"


def change(path: Path, edit: Callable[[Any], None]) -> None:
    values = json.loads(path.read_text())
    values.pop("checksum", None)  # a stranger would make a right one
    edit(values)
    path.write_text(json.dumps(values))


def use(index: Path) -> list[HyperseekError]:
    """Do everything that can be done to an index; foreign exceptions fail the test."""
    model: Any = FakeRetriever()
    documents = [Document("new", "river stone")]
    errors: list[HyperseekError] = []
    for action in (
        lambda: Index.open(index, model=model).search("river", k=3),
        lambda: Index.open(index, model=model, verify=True),
        lambda: Index.open(index, model=model).search("river", k=3, engine="scan"),
        lambda: Index.open(index, model=model).search("river", k=3, plan=Graph(n=9)),
        lambda: Index.open(index, model=model).build_engine("flat"),
        lambda: Index.open(index, model=model).drop("flat"),
        lambda: Index.open(index, model=model).add(documents),
        lambda: Index.open(index, model=model).delete(["d1"]),
        lambda: Index.open(index, model=model).compact(),
        lambda: Index.build(index, documents, model, overwrite=True),
    ):
        try:
            action()
        except HyperseekError as error:
            errors.append(error)
    return errors


def test_names_of_places_stay_within_the_folder(place: Path) -> None:
    before = contents(place / "victim")
    generator = random.Random(0)
    victim = str(place / "victim")
    for name in [*NAMES, victim, f"{victim}/documents.lance", "../victim/documents.lance"]:
        for file, field in (("index.json", "table"), ("engines.json", "folder")):
            copy = place / "copy"
            shutil.copytree(place / "index", copy)

            def edit(values: Any, field: str = field, name: str = name) -> None:
                if field == "table":
                    values["table"] = name
                else:
                    generator.choice(values["items"])["folder"] = name

            change(copy / file, edit)
            errors = use(copy)
            assert errors, name
            assert "touched" in str(errors[0]) or "not a folder in engines/" in str(errors[0]), (name, errors[0])
            assert contents(place / "victim") == before, name
            shutil.rmtree(copy)


@pytest.mark.parametrize(
    "linked", ["engines", "engines.json", "index.json", ".lock", "documents.lance", "documents.lance/data", "engines/*"]
)
def test_links_are_not_followed(place: Path, linked: str) -> None:
    index, victim = place / "index", place / "victim"
    before = contents(victim)
    for path in sorted(index.glob(linked)) or [index / linked]:
        target = victim / path.relative_to(index)
        if linked == "engines/*":
            target = next((victim / "engines").iterdir())
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        os.symlink(target, path)
    assert use(index)
    assert contents(victim) == before


def test_leftovers_that_are_links_are_not_followed(place: Path) -> None:
    index, victim = place / "index", place / "victim"
    before = contents(victim)
    os.symlink(victim, index / "engines" / "left-12345678")
    os.symlink(victim, index / "documents-7.lance")
    use(index)
    assert contents(victim) == before


def test_an_index_without_engines_says_how_to_build_one(place: Path) -> None:
    index = Index.open(place / "index", model=FakeRetriever())  # type: ignore[arg-type]
    index.drop("flat")
    index.drop("graph")
    with pytest.raises(HyperseekError, match=r"unknown engine 'hnsw'; this index has none yet; build one with: .*hnsw"):
        index.search("river", engine="hnsw")


@pytest.mark.parametrize(
    "tuned",
    [
        {},
        {"plan": {}, "k": 10, "recall": 1.0, "queries": 1},
        {"plan": {"stages": []}, "k": 0, "recall": 1.0, "queries": 1},
        {"plan": {"stages": [{"kind": "dense", "n": 10, "model": "evil/model"}]}, "k": 10, "recall": 1, "queries": 1},
        {"plan": {"stages": [{"kind": "nonsense"}]}, "k": 10, "recall": 1.0, "queries": 1},
        7,
    ],
)
def test_tuned_plans_are_data(place: Path, tuned: object) -> None:
    change(place / "index" / "engines.json", lambda values: values.update(plans={"linear": tuned}))
    with pytest.raises(StoreError):
        Index.open(place / "index", model=FakeRetriever()).search("river")  # type: ignore[arg-type]
