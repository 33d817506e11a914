"""Every form of points trains on one road: token vectors through `hyperseek train`, and a form of the test's own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest
import torch
import yaml
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Module, Transformer
from torch import Tensor
from typer.testing import CliRunner

from hyperseek.cli import app
from hyperseek.data import open_dataset
from hyperseek.models import Retriever, load
from hyperseek.runs.loop import ShowProgress
from hyperseek.scoring import Points, Scorer, Space
from hyperseek.training import LossesConfig, Recipe, read_record
from hyperseek.training._cache import FeatureCache, SideFeatures
from hyperseek.training._epoch_batches import EpochBatches
from hyperseek.training._trainer import TrainedStack, TrainingModule
from hyperseek.training._training_set import Collator, TrainingSet
from hyperseek.training._validation import DevSet, Validator
from hyperseek.training.losses import Objective

MakeRecipe = Callable[..., Recipe]
LATE = {"dimension": 8, "skipped": ["cat"], "query_expansion": {"length": 8, "attend": False}}


def late_recipe(make_recipe: MakeRecipe, collection: Path, dev: dict[str, Any], **train: Any) -> dict[str, Any]:
    values = make_recipe().model_dump(mode="json", exclude_none=True)
    values["model"] = {"trunk": values["model"]["trunk"], "family": "late", "late": LATE}
    values["data"] = {"sources": {"toy": {"source": f"{collection}:train"}}, "extra_documents": 4}
    values["losses"] = {"contrastive": {"temperature": 1.0}, "own_cross_entropy": {}, "anchor": {"weight": 0.1}}
    # Queries that are trained on: a random trunk learns nothing that helps with others.
    values["validation"] = {**dev, "sets": {"toy": {"source": f"{collection}:train"}}}
    values["train"] |= {"learning_rate": 1e-2, **train}
    return values


def run(values: dict[str, Any], folder: Path) -> None:
    recipe = folder.with_suffix(".yaml")
    recipe.write_text(yaml.safe_dump(values))
    result = CliRunner().invoke(app, ["train", str(recipe), "--output", str(folder)], catch_exceptions=False)
    assert result.exit_code == 0, result.output


def weights(folder: Path) -> dict[str, Tensor]:
    files = sorted(path for path in folder.rglob("*.safetensors") if "checkpoints" not in path.parts)
    return {f"{path.relative_to(folder)}:{name}": value for path in files for name, value in load_file(path).items()}


def test_late_interaction_trains_through_the_command_line(
    make_recipe: MakeRecipe, collection: Path, dev: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = late_recipe(make_recipe, collection, dev, max_steps=6)
    run(values, tmp_path / "whole")
    record = read_record(tmp_path / "whole")
    assert record is not None
    assert record.parameters == 32 * 8  # the trunk is frozen
    assert [entry.step for entry in record.validation] == [0, 2, 4, 6]
    assert record.best_step != 0

    # Killed, resumed, and with what the first run cached: nothing is encoded again.
    advance = ShowProgress.on_step_end

    def killed(self: ShowProgress, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 5:
            raise SystemExit(9)
        advance(self, args, state, control, **kwargs)

    monkeypatch.setattr(FeatureCache, "_compute", None)
    with monkeypatch.context() as patch:
        patch.setattr(ShowProgress, "on_step_end", killed)
        assert (
            CliRunner().invoke(app, ["train", str(tmp_path / "whole.yaml"), "-o", str(tmp_path / "killed")]).exit_code
        )
    assert (tmp_path / "killed" / "checkpoints" / "checkpoint-4").is_dir()
    run(values, tmp_path / "killed")
    left, right = weights(tmp_path / "killed"), weights(tmp_path / "whole")
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)

    # Without a cache, and in small parts, the same is learned.
    plain = late_recipe(make_recipe, collection, dev, max_steps=6, mini_batch=3)
    plain["train"]["cache"]["enabled"] = False
    run(plain, tmp_path / "plain")
    for name, tensor in weights(tmp_path / "plain").items():
        torch.testing.assert_close(tensor, right[name], atol=2e-4, rtol=1e-3)

    # What was saved scores as what was validated.
    retriever = load(tmp_path / "whole", device="cpu")
    assert retriever.fingerprint == record.document_fingerprint["after"]
    dataset = open_dataset(collection)
    documents = list(dataset.documents())
    points = retriever.encode_documents([document.full_text for document in documents], dtype="float32")
    queries = list(dataset.queries("train"))
    scores = retriever.compile([query.text for query in queries]).score(points)
    gains = []
    for query, own in zip(queries, scores, strict=True):
        place = [document.id for document in documents].index(f"d{query.id[1:]}")
        rank = int((own > own[place]).sum()) + 1
        gains.append(1 / float(torch.log2(torch.tensor(rank + 1.0))) if rank <= 10 else 0.0)
    assert sum(gains) / len(gains) == pytest.approx(record.final_scores["toy"], abs=1e-5)


def test_a_whole_late_model_trains(
    make_recipe: MakeRecipe, collection: Path, dev: dict[str, Any], tmp_path: Path
) -> None:
    values = late_recipe(make_recipe, collection, dev, max_steps=2, trunk="full")
    run(values, tmp_path / "model")
    record = json.loads((tmp_path / "model" / "run.json").read_text())
    assert record["changed"]
    assert record["document_fingerprint"]["before"] != record["document_fingerprint"]["after"]


@dataclass(frozen=True, slots=True, eq=False)
class LevelPoints(Points):
    """Documents with one vector for each of several levels, `(N, M, d)`."""

    levels: Tensor

    def __len__(self) -> int:
        return len(self.levels)

    def __getitem__(self, index: slice | Tensor) -> Self:
        return type(self)(self.levels[index])

    @property
    def rows(self) -> Tensor:
        return self.levels.flatten(0, 1)

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.levels,)

    @classmethod
    def from_tensors(cls, *tensors: Tensor) -> Self:
        return cls(*tensors)


class LevelScorer(Scorer):
    """Queries that take the better of a document's levels."""

    kind = "levels of a test"

    def __init__(self, queries: Tensor) -> None:
        self.space, self.queries = Space("dot", queries.shape[1]), queries

    def score(self, points: Points) -> Tensor:
        assert isinstance(points, LevelPoints)
        return torch.einsum("qd,nmd->qnm", self.queries, points.levels).amax(2)

    def score_own(self, documents: Tensor | Points) -> Tensor:
        assert isinstance(documents, LevelPoints)
        levels = documents.levels.unflatten(0, (len(self), -1))
        return torch.einsum("qd,qnmd->qnm", self.queries, levels).amax(2)

    def linear(self) -> None:
        return None

    def tensors(self) -> dict[str, Tensor]:
        return {"queries": self.queries}

    def config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> Self:
        return cls(tensors["queries"])


