"""Import of the hierarchical embedding model's checkpoints, and of files that only look like one."""

from __future__ import annotations

import argparse
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModel
from typer.testing import CliRunner

from hyperseek.cli import app
from hyperseek.errors import HyperseekError, ModelError
from hyperseek.models import import_hrm, load
from hyperseek.models.importers.one_file import HRMCheckpoint
from hyperseek.nn.levels import Refinement, TokenAttentionPooler, at_radius
from hyperseek.scoring import vectors_of

TEXTS = ["the cat and the dog", "a small neural network", "sea"]
SIZES = {"d_hrm": 10, "n_cycles": 2, "t_low": 2, "hrm_hidden_mult": 4, "pool_heads": 2, "pool_hidden_mult": 2}


class Original:
    """A checkpoint as the original writes it, on the tiny encoder."""

    def __init__(self, trunk: str, **args: Any) -> None:
        torch.manual_seed(3)
        self.pooler = TokenAttentionPooler(32, heads=2)
        self.refinement = Refinement(32, 10, levels=3)
        trunk_state = AutoModel.from_pretrained(trunk).state_dict()
        self.state: dict[str, Tensor] = {f"backbone.{name}": tensor for name, tensor in trunk_state.items()}
        self.state |= {f"pooler.{name}": tensor for name, tensor in self.pooler.state_dict().items()}
        self.state |= self.refinement.state_dict()
        self.args = {
            "backbone_name": trunk,
            "num_segments": 3,
            "s_scales": "1,2,4",
            "w_segments": "",
            "alpha_segments": "",
            "temperature": 0.05,
            "max_length": 40,
            "resume_from": None,
            "hyp_c": 2.0,
            **SIZES,
            **args,
        }

    def save(self, path: Path, **changes: Any) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        optimiser = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-4}]}
        whole = {"model_state": self.state, "optim_state": optimiser, "epoch": 0, "best_val": 1.5, "args": self.args}
        torch.save({**whole, **changes}, path)
        return path


@pytest.fixture
def original(tiny_encoder: str) -> Original:
    return Original(tiny_encoder)


def test_points_are_those_of_the_originals_modules(original: Original, tmp_path: Path) -> None:
    retriever = import_hrm(original.save(tmp_path / "checkpoint_last.pt"))
    assert retriever.space.radius_squared == pytest.approx(0.5)
    assert retriever.max_length == {"query": 40, "document": 40}
    tokens = retriever.preprocess(TEXTS, "document")
    states = retriever.forward(dict(tokens), "document", stop=1)["token_embeddings"]
    with torch.no_grad():
        pooled = original.pooler(states, tokens["attention_mask"])
        expected = at_radius(original.refinement(pooled), torch.tensor([1.0, 2.0, 4.0]))
    points = vectors_of(retriever.encode_documents(TEXTS, dtype="float32"))
    for level in (1, 2, 3):
        found = retriever.space.at_level(points, level)
        tangents = found[:, :-2] * found[:, -2:].sum(1, keepdim=True) / 2 / 2**0.5
        torch.testing.assert_close(tangents, expected[:, level - 1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", ["file", "folder"])
def test_convert_writes_a_model_with_resolved_schedules(original: Original, tmp_path: Path, form: str) -> None:
    file = original.save(tmp_path / "runs" / "checkpoint_best.pt")
    original.args["s_scales"] = "1,2,5"
    original.save(tmp_path / "runs" / "checkpoint_last.pt")
    given = file if form == "file" else file.parent
    result = CliRunner().invoke(app, ["convert", str(given), str(tmp_path / "model")], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    again = load(tmp_path / "model", device="cpu")
    straight = import_hrm(file)
    documents = straight.encode_documents(TEXTS, dtype="float32")
    assert torch.equal(vectors_of(again.encode_documents(TEXTS, dtype="float32")), vectors_of(documents))
    assert again.route("query")[-1].config.s_scales == (1, 2, 4)
    settings = json.loads((tmp_path / "model" / "original.json").read_text())
    assert settings["w_segments"] == pytest.approx([1 / 6, 1 / 3, 1 / 2])
    assert settings["alpha_segments"] == [0, 0.5, 1]


def test_the_form_of_its_evaluation_is_read_too(original: Original, tmp_path: Path, tiny_encoder: str) -> None:
    bare = {name: tensor for name, tensor in original.state.items() if not name.startswith("backbone.")}
    args = {name: value for name, value in original.args.items() if name != "backbone_name"}
    path = tmp_path / "model.pt"
    torch.save({"hrm_state_dict": bare, "args": args, "backbone_name": tiny_encoder, "proj_scale": 0.5}, path)
    ours, theirs = import_hrm(path), import_hrm(original.save(tmp_path / "other.pt"))
    documents = [vectors_of(each.encode_documents(TEXTS, dtype="float32")) for each in (ours, theirs)]
    assert torch.equal(*documents)


def test_flags_that_are_missing_have_the_originals_defaults(original: Original, tmp_path: Path) -> None:
    settings = HRMCheckpoint.read(original.save(tmp_path / "c.pt", args={})).settings
    assert (settings.d_hrm, settings.num_segments, settings.max_length) == (512, 4, 252)
    assert settings.s_scales == (1, 2, 3, 4)
    assert settings.backbone_name == "BAAI/bge-small-en-v1.5"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"d_hrm": 12}, "do not fit its args"),
        ({"d_hrm": 10**9}, "d_hrm"),
        ({"n_cycles": 10**9}, "n_cycles"),
        ({"num_segments": 2}, "for each of the 2 levels"),
        ({"num_segments": 10**9}, "num_segments"),
        ({"s_scales": "3,2,1"}, "rise"),
        ({"hyp_c": -1.0}, "hyp_c"),
        ({"t_low": 0}, "t_low"),
    ],
)
def test_flags_that_do_not_fit_are_refused(tiny_encoder: str, tmp_path: Path, args: dict[str, Any], said: str) -> None:
    with pytest.raises(HyperseekError, match=said):
        import_hrm(Original(tiny_encoder, **args).save(tmp_path / "c.pt"))


