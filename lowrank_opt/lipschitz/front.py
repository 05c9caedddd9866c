"""The front door: a Lipschitz bound of a network in one call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lowrank_opt.core.errors import ParameterError
from lowrank_opt.core.params import did_you_mean, instantiate
from lowrank_opt.core.registry import solver_class
from lowrank_opt.lipschitz.problem import LipschitzProblem

if TYPE_CHECKING:
    from lowrank_opt.core.result import Result
    from lowrank_opt.lipschitz.regions import Region

__all__ = ["lipschitz_bound"]

_METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "lip_sdp": ("LipSDP", {}),
    "lip_sdp_layer": ("LipSDP", {"structure": "layer"}),
    "group_sort": ("LipSDPGroupSort", {}),
    "group_sort_coupled": ("LipSDPGroupSort", {"structure": "coupled"}),
    "eclipse": ("ECLipsE", {"mode": "best"}),
    "fast": ("ECLipsE", {"mode": "fast"}),
    "lip_diff": ("LipDiff", {}),
    "lip_lt": ("LipLT", {}),
    "product": ("NormProduct", {}),
    "exact": ("ExactLipschitz", {}),
    "sampled": ("SampledLowerBound", {}),
}


def lipschitz_bound(
    network: Any,
    *,
    norm: str = "l2",
    output: Any = None,
    activation: Any = "relu",
    region: Region | None = None,
    method: str = "auto",
    tol: float = 1e-6,
    max_time: float | None = None,
    **solver_params: Any,
) -> Result:
    """Return a certified upper bound of the Lipschitz constant of a network.

    Parameters
    ----------
    network : object
        List of weight matrices of shape (n_out, n_in), fitted scikit-learn MLP,
        ``torch.nn.Sequential``, ONNX path, …: see :func:`as_network`.
    norm : {"l2", "linf", "l1"}, default="l2"
        Norm of inputs and outputs.
    output : int, (int, int), array-like of shape (k, n_out) or None, default=None
        One output, a margin between two, linear combinations; ``None``: all together.
    activation : str, Activation or list, default="relu"
        Activation, when `network` does not say.
    region : Ball, Box or None, default=None
        Where the inputs are; ``None``: anywhere.
    method : str, default="auto"
        ``"auto"``: the table in the notes. ``"lip_sdp"``, ``"lip_sdp_layer"``, ``"group_sort"``,
        ``"group_sort_coupled"``, ``"eclipse"``, ``"fast"``, ``"lip_diff"``, ``"lip_lt"``,
        ``"product"``, ``"exact"``, ``"sampled"``, or the name of a solver class.
    tol : float, default=1e-6
        Relative gap of the semidefinite bound.
    max_time : float or None, default=None
        Limit on seconds; the best certified bound so far is returned.
    **solver_params
        Further parameters of the solver.

    Returns
    -------
    Result
        ``fun``: the bound, rounding included. ``lower_bound``: a proved lower bound of the
        constant, from sampled Jacobians. ``relaxation_bound``, ``gap``: how much better the same
        kind of bound could be. ``certified``, ``method``, ``per_output``.

    Raises
    ------
    ProblemError, ParameterError
        Unusable networks, unknown norms, outputs or methods; ``structure="network"``.
    UnsupportedLayerError
        A layer that the library does not know.

    Notes
    -----
    The rule of ``"auto"``:

    =====================================  =================================================
    network                                solver
    =====================================  =================================================
    element-wise activations               `LipSDP` by interior points up to 4500 hidden
                                           neurons, above that by first order
    all activations sort or reflect        `LipSDPGroupSort`; up to 400 variables, for at
                                           most 16 bounds, with ``structure="coupled"``
    mixed, residual, implicit, "linf"      `LipSDP` on the dense inequality
    the run ends at a limit                the smallest certified of this, `ECLipsE` (fast)
                                           and `LipLT`
    =====================================  =================================================

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.lipschitz import lipschitz_bound
    >>> weights = [np.array([[1.0], [1.0]]), np.array([[1.0, -1.0]])]
    >>> result = lipschitz_bound(weights)
    >>> print(f"{result.fun:.6f} {result.certified}")
    1.000000 True
    """
    problem = LipschitzProblem(network, norm, output=output, region=region, activation=activation)
    name, params = _solver(method, problem)
    if name != "SampledLowerBound":  # Sampling closes no gap.
        params = {**params, "tol": tol}
    params = {**params, "max_time": max_time, **solver_params}
    chosen = instantiate(solver_class(name), params, "lipschitz_bound")
    result = chosen.solve(problem)
    if method == "auto" and not result.success:
        result = _smallest(problem, result)
    return result


def _solver(method: str, problem: LipschitzProblem) -> tuple[str, dict[str, Any]]:
    if method == "auto":
        return problem.auto_solver()
    check_method(method)
    return _METHODS.get(method, (method, {}))


def check_method(method: str, *, upper: bool = False) -> None:
    """Raise if there is no such method.

    Parameters
    ----------
    method : str
        As for :func:`lipschitz_bound`.
    upper : bool, default=False
        Whether it has to give upper bounds of its own.
    """
    classes = {name for name, _ in _METHODS.values()}
    if method != "auto" and method not in _METHODS and method not in classes:
        raise ParameterError(
            f"lipschitz_bound: method={method!r} is unknown."
            + did_you_mean(str(method), ("auto", *_METHODS, *classes))
        )
    if upper and method in ("sampled", "SampledLowerBound"):
        raise ParameterError(
            f"method={method!r} gives lower bounds, from which no radius follows; use method='auto'"
        )


def _smallest(problem: LipschitzProblem, result: Result) -> Result:
    """Return the smallest bound of the run and the closed forms, with the run's status."""
    best = result
    for name, params in (_METHODS["fast"], _METHODS["lip_lt"]):
        cls = solver_class(name)
        if cls.accepts(problem):
            continue
        other = cls(**params).solve(problem)
        if other.fun < best.fun:
            best = other
    if best is not result:
        best = _with_status(best, result)
    return best


def _with_status(best: Result, run: Result) -> Result:
    """Return a closed-form bound with the honest status of the run that it replaces."""
    best.update(
        success=False,
        status=run.status,
        message=f"{run.message} The bound is that of {best.method}, which is smaller.",
        time=run.time + best.time,
        relaxation_bound=run.relaxation_bound,
    )
    return best
