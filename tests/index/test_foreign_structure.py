"""A package outside this project adds a kind of candidate structure, by an entry point alone."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import hyperseek
from programs import Programs

PACKAGE = '''
"""Documents by the signs of their first coordinates."""

import json

import numpy as np
import torch
from pydantic import Field

from hyperseek.engines import Structure, StructureConfig, StructureEstimate


class SignsConfig(StructureConfig):
    kind: str = "signs"
    bits: int = Field(default=3, ge=1, le=8)


class Signs(Structure):
    config_type = SignsConfig

    def __init__(self, config, codes):
        self.config, self.codes = config, codes

    @classmethod
    def build(cls, folder, documents, config):
        signs = torch.cat([chunk.vectors[:, : config.bits] > 0 for chunk in documents.chunks(7)])
        np.save(folder / "signs.npy", signs.numpy())
        return {"words": sum(len(text.split()) for text in documents.texts())}

    @classmethod
    def open(cls, folder, documents, config, details):
        return cls(config, torch.from_numpy(np.load(folder / "signs.npy")))

    def can_search(self, scorer):
        return scorer.linear() is not None

    def efforts(self, n):
        return range(1, self.config.bits + 1)

    def search(self, request, *, effort=None):
        """Take documents of which at most `effort` signs are not those of the query."""
        signs = request.scorer.linear()[:, : self.config.bits] > 0
        near = (signs[:, None] != self.codes).sum(dim=2) <= (1 if effort is None else effort)
        if request.allowed is not None:
            near &= torch.from_numpy(request.allowed)
        places = torch.arange(len(self.codes)).expand(near.shape).masked_fill(~near, -1)
        scores, order = request.exact(places).sort(dim=1, descending=True, stable=True)
        return [(scores[:, : request.n], places.gather(1, order)[:, : request.n])]

    @classmethod
    def estimate(cls, space, config, *, count):
        return StructureEstimate(count, 2 * count, count, None)

    @classmethod
    def verify(cls, folder, details):
        json.dumps(details)


class Taken(Signs):
    """Of a name that this project has."""
'''

PROGRAM = """
import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from typer.testing import CliRunner

from hyperseek.cli import app
from hyperseek.engines import STRUCTURES, HnswConfig
from hyperseek.engines.structure import parse_structure
from hyperseek.errors import HyperseekError
from hyperseek.index import Index
from hyperseek.plan import Plan
from hyperseek.scoring import FunctionScorer, LinearScorer, Space
from hyperseek.types import Document

space, vectors = Space("dot", 6), torch.randn(60, 6, generator=torch.Generator().manual_seed(0))
documents = [Document(f"d{n}", "two words", metadata={"n": n}) for n in range(60)]
index = Index.from_vectors("index", zip(documents[:50], vectors, strict=False), space)
built = index.build_engine({"kind": "signs", "bits": 2}, name="by-signs")
assert (built.kind, built.config.bits, built.details) == ("signs", 2, {"words": 100})
index.add(documents[50:], vectors=vectors[50:])
scorer = LinearScorer(space, vectors[:4])
exact = index.search(scorer, k=5, engine="exact", where="n >= 4")
Path("plan.yaml").write_text("stages: [{kind: engine, name: by-signs, n: 60, effort: 2}, {kind: rescore}]")
found = index.search(scorer, k=5, plan=Plan.load("plan.yaml"), where="n >= 4")
assert [[hit.id for hit in hits] for hits in found] == [[hit.id for hit in hits] for hits in exact]
tuning = index.engines.tune(scorer, k=5, recall=0.9)
titles = [one.title for one in tuning.measured]
replace(tuning, chosen=tuning.measured[-1]).save(index.path)  # whichever was faster here
index.refresh()
assert index.explain(scorer, k=5).reason.startswith("the plan tuned on this index")
assert index.explain(scorer, k=5).stages[0].title == "engine"
bent = FunctionScorer(space, lambda queries, points: (queries["v"] @ points.vectors.T).tanh(), {"v": vectors[:4]})


def refused(call):
    try:
        call()
    except HyperseekError as error:
        return str(error)
    raise AssertionError("nothing was refused")


