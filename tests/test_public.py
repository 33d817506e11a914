from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import hyperseek

DOCS = Path(__file__).parent.parent / "docs"
# They are for those who work on the library, not for those who use it.
NO_GUIDES = {"LOG.md", "design.md"}

# Public names that no guide leads to yet. Entries are removed and never added: mention a new name in a guide, or leave
# it out of `__all__`.
PENDING: dict[str, str] = {
    "hyperseek.index": "check_model",
    "hyperseek.plan": "AUTO EXACT NOTHING as_plan",
    "hyperseek.scoring": "build_converter load_scorer",
}


def public_modules() -> list[str]:
    packages = [info.name for info in pkgutil.iter_modules(hyperseek.__path__, "hyperseek.") if info.ispkg]
    return ["hyperseek.cards", "hyperseek.errors", "hyperseek.types", *packages]


def words_of_guides() -> set[str]:
    """Return the identifiers in the code of the guides: blocks and spans."""
    guides = [path for path in DOCS.glob("*.md") if path.name not in NO_GUIDES]
    text = "\n".join(path.read_text() for path in [*guides, DOCS.parent / "README.md"])
    blocks = re.findall(r"```.*?```", text, re.DOTALL)
    spans = re.findall(r"`[^`]+`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return set(re.findall(r"\w+", " ".join(blocks + spans)))


def named_by(value: object) -> set[str]:
    """Return the identifiers that the reference links from a name's entry: annotations, bases, what it raises."""
    return {word for text in texts_of(value) for word in re.findall(r"\w+", text)}


def texts_of(value: object) -> Iterator[str]:
    if not inspect.isclass(value):
        yield from annotations_of(value)
        return
    yield from (base.__name__ for base in value.__mro__[1:])
    for base in value.__mro__:
        if not base.__module__.startswith("hyperseek"):
            continue
        yield from map(str, inspect.get_annotations(base).values())
        for name, member in vars(base).items():
            if not name.startswith("_") or name in ("__init__", "__call__"):
                yield from annotations_of(member)


def annotations_of(member: object) -> Iterator[str]:
    for wrapper in ("__func__", "fget", "func"):
        member = getattr(member, wrapper, member)
    if callable(member):
        yield from map(str, getattr(member, "__annotations__", {}).values())
        raises = re.search(r"Raises:\n(.*)", member.__doc__ or "", re.DOTALL)
        yield from re.findall(r"^\s+(\w+):", raises[1] if raises else "", re.MULTILINE)
    else:
        yield repr(member)  # an alias of a type


def test_a_guide_leads_to_every_public_name() -> None:
    public: dict[tuple[str, str], object] = {}
    for module in public_modules():
        found = importlib.import_module(module)
        public |= {(module, name): getattr(found, name) for name in getattr(found, "__all__", ())}
    words = words_of_guides()
    reached = {key for key in public if key[1] in words}
    assert len(reached) > 80
    waiting = list(reached)
    while waiting:
        named = named_by(public[waiting.pop()])
        new = {key for key in public if key[1] in named} - reached
        reached |= new
        waiting += new
    lost = sorted(
        f"{module}.{name}" for module, name in public.keys() - reached if name not in PENDING.get(module, "").split()
    )
    assert not lost, "mention them in a guide of docs/, or leave them out of __all__"


def test_every_public_name_resolves_and_is_known_to_type_checkers() -> None:
    source = Path(hyperseek.__file__).read_text()
    for name in hyperseek.__all__:
        assert getattr(hyperseek, name) is not None
        assert f'"{name}",' in source
    homes = set(hyperseek._HOMES) | {"__version__"}
    assert homes == set(hyperseek.__all__)


def test_help_lists_every_verb_and_loads_nothing_heavy() -> None:
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "hyperseek", "--help"], capture_output=True, text=True, check=True
    )
    for verb in ("demo", "prepare", "mine", "train", "encode", "search", "evaluate", "convert"):
        assert verb in result.stdout
    for heavy in ("torch", "transformers", "lance", "pydantic", "numpy"):
        assert f"| {heavy}\n" not in result.stderr


def test_errors_of_the_library_are_one_line_and_exit_code_2() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "hyperseek", "recipes", "none"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("hyperseek: ")
    assert "unknown recipe 'none'" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_version_is_printed() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "hyperseek", "--version"], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == hyperseek.__version__
