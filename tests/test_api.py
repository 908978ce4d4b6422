"""Conventions that every public function shares."""

import inspect
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import pytest

import stimage

POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def subpackage(name: str) -> ModuleType:
    spec = find_spec(f"stimage.{name}")
    if spec is None or spec.origin is None:
        pytest.skip(f"stimage.{name} is not there")
    return import_module(f"stimage.{name}")


def public_functions(name: str) -> dict:
    module = subpackage(name)
    members = {member: getattr(module, member) for member in module.__all__}
    return {f"{name}.{member}": value for member, value in members.items() if inspect.isfunction(value)}


def section(doc: str, title: str) -> str:
    """Text of a numpy-style section, empty when it is missing."""
    lines = inspect.cleandoc(doc).splitlines()
    starts = [i for i, line in enumerate(lines) if i + 1 < len(lines) and lines[i + 1] and set(lines[i + 1]) == {"-"}]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        if lines[start].strip() == title:
            return "\n".join(lines[start + 2 : end]) or " "
    return ""


@pytest.mark.parametrize("name", stimage.__all__)
def test_all_names_exist(name):
    module = subpackage(name)
    missing = [member for member in module.__all__ if not hasattr(module, member)]
    assert not missing
    assert len(set(module.__all__)) == len(module.__all__)
    assert not [member for member in module.__all__ if member.startswith("_")]


@pytest.mark.parametrize("name", ["io", "pp", "tl", "pl", "datasets"])
def test_signatures(name):
    wrong = []
    for function, value in public_functions(name).items():
        parameters = inspect.signature(value).parameters
        positional = [key for key, parameter in parameters.items() if parameter.kind in POSITIONAL]
        if len(positional) > 3:
            wrong.append(f"{function} takes {len(positional)} positional parameters: {positional}")
        if name in {"pp", "tl"} and not (positional and positional[0].startswith(("adata", "sdata", "sources"))):
            wrong.append(f"{function} does not take adata, sdata or sources first")
        for key in ("copy", "key_added", "seed"):
            if key in parameters and parameters[key].kind is not inspect.Parameter.KEYWORD_ONLY:
                wrong.append(f"{function}: {key} is not keyword-only")
        if "copy" in parameters and parameters["copy"].default is not False:
            wrong.append(f"{function}: copy does not default to False")
        untyped = [key for key, p in parameters.items() if p.annotation is p.empty and p.kind not in VARIADIC]
        if untyped or inspect.signature(value).return_annotation is inspect.Signature.empty:
            wrong.append(f"{function} lacks type hints: {[*untyped, 'return']}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", ["io", "pp", "tl", "pl", "datasets"])
def test_docstrings(name):
    wrong = []
    for function, value in public_functions(name).items():
        doc = value.__doc__ or ""
        wrong += [
            f"{function} has no section {title}"
            for title in ("Parameters", "Returns", "Examples")
            if not section(doc, title)
        ]
        described = {
            word.strip(" *")
            for line in section(doc, "Parameters").splitlines()
            if line and not line[0].isspace()
            for word in line.partition(":")[0].split(",")
        }
        undescribed = set(inspect.signature(value).parameters) - described
        if undescribed:
            wrong.append(f"{function} does not describe {sorted(undescribed)}")
        if ">>>" not in section(doc, "Examples"):
            wrong.append(f"{function} has no runnable example")
    assert not wrong, "\n".join(wrong)
