"""Fixtures of the transport tests."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import ModuleType


@pytest.fixture(scope="session")
def conic() -> ModuleType:
    """The module ``conic.py`` beside this file: the relaxed problem as a cone program."""
    path = Path(__file__).with_name("conic.py")
    spec = importlib.util.spec_from_file_location("transport_conic", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