class Levels(Module):
    """Two maps of a text's first token state."""

    config_keys: list[str] = []  # noqa: RUF012
    reads_tokens = True

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.maps = torch.nn.Linear(32, 16, bias=False)

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        features["level_embeddings"] = self.maps(features["token_embeddings"][:, 0]).unflatten(1, (2, 8))
        return features

    def get_embedding_dimension(self) -> int:
        return 8

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError


class LevelRetriever(Retriever):
    """A model of those."""

    outputs = ("level_embeddings",)

    def points(self, features: dict[str, Any]) -> Points:
        return LevelPoints(features["level_embeddings"].float())

    def features_of(self, points: Points) -> dict[str, Tensor]:
        return {"level_embeddings": points.tensors()[0]}

    def scorer(self, features: dict[str, Any], options: Mapping[str, Any] | None = None) -> Scorer:
        return LevelScorer(features["level_embeddings"].float().mean(1))

    def encode_documents(self, texts: Sequence[str], *, dtype: str = "auto", batch_tokens: int | None = None) -> Points:
        with torch.inference_mode():
            return self.points(self.forward(self.preprocess(texts, "document"), "document"))


def test_a_third_form_needs_no_change_in_training(
    tiny_encoder: str, toy_set: TrainingSet, toy_texts: tuple[list[str], list[str]], tmp_path: Path
) -> None:
    trunk = Transformer(tiny_encoder)
    trunk.requires_grad_(False)
    model = SentenceTransformer(modules=[trunk, Levels()], device="cpu", similarity_fn_name="dot")
    retriever = LevelRetriever(model)
    caches = {
        side: FeatureCache(tmp_path, retriever, side, stop=1, tokens=True, storage="float32")
        for side in ("query", "document")
    }
    start = {
        side: FeatureCache(tmp_path, retriever, side, stop=2, tokens=False, dtype="float32")
        for side in ("query", "document")
    }
    query, document = (SideFeatures(retriever, side, caches[side], start[side]) for side in ("query", "document"))
    documents, queries = toy_texts
    query.ensure([*toy_set.queries, *queries])
    document.ensure([*toy_set.documents, *documents])
    losses = {"contrastive": {"temperature": 0.5}, "own_cross_entropy": {}, "anchor": {"weight": 0.1}}
    modules = {
        size: TrainingModule(
            TrainedStack(retriever, {"query": 1, "document": 1}, mini_batch=size),
            Objective(LossesConfig.from_mapping(losses)),
        )
        for size in (None, 3)
    }
    collator = Collator(toy_set, query, document, extra_documents=4)
    batch = collator([toy_set[index] for index in next(iter(EpochBatches(toy_set, 8, seed=1)))])
    gradients = []
    for module in modules.values():
        module.zero_grad()
        module.train()
        loss, parts = module.loss(module.model, batch)
        assert float(parts["anchor"]) == pytest.approx(0, abs=1e-5)  # nothing is trained yet
        loss.backward()
        gradients.append([parameter.grad.clone() for parameter in module.parameters() if parameter.grad is not None])
    assert len(gradients[0]) == 1
    assert gradients[0][0].abs().max() > 0
    torch.testing.assert_close(gradients[0], gradients[1])

    grades = [{place: 1} for place in range(len(queries))]
    validator = Validator({"toy": DevSet(queries, documents, grades)}, "R@1", query, document)
    scores = retriever.compile(queries).score(retriever.encode_documents(documents))
    right = scores.argmax(dim=1) == torch.arange(len(queries))
    assert validator()["toy"] == pytest.approx(float(right.float().mean()))
    # Where nothing is trained, validation takes the points of whole documents from the cache.
    retriever.model.requires_grad_(False)
    whole = SideFeatures(retriever, "document", start["document"])
    assert Validator({"toy": DevSet(queries, documents, grades)}, "R@1", query, whole)()["toy"] == validator()["toy"]


@pytest.mark.parametrize(("trunk", "importance"), [("frozen", "idf"), ("full", "gate")])
def test_a_model_learns_to_be_pruned_and_pooled(
    trunk: str, importance: str, make_recipe: MakeRecipe, collection: Path, dev: dict[str, Any], tmp_path: Path
) -> None:
    values = late_recipe(make_recipe, collection, dev, max_steps=4, trunk=trunk)
    values["model"]["late"] = LATE | {
        "pruning": {"importance": importance, "keep_ratio": 0.7, "min_tokens": 3},
        "pooling": {"budget": 6},
    }
    values["losses"] = {"contrastive": {}, "pooled": {"pooling": {"pool_factor": 3}}}
    run(values, tmp_path / "run")
    record = read_record(tmp_path / "run")
    assert record is not None
    assert record.parameters > 32 * 8 - 1
    model = load(tmp_path / "run", device="cpu")
    texts = [document.full_text for document in open_dataset(str(collection)).documents()]
    points = model.encode_documents(texts, dtype="float32")
    assert points.lengths.max() <= 6
    assert model.route("document")[0].is_fitted
    pruned, pooled = (model.route("document")[place].counts for place in (0, -1))
    assert pooled.kept < pooled.seen <= pruned.kept < pruned.seen
