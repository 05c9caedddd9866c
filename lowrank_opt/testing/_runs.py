"""Runs and assertions that the checks share."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.testing._points import difference, is_array, leaves, to_host

if TYPE_CHECKING:
    from collections.abc import Callable

    from lowrank_opt.core import Result
    from lowrank_opt.testing.cases import SolverCase

__all__ = ["close", "finite", "refused", "require", "run", "same", "same_run", "stop_at"]

# A solver that does not count its iterations would never meet max_iter.
_PATIENCE = 100
_CLOCKS = (".time",)


def run(solver: Any, problem: Any, **keywords: Any) -> Result:
    """Call ``solve``; raise if iterations are not counted, instead of running for ever."""
    callback = keywords.pop("callback", None)
    last, repeats = -1, 0

    def guard(intermediate_result: Result) -> None:
        nonlocal last, repeats
        repeats = repeats + 1 if intermediate_result.nit == last else 0
        last = intermediate_result.nit
        if repeats > _PATIENCE:
            raise AssertionError(f"step() returned {_PATIENCE} times without advancing state.nit")
        if callback is not None:
            callback(intermediate_result)

    return solver.solve(problem, callback=guard, **keywords)


def stop_at(nit: int) -> Callable[[Result], None]:
    def callback(intermediate_result: Result) -> None:
        if intermediate_result.nit >= nit:
            raise StopIteration

    return callback


def require(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def same(a: Any, b: Any, what: str, ignore: tuple[str, ...] = ()) -> None:
    found = difference(a, b, ignore=ignore)
    require(found is None, f"{what}: {found}")


def same_run(a: Result, b: Result, what: str) -> None:
    """Same answer, iterations, counters and state; clocks and messages may differ."""
    for key in ("x", "nit", "residual", "counts"):
        same(a[key], b[key], f"{what}: result.{key}")
    same(a.state, b.state, f"{what}: result.state", _CLOCKS)


def finite(value: Any, what: str) -> None:
    for path, leaf in leaves(value):
        if is_array(leaf) and to_host(leaf).dtype.kind in "fc":
            require(bool(np.isfinite(to_host(leaf)).all()), f"{what}{path} is not finite")


def close(case: SolverCase, x: Any, y: Any, what: str, limit: float | None = None) -> None:
    limit = case.accuracy if limit is None else limit
    distance = case.distance(x, y)
    require(distance <= limit, f"{what}: distance {distance:.3e}, allowed {limit:.1e}")


def refused(call: Callable[[], Any], error: type[BaseException], match: str, what: str) -> None:
    try:
        call()
    except error as raised:
        require(
            re.search(match, str(raised), re.DOTALL) is not None,
            f"{what}: the message must contain {match!r}, it is: {raised}",
        )
    except Exception as raised:
        raise AssertionError(
            f"{what}: expected {error.__name__}, got {type(raised).__name__}: {raised}"
        ) from raised
    else:
        raise AssertionError(f"{what}: accepted, expected {error.__name__}")
