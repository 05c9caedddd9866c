"""The problems of this family, under one name."""

from __future__ import annotations

from lowrank_opt.block_coordinate.composite import CompositeProblem, L1Form
from lowrank_opt.block_coordinate.glm import GLMProblem
from lowrank_opt.block_coordinate.quadratic import QuadraticProblem

__all__ = ["CompositeProblem", "GLMProblem", "L1Form", "QuadraticProblem"]
