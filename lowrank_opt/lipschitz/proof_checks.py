"""Which check belongs to which proof."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lowrank_opt.lipschitz.canonical import coupled_form
from lowrank_opt.lipschitz.certificates import chain_upper, group_upper, lmi_upper
from lowrank_opt.lipschitz.certificates_dual import chain_lower, group_lower, lmi_lower
from lowrank_opt.lipschitz.forms import Chain, GroupChain, LowRankLMI

if TYPE_CHECKING:
    from lowrank_opt.lipschitz.canonical import Part
    from lowrank_opt.lipschitz.problem import LipschitzProblem
    from lowrank_opt.lipschitz.proofs import BoundProof

__all__ = ["check_proof"]

_SMALL = 2_000_000  # weights up to which the product of norms takes no time


def check_proof(problem: LipschitzProblem, index: int, proof: BoundProof) -> tuple[float, float]:
    """Return what a proof shows about one part of a problem.

    Parameters
    ----------
    problem : LipschitzProblem
        The problem.
    index : int
        Number of the part.
    proof : BoundProof
        Its proof.

    Returns
    -------
    upper, lower : float
        Upper bound of the Lipschitz constant (not above the product of norms, where that is cheap
        or nothing else was proved), and lower bound of the relaxation's best (0: none). In the
        units of the network.
    """
    part = problem.part(index)
    form = part.form
    if form.scale == 0.0:  # nothing passes from the inputs to the outputs
        return 0.0, 0.0
    if proof.kind == "product":
        return part.product, 0.0
    upper, lower = math.inf, 0.0
    if proof.kind in ("multipliers", "layer_multipliers"):
        upper, lower = _multipliers(part, proof)
    elif proof.kind == "coupled_multipliers" and isinstance(form, GroupChain):
        form = coupled_form(form)
        upper, lower = _of_inequality(form, proof)
    elif proof.kind == "lip_lt":
        from lowrank_opt.lipschitz.norm_checks import lip_lt_bound

        upper = lip_lt_bound(form)
    elif proof.kind == "penalty":
        from lowrank_opt.lipschitz.penalty_checks import penalty_bound

        if isinstance(form, Chain):
            upper = penalty_bound(form, proof.multipliers)
    elif proof.kind == "patterns":
        from lowrank_opt.lipschitz.pattern_checks import pattern_bound, pattern_lower

        upper = min(pattern_bound(problem, index, proof.multipliers), part.cheap)
        return upper, min(pattern_lower(problem, index, proof.multipliers), upper)
    upper *= form.scale
    upper *= 1.0 + 4e-16
    if not math.isfinite(upper) or _size(part) <= _SMALL:
        upper = min(upper, part.cheap)
    return upper, min(lower * form.scale * (1.0 - 4e-16), upper)


def _size(part: Part) -> int:
    """Return the number of weights."""
    if isinstance(part.form, LowRankLMI):
        return 0
    return sum(W.size for W in part.form.weights)


def _multipliers(part: Part, proof: BoundProof) -> tuple[float, float]:
    form = part.form
    if isinstance(form, Chain):
        upper = chain_upper(form, proof.multipliers, part.first, part.last)
        if proof.dual is None:
            return upper, 0.0
        layers = proof.kind == "layer_multipliers"
        return upper, chain_lower(form, proof.dual, layers=layers)
    if isinstance(form, GroupChain):
        upper = group_upper(form, proof.multipliers, part.first)
        return upper, 0.0 if proof.dual is None else group_lower(form, proof.dual)
    return _of_inequality(form, proof)


def _of_inequality(form: LowRankLMI, proof: BoundProof) -> tuple[float, float]:
    if len(proof.multipliers) != 1:
        return math.inf, 0.0
    upper = lmi_upper(form, proof.multipliers[0])
    return upper, 0.0 if proof.dual is None else lmi_lower(form, proof.dual)
