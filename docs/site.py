"""Pages of the site that are not written by hand, and a check that it needs nothing from another host.

The home page is the README, the changes are the changelog, and each public module has a page of the reference.
"""

from __future__ import annotations

import ast
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "hyperseek"
MODULES = ["hyperseek", "hyperseek.cards", "hyperseek.types", "hyperseek.errors"]


def public_modules() -> list[str]:
    """Return the dotted names of modules with a page of their own, those of packages in alphabetical order."""
    packages = [path.parent.name for path in sorted(SOURCE.glob("*/__init__.py")) if exported(path)]
    return [*MODULES, *(f"hyperseek.{name}" for name in packages if name != "cli")]


def source_of(module: str) -> Path:
    """Return the file of a module of ours."""
    path = SOURCE.parent / module.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def exported(path: Path) -> list[str]:
    """Return what a file's `__all__` lists."""
    return assigned(path, "__all__") or []


def assigned(path: Path, name: str) -> Any:
    """Return the value that a file gives a name by a literal; None where it does not."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == name:
            return ast.literal_eval(node.value)
    return None


def on_config(config: Any) -> Any:
    """Put the pages of the reference into the navigation."""
    for entry in config.nav:
        if "Reference" in entry:
            entry["Reference"] = [{name: f"reference/{name}.md"} for name in public_modules()]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages."""
    pages = {"index.md": site_page("README.md"), "changes.md": site_page("CHANGELOG.md")}
    for name in public_modules():
        pages[f"reference/{name}.md"] = f"# `{name}`\n\n::: {name}\n"
    pages["reference/hyperseek.md"] += f"    options:\n      members: false\n\n{shortcuts()}"
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files


def shortcuts() -> str:
    """Return a list of the names that `hyperseek` itself has, each with a link to its entry."""
    homes = assigned(SOURCE / "__init__.py", "_HOMES")
    return "".join(f"* [`{name}`][{home}.{name}]\n" for name, home in homes.items())


def site_page(name: str) -> str:
    """Return a file of the project's root with its links to `docs/` as links between pages."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return re.sub(r"\]\(docs/", "](", text)


class _Loaded(HTMLParser):
    """Collects the addresses that a page loads by itself; links to be followed are left out."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = {"link": "href"}.get(tag, "src")
        self.addresses += [value or "" for name, value in attrs if name == names and tag != "a"]


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Refuse a page that loads something from another host, and one of the reference that lacks a public name."""
    module = Path(page.file.src_uri).stem
    if page.file.src_uri.startswith("reference/") and module != "hyperseek":
        names = exported(source_of(module))
        lost = [name for name in names if f'id="{module}.{name}"' not in output]
        if lost:
            raise PluginError(f"{page.file.src_uri} has no entry for {', '.join(lost)}; do they have docstrings?")
    parser = _Loaded()
    parser.feed(output)
    foreign = [address for address in parser.addresses if re.match(r"(\w+:)?//", address)]
    if foreign:
        raise PluginError(f"{page.file.src_uri} loads from other hosts: {', '.join(foreign)}")
    return output