def run(*arguments):
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


update = run("update", "index", "--engine", "signs")
shown = json.loads(run("inspect", "index", "index", "--json").stdout)["engines"]
told = {
    "kinds": list(STRUCTURES),
    "titles": titles,
    "reasons": [index.explain(queries, k=5, engine="by-signs").reason for queries in (scorer, bent)],
    "update": update.stderr,
    "shown": shown,
    "verified": len(Index.open("index", verify=True)),
    "taken": refused(lambda: STRUCTURES.register("hnsw", STRUCTURES["signs"])),
    "cap": refused(lambda: index.build_engine("signs", max_bytes=1)),
    "wrong": refused(lambda: parse_structure({"kind": "signs", "bit": 2})),
    "recall": round(built.recall.share, 4),
    "ours": parse_structure("hnsw") == HnswConfig(),
}
print(json.dumps(told))
"""

WITHOUT = """
from hyperseek.errors import UnknownNameError
from hyperseek.index import Index
from hyperseek.plan import Engine

import torch
from hyperseek.scoring import LinearScorer, Space

index = Index.open("index")
scorer = LinearScorer(Space("dot", 6), torch.ones(1, 6))
assert len(index.search(scorer, k=3)[0]) == 3
assert index.explain(scorer, k=3).reason == "every document is scored, since the index has no engine"
try:
    index.search(scorer, plan=Engine(name="by-signs"))
except UnknownNameError as error:
    assert "unknown kind of engine 'signs'" in str(error), error
else:
    raise AssertionError("it was searched")
index.build_engine("flat")
assert [item.config.bits for item in index.attachments[:2]] == [2, 3]
"""


def run_python(programs: Programs, code: str, folder: Path, *paths: Path) -> subprocess.CompletedProcess[str]:
    source = Path(hyperseek.__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*paths, source)))}
    done = programs.run(["-c", code], cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    return done


def test_a_structure_of_another_package_is_built_searched_tuned_and_inspected(
    tmp_path: Path, programs: Programs
) -> None:
    site = tmp_path / "site"
    (site / "signs-1.0.dist-info").mkdir(parents=True)
    (site / "signs.py").write_text(PACKAGE)
    (site / "signs-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: signs\nVersion: 1.0\n")
    (site / "signs-1.0.dist-info" / "entry_points.txt").write_text(
        "[hyperseek.structures]\nsigns = signs:Signs\nflat = signs:Taken\n"
    )
    done = run_python(programs, PROGRAM, tmp_path, site)
    told = json.loads(done.stdout)
    assert told["kinds"] == ["centroids", "flat", "graph", "hnsw", "ivf", "lance", "qdrant", "qdrant-tokens", "signs"]
    assert "the entry point flat = 'signs:Taken' of the package signs is ignored" in done.stderr
    assert "engine(n=50, name=by-signs, effort=1) > rescore()" in told["titles"]
    assert told["reasons"][0].startswith(
        "candidates from 'by-signs', which can search by this scorer; scored exactly; recall@10 0."
    )
    assert "a 'function' scorer is not linear and 'by-signs' has no chart for those" in told["reasons"][1]
    assert "engine signs: about 120 B of memory to build, 60 B to search" in told["update"]
    assert "engine signs: built for 60 documents; SignsConfig(kind='signs', bits=3)" in told["update"]
    assert told["shown"]["by-signs"] == {
        "kind": "signs",
        "documents": 50,
        "of": 60,
        "words": 100,
        "recall": told["recall"],
        "config": {"kind": "signs", "bits": 2},
    }
    assert told["verified"] == 60
    assert told["taken"] == "the name 'hnsw' is taken by another kind of engine; choose another"
    assert "building 'signs' for 60 documents takes about 120 bytes of memory, more than the 1" in told["cap"]
    assert "bit: unknown key; did you mean 'bits'" in told["wrong"]
    assert told["ours"]
    # Where the package is missing, the index is searched and changed all the same.
    done = run_python(programs, WITHOUT, tmp_path)
    assert "is not used: it searches an engine of the kind 'signs', whose package is not installed" in done.stderr
