"""Families are registered: ours, and those of other packages, which need no change here."""

from __future__ import annotations

import ast
import os
import re
import shutil
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

import hyperseek
from hyperseek import _registry
from hyperseek.errors import ConfigError, InputError, ModelError, UnknownNameError
from hyperseek.models import FAMILIES, Family, LateConfig, ModelConfig, QNetConfig, SavedModule, build, register_family
from programs import Programs

ROOT = Path(__file__).parents[2]
SOURCE = Path(hyperseek.__file__).parent
SAVED = ROOT / "tests" / "fixtures" / "saved"
RECIPE = """\
model: {trunk: trunk, family: weighted, pooling: mean, normalize: true, weighted: {start: 0.5}}
data: {sources: {toy: {source: "collection:train"}}}
losses: {contrastive: {temperature: 0.1}}
train: {max_steps: 3, batch_size: 4, learning_rate: 0.1, device: cpu, cache: {storage: float32, dtype: float32}}
output: {report_to: []}
"""
SCRIPT = """\
import torch, hyperseek
from hyperseek.cli import app

for command in (
    ["train", "weighted.yaml", "--output", "model"],
    ["encode", "model", "collection", "--index", "index", "--dtype", "float32"],
    ["search", "index", "cat sea", "-k", "2"],
):
    app(["--quiet", *command], standalone_mode=False)
model = hyperseek.load("model", device="cpu")
head = model.route("query")[-1]
assert type(head).__name__ == "Weights" and (head.weight - 0.5).abs().max() > 0.01, head.weight
assert hyperseek.load("trunk", device="cpu").fingerprint == model.fingerprint  # which is of documents
text = ["cat sea"]
index = hyperseek.Index.open("index")
points = index.model.encode_documents([index[hit.id].full_text for hit in index.search(text[0], k=2)], dtype="float32")
scores = model.compile(text).score(points)[0]
torch.testing.assert_close(scores, torch.tensor([hit.score for hit in index.search(text[0], k=2)]))
print("model.families", *hyperseek.models.FAMILIES)
"""


