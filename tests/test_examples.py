"""Every example in a docstring runs and prints what it says."""

import doctest
import pkgutil
from importlib import import_module

import pytest

import stimage

MODULES = [module.name for module in pkgutil.walk_packages(stimage.__path__, "stimage.") if not module.ispkg]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    results = doctest.testmod(import_module(name))
    assert not results.failed
