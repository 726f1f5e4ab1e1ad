"""What the site adds to mkdocs: pages from outside docs/, a reference page a room of the package, formulas as MathML."""

from __future__ import annotations

import ast
import posixpath
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
# pages of the checkout that are pages of the site: where they lie -> what they are called there
OUTSIDE = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
OUTSIDE |= {"benchmarks/README.md": "benchmarks.md", "examples/README.md": "examples.md"}
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
LINK = re.compile(r"(\[[^\[\]]*\])\(([^)\s#:]+)(#[^)\s]*)?\)")
# what the converter does not know, in what it does
MACROS = {r"\dfrac": r"\frac", r"\tfrac": r"\frac", r"\middle": "", r"\lVert": r"\|", r"\rVert": r"\|"}


def pages() -> dict[str, str]:
    """Every page of the site: path in the checkout -> path in the site."""
    inside = {
        f"docs/{file.relative_to(ROOT / 'docs').as_posix()}" for file in (ROOT / "docs").rglob("*") if file.is_file()
    }
    results = {file.relative_to(ROOT).as_posix() for file in (ROOT / "results").glob("*.md")}
    return {path: path.removeprefix("docs/") for path in inside} | {p: p for p in results} | OUTSIDE


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages from outside docs/, and the reference."""
    for path, uri in pages().items():
        if not path.startswith("docs/") and (ROOT / path).is_file():
            files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))
    for name, modules in rooms().items():
        files.append(File.generated(config, f"reference/{name}.md", content=reference(name, modules)))
    return files


def rooms() -> dict[str, list[str]]:
    """The rooms of the package: the name of a folder or of a file at its root -> the modules that have a docstring."""
    found: dict[str, list[str]] = {}
    for file in sorted((ROOT / "pgdlab").rglob("*.py")):
        path = file.relative_to(ROOT).with_suffix("")
        parts = [part for part in path.parts if part != "__init__"]
        if len(parts) > 1 and not parts[-1].startswith("_"):
            found.setdefault(parts[1], []).append(".".join(parts))
    return found


def reference(room: str, modules: list[str]) -> str:
    """A page with every module of a room."""
    first = ast.get_docstring(ast.parse(source(modules[0]).read_text())) or ""
    return "\n\n".join(
        [f"# {room}", first.partition("\n")[0], *(f"::: {m}" for m in modules if source(m).read_text().strip())]
    )


def source(module: str) -> Path:
    """The file of a module or package."""
    path = ROOT / module.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links as they lie in the checkout become links of the site; to a file of the checkout that is no page: its name alone."""
    site = pages()
    own = next((path for path, uri in site.items() if uri == page.file.src_uri), None)

    def moved(found: re.Match[str]) -> str:
        text, link, anchor = found[1], found[2], found[3] or ""
        path = posixpath.normpath(posixpath.join(posixpath.dirname(own or ""), link))
        if path in site:
            return f"{text}({posixpath.relpath(site[path], posixpath.dirname(page.file.src_uri) or '.')}{anchor})"
        return text[1:-1] if (ROOT / path).exists() else found[0]

    return markdown if own is None else LINK.sub(moved, markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Formulas as MathML, which browsers draw without a script."""

    def drawn(found: re.Match[str]) -> str:
        text = found[2].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
        for unknown, known in MACROS.items():
            text = re.sub(re.escape(unknown) + r"(?![a-zA-Z])", lambda _, to=known: to, text)
        return convert(text.strip(), display="block" if found[1] == "div" else "inline")

    return FORMULA.sub(drawn, html)
