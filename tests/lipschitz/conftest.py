"""Fixtures of the tests of Lipschitz bounds."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import ModuleType


@pytest.fixture(scope="session")
def raw() -> ModuleType:
    """The module ``raw_lmi.py`` beside this file: published inequalities, entry by entry."""
    path = Path(__file__).with_name("raw_lmi.py")
    spec = importlib.util.spec_from_file_location("lipschitz_raw_lmi", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
