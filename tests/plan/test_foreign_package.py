"""A package outside this project adds a source of plans and a kind of space, by entry points alone."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from hyperseek.cli import main
from hyperseek.errors import InputError
from hyperseek.index import Index
from hyperseek.models import load
from hyperseek.plan import Candidates, Fusion, Source, as_plan, register_stage
from hyperseek.plan._plan import STAGES
from hyperseek.scoring import Geometry, LinearScorer, Space, register_scorer, register_space
from hyperseek.scoring._geometries import SPACES
from hyperseek.types import Document
from programs import Programs

PACKAGE = '''
"""A source of documents that are always offered, and a space of inner products times a scale."""

from typing import Literal

import torch

from hyperseek.plan import Candidates, Source
from hyperseek.scoring import Geometry, vectors_of


class Pinned(Source):
    kind: Literal["pinned"] = "pinned"
    n: int = 100
    ids: tuple[str, ...]

    def find(self, search):
        rows = search.snapshot.rows_of_ids(self.ids[: self.n])
        queries = len(search.scorer)
        return Candidates.of_lists([torch.from_numpy(rows)] * queries, [torch.zeros(len(rows))] * queries)


class Scaled(Geometry):
    distance_name = "Euclidean distance"

    def __init__(self, dimension, scale=1.0):
        super().__init__(dimension)
        self.scale = scale

    def score(self, queries, points):
        return self.scale * queries @ vectors_of(points).float().T

    def query_features(self, queries, parameters):
        return self.scale * queries
'''

PROGRAM = """
import json, sys
import torch
from typer.testing import CliRunner
from hyperseek import Document, Index, Space
from hyperseek.cli import app
from hyperseek.plan import Plan, Rescore, as_plan
from hyperseek.plan._plan import STAGES
from hyperseek.scoring import LinearScorer
from hyperseek.scoring._geometries import SPACES

