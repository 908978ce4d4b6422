"""Pages that repeat names from the package name all of them, and what they link to and call is there."""

import ast
import inspect
import json
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import stimage

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
SUBPACKAGES = ["benchmark", "data", "datasets", "io", "models", "modules", "pl", "pp", "pretrained", "tl", "train"]
NOTEBOOKS = sorted((ROOT / "tutorials").glob("*.ipynb"))
PAGES = [
    ROOT / "README.md",
    *sorted(DOCS.glob("*.md")),
    *sorted((DOCS / "user_guide").glob("*.md")),
    *sorted((DOCS / "contributing").glob("*.md")),
    *NOTEBOOKS,
]
NAMED = [page.relative_to(ROOT).as_posix() for page in PAGES]


def texts_and_code(page: Path) -> tuple[str, list[str]]:
    """The prose of a page and its blocks of Python."""
    if page.suffix == ".ipynb":
        cells = json.loads(page.read_text(encoding="utf-8"))["cells"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    else:
        text, code = page.read_text(encoding="utf-8"), []
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL), code + re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def calls(code: str) -> Iterator[tuple[str, ast.Call]]:
    """Calls of functions of the package by their full names."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call) and re.fullmatch(r"(sti|stimage)(\.\w+)+", ast.unparse(node.func)):
            yield ast.unparse(node.func).partition(".")[2], node


def resolve(name: str) -> object:
    found = stimage
    for part in name.split("."):
        found = getattr(found, part)
    return found


@pytest.mark.parametrize("name", SUBPACKAGES)
def test_api_page_lists_every_public_name(name):
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    block = re.search(rf"currentmodule:: stimage\.{name}\n(.*?)```", page, re.DOTALL).group(1)
    listed = re.findall(r"^   (\w+)$", block, re.MULTILINE)
    assert sorted(listed) == sorted(import_module(f"stimage.{name}").__all__)


@pytest.mark.parametrize("page", PAGES, ids=NAMED)
def test_code_examples_call_what_is_there_with_options_that_it_has(page):
    wrong = []
    for code in texts_and_code(page)[1]:
        for name, call in calls(code):
            arguments = [None for argument in call.args if not isinstance(argument, ast.Starred)]
            options = {keyword.arg: None for keyword in call.keywords if keyword.arg}
            try:
                inspect.signature(resolve(name)).bind_partial(*arguments, **options)
            except (AttributeError, TypeError) as error:
                wrong.append(f"{ast.unparse(call)}: {error}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("page", PAGES, ids=NAMED)
def test_links_between_files_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", texts_and_code(page)[0])
    missing = [link for link in links if not (page.resolve().parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", ["docs/index.md", "README.md"])
def test_every_tutorial_and_guide_can_be_found(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    names = [f"tutorials/{path.stem}" for path in NOTEBOOKS]
    names += [f"user_guide/{path.stem}" for path in (DOCS / "user_guide").glob("*.md")]
    toctree = "\n".join(re.findall(r"```\{toctree\}\n(.*?)```", text, re.DOTALL)) if page.startswith("docs") else text
    assert not [name for name in names if name not in toctree]
