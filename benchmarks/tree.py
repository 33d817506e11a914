"""How large and how entangled the source tree is, and how much of it runs for one search, encoding or training.

    python benchmarks/tree.py            # the numbers, beside their limits
    python benchmarks/tree.py -v         # and what they count
    python benchmarks/tree.py --check    # exit code 1 where a number is above its limit

A file has run when a function of it was called after the module was imported: what importing itself runs, class bodies
and calls at module level included, does not count. Commands, and calls from Python whose objects are there already, run
in processes of their own, on the tiny model and collection of `tests/fixtures/saved`.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "hyperseek"
TINY = ROOT / "tests" / "fixtures" / "saved"
# In this order: the search is of the index that the encoding made.
COMMANDS = {
    "encode": ["encode", "trunk", "collection", "--index", "index"],
    "search": ["search", "index", "cat sea"],
    "train": ["train", "train.yaml", "--output", "run"],
}
# The same from Python: what is prepared, and what is counted.
CALLS = {
    "Index.build": (
        "model, documents = hyperseek.load('trunk'), list(hyperseek.data.open_dataset('collection').documents())",
        "hyperseek.Index.build('built', documents, model)",
    ),
    "Index.search": ("index = hyperseek.Index.open('built'); index.model", "index.search('cat sea')"),
    "train": (
        "from hyperseek.training import read_recipe, train",
        "train(read_recipe('train.yaml'), output='trained-2')",
    ),
}
# None: the list is for people to judge.
LIMITS = {
    "source files": 305,  # 260 before evaluation had diagnostics, pools, RAG, suites and mteb
    "files in the largest folder": 20,
    "private imports across packages": 20,
    "base names that occur more than once": None,
    "circles of imports": 0,
    "circles with imports in functions": None,
    "files that run for encode": 30,
    "files that run for search": 25,
    "files that run for train": 45,
    "files that run for Index.build, called from Python": 30,
    "files that run for Index.search, called from Python": 25,
    "files that run for train, called from Python": 45,
}


def main() -> int:
    """Print the numbers, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-v", "--verbose", action="store_true", help="list what the numbers count")
    parser.add_argument("--check", action="store_true", help="exit code 1 where a number is above its limit")
    options = parser.parse_args()
    found = measured()
    above = []
    for name, items in found.items():
        number, limit = len(items), LIMITS[name]
        if limit is not None and number > limit:
            above.append(name)
        print(f"{name}: {number}" + ("" if limit is None else f" (limit {limit}{', ABOVE' * (name in above)})"))
        # Names and circles are the finding; of the others the number is.
        if options.verbose or name.startswith(("base names", "circles")):
            print("".join(f"  {item}\n" for item in items), end="")
    return int(options.check and bool(above))


def measured() -> dict[str, list[str]]:
    """Return what each number counts."""
    return structure() | files_that_run()


def structure() -> dict[str, list[str]]:
    """Return what the numbers count that need no command to run, which `tests/test_structure.py` checks."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(SOURCE.rglob("*.py"))}
    files = [shown(path) for path in trees]
    folders = Counter(path.parent for path in trees)
    largest = max(folders, key=lambda folder: folders[folder])
    names = Counter(path.name for path in trees if path.name != "__init__.py")
    return {
        "source files": files,
        "files in the largest folder": [shown(path) for path in trees if path.parent == largest],
        "private imports across packages": private_imports(trees),
        "base names that occur more than once": [f"{n} of {name}" for name, n in sorted(names.items()) if n > 1],
        "circles of imports": circles(trees),
        "circles with imports in functions": circles(trees, within_functions=True),
    }


def shown(path: Path) -> str:
    """Return a source file's path within the package."""
    return path.relative_to(SOURCE).as_posix()


