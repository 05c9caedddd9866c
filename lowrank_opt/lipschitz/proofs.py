"""What a solver hands out: the numbers that prove a bound, for the problem to check."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lowrank_opt.core.serialize import register_serializable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["BoundProof"]


@register_serializable
@dataclass(frozen=True, eq=False)
class BoundProof:
    """Numbers from which a bound can be checked without knowing how they were found.

    Parameters
    ----------
    kind : str
        What the numbers are, and so which check applies: "multipliers" of the form's inequality;
        "layer_multipliers" (the same for all neurons of a layer, with a dual for that program);
        "coupled_multipliers" (a network of groups as one inequality); "lip_lt", "penalty",
        "patterns", "witness" of the methods of these names; "product" of norms; "unproved"
        (nothing has been computed yet, the product of norms is the bound); "parts".
    multipliers : tuple of ndarray
        Multipliers of the linear matrix inequality, divided by ρ: one array of shape (n_i,) for
        each hidden layer of a `Chain`; arrays of shape (2, n_groups) with rows λ and γ for a
        `GroupChain` (for "linf" preceded by μ of shape (n_0,)); one array y of shape (k,) for a
        `LowRankLMI`. Other kinds say in their check what they hold.
    dual : tuple of ndarray or None
        Matrix of the dual program, from which follows how far the bound is from the best of its
        relaxation: for a `Chain` the blocks X_00, X_11, …, then X_01, X_12, …; for a `GroupChain`
        one block for each layer's inequality; for a `LowRankLMI` the whole matrix. ``None``: no
        statement about optimality.
    parts : tuple of BoundProof
        Proofs of the parts of a problem that has several (one for each output, say).
    bound : float, default=nan
        The bound that the solver saw, for display; no check reads it.
    """

    kind: str
    multipliers: tuple[NDArray[np.float64], ...] = ()
    dual: tuple[NDArray[np.float64], ...] | None = None
    parts: tuple[BoundProof, ...] = ()
    bound: float = math.nan

    def __repr__(self) -> str:
        value = "" if math.isnan(self.bound) else f", bound {self.bound:.7g}"
        if self.kind == "parts":
            return f"BoundProof({len(self.parts)} parts{value})"
        dual = ", with dual" if self.dual is not None else ""
        return f"BoundProof({self.kind}{value}{dual})"
