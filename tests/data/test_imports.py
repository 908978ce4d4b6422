"""Modules import one another in one direction, those imported for type checkers and inside of functions included."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import stimage

ROOT = Path(stimage.__file__).parent
FOLDERS = ["data", "pp", "io", "datasets"]


def imports() -> dict[str, set[str]]:
    """Modules that each module of these folders imports, without the lists of public names of their packages."""
    files = {
        ".".join(path.relative_to(ROOT.parent).with_suffix("").parts): path
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
        if path.name != "__init__.py"
    }
    found = {}
    for name, path in files.items():
        nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        names = {f"{node.module}.{alias.name}" for node in nodes for alias in node.names}
        found[name] = {module for module in files if module in {node.module for node in nodes} | names}
    return found


def test_no_module_imports_one_that_imports_it():
    graph = imports()
    assert len(graph) > 80
    assert sum(map(len, graph.values())) > 150
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("folder", FOLDERS)
def test_folders_stay_small_and_files_short(folder):
    for place in [ROOT / folder, *(path for path in (ROOT / folder).rglob("*") if path.is_dir())]:
        files = list(place.glob("*.py"))
        assert len(files) <= 15, place
        assert all(len(path.read_text().splitlines()) <= 400 for path in files), place
