"""How a package that may not be there is loaded."""

from __future__ import annotations

import importlib
import warnings
from types import ModuleType

import pytest

__all__ = ["package"]


def package(name: str) -> ModuleType:
    """Return a package's module, or skip: it may warn of much that is not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except ImportError:
            pytest.skip(
                f"{name} is not installed; `make integrations` installs it", allow_module_level=True
            )
