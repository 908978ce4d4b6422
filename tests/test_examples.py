"""Every example in a docstring runs and prints what it says."""

import doctest
import logging
import pkgutil
from importlib import import_module

import pytest
import scvi

import stimage

MODULES = [module.name for module in pkgutil.walk_packages(stimage.__path__, "stimage.") if not module.ispkg]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name, monkeypatch):
    # Progress bars are printed where the doctest looks for results.
    monkeypatch.setattr(scvi.settings, "verbosity", logging.WARNING)
    results = doctest.testmod(import_module(name))
    assert not results.failed
