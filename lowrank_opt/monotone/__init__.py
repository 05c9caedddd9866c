"""Monotone inclusions, fixed points, games and linear programs by Halpern iteration."""

from __future__ import annotations
