"""Rules about the whole: layers, public names, file sizes."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from pathlib import Path

import pytest

import hyperseek

SOURCE = Path(hyperseek.__file__).parent
# A layer imports only layers before it, with the exceptions named in docs/design.md.
LAYERS = [
    "geometry",
    "scoring",
    "engines",
    "graph",
    "nn",
    "models",
    "store",
    "plan",
    "index",
    "data",
    "teachers",
    "training",
    "pretraining",
    "evaluation",
    "analysis",
    "demo",
    "cli",
]
LONGEST_FILE = 500


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def imported_layers(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "hyperseek" and len(parts) > 1 and parts[1] in LAYERS:
                found.add(parts[1])
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_layers_import_downwards_only(path: Path) -> None:
    layer = path.relative_to(SOURCE).parts[0]
    if layer not in LAYERS:
        return
    allowed = set(LAYERS[: LAYERS.index(layer) + 1])
    assert imported_layers(path) <= allowed


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_stay_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST_FILE


def packages() -> list[str]:
    return ["hyperseek", *(f"hyperseek.{info.name}" for info in pkgutil.iter_modules([str(SOURCE)]) if info.ispkg)]


def by_kind(name: str) -> tuple[int, str]:
    """Constants, then classes, then functions, each in alphabetical order: what the linter writes."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


@pytest.mark.parametrize("name", [name for name in packages() if name != "hyperseek.cli"])
def test_public_names_are_sorted_exist_and_are_documented(name: str) -> None:
    package = importlib.import_module(name)
    assert package.__doc__
    public = [item for item in package.__all__ if item != "__version__"]
    assert public == sorted(public, key=by_kind)
    for item in public:
        assert getattr(package, item).__doc__, f"{name}.{item} has no docstring"


def test_unknown_public_names_list_the_known_ones() -> None:
    with pytest.raises(AttributeError, match=r"has no attribute 'serach'; it has: .*Document"):
        hyperseek.serach  # noqa: B018
