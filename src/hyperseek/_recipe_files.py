"""Recipe files and other YAML files of this project, found by path or by name, and the recipes they are based on.

A recipe may begin with `base: other.yaml` (relative to itself) or `base: NAME` for a recipe of this project. Its own
values then override those of the base, section by section.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hyperseek._config import apply_overrides, read_yaml
from hyperseek.errors import ConfigError, UnknownNameError, shown

_LONGEST_CHAIN = 20  # recipes that are based on each other


def list_recipes() -> dict[str, str]:
    """Return the recipes of this project.

    Returns:
        Descriptions by name, sorted: the first sentence of each recipe's leading comment.
    """
    return described_files("recipes")


def find_recipe(path: str | os.PathLike[str]) -> Path:
    """Return the file of a recipe.

    Args:
        path: The file, or the name of a recipe of this project, as in `qnet-minilm-pydocs`.

    Returns:
        The file, whose text shows the recipe as it was written.

    Raises:
        UnknownNameError: There is neither a file nor a recipe of that name; the message lists the names.
    """
    return find_file(path, "recipe", "recipes")


def find_file(path: str | os.PathLike[str], what: str, folder: str) -> Path:
    """Return a YAML file by its path, or by its name among those of this project.

    Args:
        path: The file, or the name.
        what: Its kind, for the message.
        folder: The project's folder of such files.

    Returns:
        The file.

    Raises:
        UnknownNameError: There is neither a file nor one of that name; the message lists the names.
    """
    given = Path(path)
    if _is_file(given):
        return given
    known = _known(folder)
    name = given.name.removesuffix(".yaml")
    if given.parent == Path(".") and name in known:
        return known[name]
    raise UnknownNameError(what, str(path), known)


def described_files(folder: str) -> dict[str, str]:
    """Return the first sentence of the leading comment of each YAML file in a folder of the project, by name."""
    return {name: _first_comment(path) for name, path in sorted(_known(folder).items())}


def recipe_values(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return the plain values of a recipe of any kind, its bases and the overrides applied, not yet validated.

    Args:
        path: A YAML file, or the name of a recipe of this project.
        overrides: Each `section.field=value`; the value is read as YAML.

    Returns:
        The values.

    Raises:
        ConfigError: A file, a base or an override cannot be read.
        UnknownNameError: There is neither a file nor a recipe of that name.
    """
    return apply_overrides(_with_bases(find_recipe(path)), overrides)


def _known(name: str) -> dict[str, Path]:
    package = Path(__file__).parent
    # In an installation such folders are inside the package, in a checkout beside its source.
    folders = [folder for folder in (package / name, package.parents[1] / name) if folder.is_dir()]
    return {file.stem: file for folder in folders for file in sorted(folder.glob("*.yaml"))}


def _first_comment(path: Path) -> str:
    lines: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    first, dot, _ = " ".join(lines).partition(". ")
    return first + dot.strip()


def _is_file(path: Path) -> bool:
    try:
        return path.is_file() or path.is_fifo()
    except (OSError, ValueError):  # too long a name, or one with a zero in it
        return False


def _with_bases(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    if path.resolve() in seen:
        raise ConfigError(f"{path}: recipes are based on each other in a cycle")
    if len(seen) == _LONGEST_CHAIN:
        raise ConfigError(f"{path}: more than {_LONGEST_CHAIN} recipes are based on each other")
    values = read_yaml(path)
    base = values.pop("base", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise ConfigError(f"{path}: base must be the path or the name of another recipe, not {shown(base)}")
    return merged(_with_bases(_base_file(path, base), (*seen, path.resolve())), values)


def _base_file(path: Path, base: str) -> Path:
    """Return the base of a recipe: a file relative to the recipe's folder, or else a recipe of this project."""
    beside = path.parent / base
    if _is_file(beside):
        return beside
    try:
        return find_recipe(base)
    except UnknownNameError as error:
        raise ConfigError(f"{path}: base: there is no file {beside}, and {error}") from None


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a base with those of a second mapping instead, section by section."""
    values = dict(base)
    for key, value in changes.items():
        old = values.get(key)
        values[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return values
