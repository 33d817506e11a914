"""Rules about the whole: layers, public names, file sizes."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import pkgutil
import re
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
    "mining",
    "runs",
    "training",
    "adapting",
    "pretraining",
    "evaluation",
    "analysis",
    "demo",
    "serve",
    "integrations",
    "cli",
]
LONGEST_FILE = 500
# One name for one thing: files of different packages that do the same for theirs.
NAMED_ALIKE = {
    "_build.py",
    "_cards.py",
    "_estimate.py",
    "_export.py",
    "_recipe.py",
    "_run.py",
    "_search.py",
    "_sources.py",
    "_trainer.py",
}


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


def test_layers_import_downwards_only() -> None:
    wrong = {}
    for path in modules():
        layer = path.relative_to(SOURCE).parts[0]
        if layer in LAYERS and (upwards := imported_layers(path) - set(LAYERS[: LAYERS.index(layer) + 1])):
            wrong[str(path.relative_to(SOURCE))] = sorted(upwards)
    assert not wrong


# The home of spaces and scorers, where their kinds may be asked for; others ask them what they can.
HOME = "scoring"
# Questions of what something is: of a space's or scorer's kind, class or name.
ASKS_KIND = re.compile(
    r"(space|scorer)\.kind (==|!=|in|not in) |(space|scorer)\.similarity (==|!=|in)"
    r"|isinstance\([^()]*, [^()]*\b\w+Scorer\b|\btype\((space|scorer)\)"
)


def test_nobody_asks_a_space_or_a_scorer_what_it_is() -> None:
    wrong = [
        f"{path.relative_to(SOURCE)}: {line.strip()}"
        for path in modules()
        if path.relative_to(SOURCE).parts[0] != HOME
        for line in path.read_text().splitlines()
        if ASKS_KIND.search(line)
    ]
    assert not wrong, "ask for what it can: a property of Space or Scorer"
    for asked in ('if space.kind == "dot":', "isinstance(given, LinearScorer)", "scorer.kind in KINDS"):
        assert ASKS_KIND.search(asked)


def test_files_stay_small() -> None:
    lines = {str(path.relative_to(SOURCE)): len(path.read_text().splitlines()) for path in modules()}
    assert len(lines) > len(LAYERS)
    assert not {path: count for path, count in lines.items() if count > LONGEST_FILE}


def test_the_tree_is_within_its_limits() -> None:
    spec = importlib.util.spec_from_file_location("tree", SOURCE.parent.parent / "benchmarks" / "tree.py")
    assert spec is not None
    assert spec.loader is not None
    tree = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tree)
    counted = tree.structure()
    above = {
        name: items
        for name, items in counted.items()
        if (limit := tree.LIMITS[name]) is not None and len(items) > limit
    }
    assert not above
    names = {item.split()[-1] for item in counted["base names that occur more than once"]}
    assert names <= NAMED_ALIKE


def packages() -> list[str]:
    return ["hyperseek", *(f"hyperseek.{info.name}" for info in pkgutil.iter_modules([str(SOURCE)]) if info.ispkg)]


def by_kind(name: str) -> tuple[int, str]:
    """Constants, then classes, then functions, each in alphabetical order: what the linter writes."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


def test_public_names_are_sorted_exist_and_are_documented() -> None:
    wrong = []
    for name in packages():
        if name == "hyperseek.cli":
            continue
        package = importlib.import_module(name)
        public = [item for item in getattr(package, "__all__", []) if item != "__version__"]
        if public != sorted(public, key=by_kind):
            wrong.append(f"{name}.__all__ is not sorted")
        objects = {name: package, **{f"{name}.{item}": getattr(package, item) for item in public}}
        wrong += [f"{each} has no docstring" for each, found in objects.items() if not found.__doc__]
    assert not wrong


def test_unknown_public_names_list_the_known_ones() -> None:
    with pytest.raises(AttributeError, match=r"has no attribute 'serach'; it has: .*Document"):
        hyperseek.serach  # noqa: B018