def module_name(path: Path) -> str:
    """Return the dotted name of a source file."""
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.AST, modules: set[str], within_functions: bool = False) -> Iterator[str]:
    """Yield our modules that a file imports, those that only type checkers read included."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ImportFrom) and node.module in modules:
            # `from package import module` is an import of the module.
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from sorted(inner & modules)
            if inner - modules:
                yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif within_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from imports(node, modules, within_functions)


def private_imports(trees: dict[Path, ast.Module]) -> list[str]:
    """List imports of another package's modules whose names begin with an underscore; those of the root are shared."""
    modules = {module_name(path) for path in trees}
    found = []
    for path, tree in trees.items():
        inside = path.relative_to(SOURCE).parts
        package = inside[0] if len(inside) > 1 else ""
        for name in sorted(set(imports(tree, modules, within_functions=True))):
            _, other, *rest = [*name.split("."), ""]
            if other != package and any(part.startswith("_") for part in rest):
                found.append(f"{shown(path)} imports {name}")
    return found


def circles(trees: dict[Path, ast.Module], **options: bool) -> list[str]:
    """List groups of modules each of which imports, directly or not, all others of its group."""
    modules = {module_name(path) for path in trees}
    edges = {module_name(path): set(imports(tree, modules, **options)) for path, tree in trees.items()}
    reached: dict[str, set[str]] = {}
    for start in edges:
        seen: set[str] = set()
        waiting = list(edges[start])
        while waiting:
            name = waiting.pop()
            if name not in seen:
                seen.add(name)
                waiting.extend(edges[name])
        reached[start] = seen
    groups = {frozenset(b for b in reached[a] if a in reached[b]) for a in reached if a in reached[a]}
    return sorted(" ↔ ".join(sorted(group)) for group in groups)


def files_that_run() -> dict[str, list[str]]:
    """Give each command and make each call in a process of its own, and return the files that ran."""
    found = {}
    runs = {f"files that run for {verb}": command for verb, command in COMMANDS.items()}
    runs |= {f"files that run for {name}, called from Python": ["--python", *code] for name, code in CALLS.items()}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "tiny"
        shutil.copytree(TINY, folder, copy_function=shutil.copyfile)
        own = {"HF_HUB_OFFLINE": "1", "HYPERSEEK_CACHE": f"{place}/cache", "PYTHONPATH": str(SOURCE.parent)}
        for name, command in runs.items():
            traced = [sys.executable, str(Path(__file__).resolve()), "--trace", f"{place}/ran.json", *command]
            done = subprocess.run(traced, cwd=folder, env={**os.environ, **own}, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
            found[name] = json.loads(Path(f"{place}/ran.json").read_text())
    return found


def trace(output: str, command: list[str]) -> None:
    """Run a command as `hyperseek` does, or a call, and write the list of files of which a function was called."""
    prefix = f"{SOURCE}{os.sep}"
    called: set[str] = set()
    local = threading.local()  # importing: how many modules of ours this thread is importing, one within another

    def note(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event not in ("call", "return") or not code.co_filename.startswith(prefix):
            return
        importing = getattr(local, "importing", 0)
        if code.co_name == "<module>":
            local.importing = importing + (1 if event == "call" else -1)
        elif not importing and code.co_flags & inspect.CO_OPTIMIZED:  # which class bodies are not
            called.add(code.co_filename)

    for heavy in ("lance", "sentence_transformers"):  # imported under a profile they take many seconds
        importlib.import_module(heavy)
    if command[0] == "--python":
        import hyperseek.data

        names: dict[str, Any] = {"hyperseek": hyperseek}
        exec(command[1], names)
    threading.setprofile(note)
    sys.setprofile(note)
    try:
        if command[0] == "--python":
            exec(command[2], names)
        else:
            from hyperseek.cli import main as run_command

            sys.argv = ["hyperseek", *command]
            run_command()
    finally:
        sys.setprofile(None)
        Path(output).write_text(json.dumps(sorted(shown(Path(name)) for name in called)))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--trace"]:
        trace(sys.argv[2], sys.argv[3:])
    else:
        sys.exit(main())
