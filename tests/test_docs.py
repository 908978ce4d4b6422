"""Pages that repeat names from the package name all of them."""

import re
from importlib import import_module
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
SUBPACKAGES = ["benchmark", "data", "datasets", "models", "modules", "pl", "pp", "pretrained", "tl", "train"]


@pytest.mark.parametrize("name", SUBPACKAGES)
def test_api_page_lists_every_public_name(name):
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    block = re.search(rf"currentmodule:: stimage\.{name}\n(.*?)```", page, re.DOTALL).group(1)
    listed = re.findall(r"^   (\w+)$", block, re.MULTILINE)
    assert sorted(listed) == sorted(import_module(f"stimage.{name}").__all__)