def guides_family() -> str:
    """Return the family that the guide shows, as a module."""
    return re.findall(r"```py\n(.*?)```", (ROOT / "docs" / "models.md").read_text(), re.DOTALL)[0]


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder as `pip install` leaves it: the family of the guide, with its entry points."""
    folder = tmp_path / "site-packages"
    info = folder / "weighted-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "weighted.py").write_text(guides_family())
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: weighted\nVersion: 1.0\n")
    points = ("weighted = weighted:Weighted", "qnet = weighted:Weighted")  # the second has a name that is taken
    (info / "entry_points.txt").write_text("\n".join(["[hyperseek.families]", *points]))
    return folder


def test_a_family_of_another_package_trains_encodes_and_searches(
    installed: Path, tmp_path: Path, programs: Programs
) -> None:
    for name in ("trunk", "collection"):
        shutil.copytree(SAVED / name, tmp_path / name, copy_function=shutil.copyfile)
    (tmp_path / "weighted.yaml").write_text(RECIPE)
    path = os.pathsep.join([str(SOURCE.parent), str(installed)])
    done = programs.run(
        ["-c", SCRIPT],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "HYPERSEEK_CACHE": str(tmp_path / "cache")},
    )
    assert done.returncode == 0, done.stderr
    assert "model.families card dense late levels lorentz qnet weighted\n" in done.stdout
    assert "the entry point qnet = 'weighted:Weighted' of the package weighted is ignored" in done.stderr


def test_a_taken_name_and_what_is_no_family_are_refused() -> None:
    with pytest.raises(InputError, match="the name 'qnet' is taken by another family"):
        register_family("qnet", Family)
    with pytest.raises(InputError, match=r"must be a subclass of hyperseek\.models\.Family"):
        register_family("mine", print)
    for section in ("linear", "trunk"):
        with pytest.raises(InputError, match=f"the section '{section}' .* is taken"):
            register_family(section, Family)
    assert sorted(FAMILIES) == ["card", "dense", "late", "levels", "lorentz", "qnet"]


def test_a_family_that_cannot_be_imported_stops_only_what_needs_it(
    tiny_encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken = EntryPoint(name="absent", value="no_such_package:Absent", group=FAMILIES.group)
    monkeypatch.setitem(FAMILIES._installed(), "absent", broken)
    retriever = build(ModelConfig(trunk=tiny_encoder, family="qnet"), device="cpu")
    retriever.save(tmp_path / "model")
    assert hyperseek.load(tmp_path / "model", device="cpu").fingerprint == retriever.fingerprint
    with caplog.at_level("WARNING"):
        sections = ModelConfig.from_mapping({"trunk": tiny_encoder, "family": "dense", "linear": {}})
        assert sections.options is not None
        with pytest.raises(ConfigError, match="unknown: unknown key"):
            ModelConfig.from_mapping({"trunk": tiny_encoder, "unknown": {}})
    assert "the family 'absent' is left out: cannot load the entry point absent" in caplog.text
    with pytest.raises(ConfigError, match="cannot load the entry point absent"):
        ModelConfig.from_mapping({"trunk": tiny_encoder, "family": "absent"})


class _Faulty(SavedModule):
    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return features["nothing"]  # type: ignore[no-any-return]


def test_the_error_of_a_registered_packages_module_is_its_own(
    tiny_encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(_registry._foreign, __name__.partition(".")[0], raising=False)  # of another test
    retriever = build(ModelConfig(trunk=tiny_encoder), device="cpu")
    retriever.model.append(_Faulty())
    with pytest.raises(
        ModelError, match=r"the module _Faulty failed on a batch of size \(1, \d+\) \(KeyError: 'nothing'"
    ):
        retriever.encode_documents(["dog"])
    monkeypatch.setitem(_registry._foreign, __name__.partition(".")[0], "the family 'faulty'")
    with pytest.raises(KeyError, match="nothing"):
        retriever.encode_documents(["dog"])


def test_only_the_section_of_the_named_family_is_kept() -> None:
    values = {"trunk": "minilm", "qnet": {"depth": 2}, "late": {"dimension": 8}, "linear": None}
    qnet = ModelConfig.from_mapping({**values, "family": "qnet"})
    assert (qnet.options, qnet.model_extra) == (QNetConfig(depth=2), {"qnet": QNetConfig(depth=2)})
    assert ModelConfig.from_mapping({**values, "family": "late"}).options == LateConfig(dimension=8)
    assert ModelConfig.from_mapping({"trunk": "minilm", "family": "late"}).options == LateConfig()
    assert ModelConfig.from_mapping({**values, "family": "dense"}).options is None
    assert ModelConfig.from_mapping(qnet.model_dump(mode="json")) == qnet
    with pytest.raises(ConfigError, match=r"late\.dimension"):
        ModelConfig.from_mapping({**values, "family": "qnet", "late": {"dimension": -1}})


def test_unknown_families_and_sections_name_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="unknown family 'qnt'; did you mean 'qnet'"):
        ModelConfig.from_mapping({"trunk": "minilm", "family": "qnt"})
    with pytest.raises(ConfigError, match="did you mean 'lorentz'"):
        ModelConfig.from_mapping({"trunk": "minilm", "lorents": {}})
    with pytest.raises(UnknownNameError, match="known: card, dense, late, levels, lorentz, qnet"):
        FAMILIES["other"]


@pytest.mark.parametrize("side", ["query", "document"])
def test_a_length_leaves_room_for_a_text(tiny_encoder: str, side: str) -> None:
    for length in (1, 2):
        with pytest.raises(ConfigError, match=f"{side}_length is {length}, and 2 special tokens .*; give at least 3"):
            build(ModelConfig.from_mapping({"trunk": tiny_encoder, f"{side}_length": length}))
    assert build(ModelConfig.from_mapping({"trunk": tiny_encoder, f"{side}_length": 3})).max_length[side] == 3


def test_every_module_of_ours_is_saved_under_a_public_name() -> None:
    names = {name: module for family in FAMILIES.values() for name, module in family.module_names().items()}
    public = {name for name in names if re.fullmatch(r"hyperseek\.models\.[A-Z]\w+", name)}
    assert {name.rpartition(".")[2] for name in public} == {module.__name__ for module in names.values()}
    assert all(getattr(hyperseek.models, name.rpartition(".")[2]) is names[name] for name in public)


def test_nothing_outside_a_family_asks_which_one_it_is() -> None:
    """No class of a family is named outside its home, and no configuration is asked for its family's name."""
    families = SOURCE / "models" / "families"
    homes = sorted({*families.rglob("*.py")} - {families / "__init__.py"})  # which holds what all families share
    nodes = [node for home in homes for node in ast.walk(ast.parse(home.read_text()))]
    own = {node.name for node in nodes if isinstance(node, ast.ClassDef)}
    allowed = {SOURCE / "models" / "__init__.py", *homes, *(SOURCE / "models" / "importers").glob("*.py")}
    found = []
    for path in sorted(set(SOURCE.rglob("*.py")) - allowed):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hyperseek.models"):
                found += [f"{path.relative_to(SOURCE)}: {alias.name}" for alias in node.names if alias.name in own]
            if isinstance(node, ast.Compare) and re.search(r"\bfamily\b.*['\"]", ast.unparse(node)):
                found.append(f"{path.relative_to(SOURCE)}: {ast.unparse(node)}")
    assert not found