def run(*arguments):
    result = CliRunner().invoke(app, [str(one) for one in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout

told = {"stages": list(STAGES), "spaces": list(SPACES)}
documents = [Document(f"d{row}", f"word{row} here") for row in range(30)]
vectors = torch.randn(30, 6, generator=torch.Generator().manual_seed(1))
space = Space("scaled", 6, scale=3.0)
index = Index.from_vectors("scaled", zip(documents, vectors), space)
scorer = LinearScorer(space, vectors[:2])
index.build_engine("flat")
exact = index.search(scorer, k=5, engine="exact")
told["scores"] = [hit.score for hit in exact[0]]
told["wanted"] = (3 * vectors[0] @ vectors.T).topk(5).values.tolist()
told["engine"] = [[hit.id for hit in hits] for hits in index.search(scorer, k=5, engine="flat")]
told["exact"] = [[hit.id for hit in hits] for hits in exact]
told["pinned"] = [hit.id for hit in index.search(scorer, k=9, plan=Plan.load("plan.yaml"))[0]]
told["json"] = as_plan({"stages": [{"kind": "pinned", "ids": ["d7"]}, "rescore"]}).model_dump(mode="json")
told["again"] = repr(Index.open("scaled").space)
told["inspected"] = run("inspect", "index", "scaled")
(model,) = sys.argv[1:]
lines = [json.dumps({"_id": document.id, "text": document.text}) for document in documents]
open("corpus.jsonl", "w").write("\\n".join(lines))
run("encode", model, "corpus.jsonl", "--index", "texts", "--device", "cpu")
told["searched"] = run("search", "texts", "word3", "--plan", "plan.yaml", "--format", "jsonl", "--no-texts")
print(json.dumps(told))
"""


def test_a_source_and_a_space_of_another_package_work_everywhere(
    tmp_path: Path, tiny_encoder: str, programs: Programs
) -> None:
    site = tmp_path / "site"
    (site / "pins-1.0.dist-info").mkdir(parents=True)
    (site / "pins.py").write_text(PACKAGE)
    (site / "pins-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: pins\nVersion: 1.0\n")
    (site / "pins-1.0.dist-info/entry_points.txt").write_text(
        "[hyperseek.stages]\npinned = pins:Pinned\ngraph = pins:Taken\n\n[hyperseek.spaces]\nscaled = pins:Scaled\n"
    )
    (tmp_path / "plan.yaml").write_text(
        "stages:\n- {kind: union, sources: [{kind: pinned, ids: [d7, d2]}]}\n- rescore\n"
    )
    done = programs.run(
        ["-c", PROGRAM, tiny_encoder],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *filter(None, sys.path)])},
    )
    assert done.returncode == 0, done.stderr
    assert "the entry point graph = 'pins:Taken' of the package pins is ignored" in done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert {"pinned", "graph", "exhaustive"} <= set(told["stages"])
    assert {"scaled", "lorentz", "dot"} <= set(told["spaces"])
    assert told["scores"] == pytest.approx(told["wanted"], rel=1e-5)
    assert told["engine"] == told["exact"]
    assert sorted(told["pinned"]) == ["d2", "d7"]
    assert told["json"]["stages"][0] == {"kind": "pinned", "n": 100, "ids": ["d7"]}
    assert told["again"] == "Space(kind='scaled', dimension=6, scale=3.0)"
    assert "scaled" in told["inspected"]
    assert {hit["id"] for hit in json.loads(told["searched"])["hits"]} == {"d7", "d2"}


class Pinned(Source):
    """A stage of these tests."""

    kind: Literal["pinned"] = "pinned"
    n: int = 3

    def find(self, search: Any) -> Candidates:
        raise NotImplementedError


class OwnPinned(Pinned):
    """One that has its name from another."""


def test_what_cannot_be_registered_is_refused() -> None:
    with pytest.raises(InputError, match="'graph' is taken by another plan stage"):
        register_stage("graph", Pinned)
    with pytest.raises(InputError, match="registered as 'other', so it needs the field `kind"):
        register_stage("other", Pinned)
    with pytest.raises(InputError, match="extends Source or Step"):
        register_stage("other", int)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="'dot' is taken by another space"):
        register_space("dot", Geometry)
    with pytest.raises(InputError, match="extends Geometry"):
        register_space("other", Pinned)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="'linear' is taken by another scorer"):
        register_scorer("linear", LinearScorer)
    with pytest.raises(InputError, match="has the kind 'other'"):
        register_scorer("other", LinearScorer)


def test_a_registered_stage_is_named_in_plans_and_its_mistakes_are_told_in_their_words() -> None:
    register_stage("pinned", Pinned)
    try:
        assert as_plan("pinned") == as_plan([Pinned()]) == as_plan({"kind": "pinned"})
        assert repr(Pinned(n=2) | "pinned") == "(Pinned(n=2) | Pinned())"
        with pytest.raises(InputError, match=r"pinned has no option 'm'.*options: n"):
            as_plan({"kind": "pinned", "m": 3})
        with pytest.raises(InputError, match=r"did you mean 'pinned'.*sources: .*pinned"):
            Pinned() | "pined"
        assert as_plan(OwnPinned).stages == (OwnPinned(),)  # a class stands for itself, registered or not
    finally:
        STAGES.unregister("pinned")
    with pytest.raises(InputError, match="no stage of the kind 'pinned'"):
        as_plan("pinned")


class Broken(Source):
    """A stage that returns what it was told to, or fails."""

    kind: Literal["broken"] = "broken"
    n: int = 3

    def find(self, search: Any) -> Candidates:
        return None if self.n == 1 else {}[self.n]  # type: ignore[return-value]


def test_a_fault_of_a_stage_is_not_called_ours(
    tmp_path: Path, tiny_encoder: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    index = Index.build(tmp_path / "index", [Document("d", "cat")], load(tiny_encoder, device="cpu"))
    register_stage("broken", Broken)
    try:
        with pytest.raises(KeyError):
            index.search("cat", plan=Broken(n=2))
        for plan in (Broken(n=1), Broken(n=1) | Broken(n=1), [Fusion(sources=[Broken(n=1)])]):
            with pytest.raises(InputError, match=rf"broken \({__name__}.Broken\) must return Candidates"):
                index.search("cat", plan=plan)
        (tmp_path / "plan.yaml").write_text("{kind: broken, n: 2}")
        command = ["hyperseek", "search", str(tmp_path / "index"), "cat", "--plan", str(tmp_path / "plan.yaml")]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as stopped:
            main()
    finally:
        STAGES.unregister("broken")
    told = capsys.readouterr().err
    assert stopped.value.code == 1
    assert f"KeyError: 2\nraised in or below {__name__}.Broken.find (" in told
    assert "which registered the plan stage 'broken'" in told
    assert "bug in hyperseek" not in told


@pytest.fixture
def levels() -> Iterator[None]:
    @register_space("levels-test")
    class Levels(Geometry):
        """Points with levels."""

        def __init__(self, dimension: int, levels: int = 2) -> None:
            super().__init__(dimension)
            self.levels = levels

    @register_space("named-test")
    class Named(Geometry):
        """Points with a name, which must be given."""

        def __init__(self, dimension: int, name: str) -> None:
            super().__init__(dimension)
            self.name = name

    yield
    SPACES.unregister("levels-test")
    SPACES.unregister("named-test")


@pytest.mark.usefixtures("levels")
def test_parameters_of_a_space_are_those_of_its_kind() -> None:
    space = Space("levels-test", 4, levels=3)
    assert space == Space("levels-test", 4, 3) != Space("levels-test", 4)
    assert len({space, Space("levels-test", 4, 3)}) == 1
    assert space.to_json() == {"kind": "levels-test", "dimension": 4, "levels": 3}
    assert Space.from_json(space.to_json()) == space
    assert space.shortened(2) == Space("levels-test", 2, 3)
    assert repr(space) == "Space(kind='levels-test', dimension=4, levels=3)"
    with pytest.raises(InputError, match=r"unknown parameter of a 'levels-test' space 'level'.*levels"):
        Space("levels-test", 4, level=3)
    with pytest.raises(InputError, match="has no parameters beside its dimension"):
        Space("dot", 4, 3)
    with pytest.raises(InputError, match="has no parameters beside its dimension; given 'levels'"):
        Space("dot", 4, levels=3)
    with pytest.raises(InputError, match="'levels-test' space has levels beside its dimension; given 3, 'levels'"):
        Space("levels-test", 4, 3, levels=3)
    with pytest.raises(InputError, match="'named-test' space has name beside its dimension; given none"):
        Space("named-test", 4)
    with pytest.raises(InputError, match="a mapping with kind and dimension"):
        Space.from_json({"kind": "dot"})