def test_another_trunk_is_refused(original: Original, tmp_path: Path) -> None:
    name = next(name for name in original.state if name.endswith("word_embeddings.weight"))
    original.state[name] = original.state[name] + 1
    with pytest.raises(ModelError, match="not the one that"):
        import_hrm(original.save(tmp_path / "c.pt"))
    original.args["backbone_name"] = str(tmp_path / "nowhere")
    with pytest.raises(ModelError, match="give trunk, its folder or name"):
        import_hrm(original.save(tmp_path / "c.pt"))


class Evil:
    """Runs code where it is unpickled."""

    def __reduce__(self) -> Any:
        return (print, ("this must not be printed",))


def hostile(original: Original, path: Path, kind: str) -> Path:
    if kind == "code":
        return original.save(path, args=Evil())
    if kind == "namespace":
        return original.save(path, args=argparse.Namespace(d_hrm=10))
    if kind == "list":
        torch.save([1, 2], path)
    elif kind == "pickle":
        path.write_bytes(pickle.dumps({"model_state": {}}))
    elif kind == "text":
        path.write_text("no checkpoint")
    elif kind == "no weights":
        torch.save({"args": {}}, path)
    elif kind == "strides":
        original.state["in_proj.weight"] = torch.zeros(1).as_strided((10, 32), (0, 0))
        original.save(path)
    elif kind == "numbers":
        original.state["in_proj.weight"] = torch.full_like(original.state["in_proj.weight"], torch.nan)
        original.save(path)
    elif kind == "missing":
        del original.state["z0_H"]
        original.save(path)
    elif kind == "compressed":
        original.save(path.with_suffix(".whole"))
        with zipfile.ZipFile(path.with_suffix(".whole")) as whole, zipfile.ZipFile(path, "w") as small:
            for member in whole.namelist():
                small.writestr(member, whole.read(member), compress_type=zipfile.ZIP_DEFLATED)
    elif kind == "cut":
        content = original.save(path).read_bytes()
        path.write_bytes(content[: len(content) // 2])
    return path


KINDS = ["code", "namespace", "list", "pickle", "text", "strides", "numbers", "missing", "compressed", "cut", "nothing"]


@pytest.mark.parametrize("kind", [*KINDS, "no weights"])
def test_hostile_and_broken_files_are_refused(
    original: Original, tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = hostile(original, tmp_path / "checkpoint_last.pt", kind)
    with pytest.raises(ModelError) as refused:
        import_hrm(path)
    assert str(path) in str(refused.value)
    assert "must not be printed" not in capfd.readouterr().out
