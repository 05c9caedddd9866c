"""Parameters of solvers and of their parts: access, representation and validation.

`Parameters` gives what scikit-learn's ``BaseEstimator`` gives (``get_params``, ``set_params``,
``clone``, a readable ``repr``) without importing scikit-learn, which takes over a second.
The constraint classes speak scikit-learn's vocabulary.
"""

from __future__ import annotations

import difflib
import inspect
import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lowrank_opt.core.errors import ParameterError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Self

__all__ = [
    "Interval",
    "Parameters",
    "StrOptions",
    "did_you_mean",
    "instantiate",
    "make_rng",
    "validate_parameters",
]


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Complete a message about an unknown name.

    Parameters
    ----------
    name : str
        The name that was given.
    choices : iterable of str
        The names that exist.

    Returns
    -------
    str
        ``" Did you mean 'x'?"`` for the closest choice, or the list of choices.
    """
    choices = sorted(choices)
    close = difflib.get_close_matches(name, choices, n=1)
    if close:
        return f" Did you mean {close[0]!r}?"
    return f" Known: {', '.join(choices)}." if choices else ""


@dataclass(frozen=True)
class Interval:
    """Numbers between `low` and `high`; ``None`` is unbounded, and infinite if closed there.

    Parameters
    ----------
    kind : type
        ``numbers.Integral`` or ``numbers.Real``.
    low, high : float or None
        The ends.
    closed : {"both", "left", "right", "neither"}, default="both"
        Which ends belong to the interval.
    """

    kind: Any
    low: float | None = None
    high: float | None = None
    closed: str = "both"

    def admits(self, value: Any) -> bool:
        """Whether `value` satisfies the constraint."""
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, self.kind):
            return False
        if math.isnan(value):
            return False
        left = self.closed in ("both", "left")
        right = self.closed in ("both", "right")
        if math.isinf(value) and not (right if value > 0 else left):
            return False  # the infinite end is open
        above = self.low is None or value > self.low or (left and value == self.low)
        below = self.high is None or value < self.high or (right and value == self.high)
        return above and below

    def __str__(self) -> str:
        noun = "an integer" if self.kind is Integral else "a number"
        open_, close = (
            "[" if self.closed in ("both", "left") else "(",
            "]" if self.closed in ("both", "right") else ")",
        )
        low = "-inf" if self.low is None else f"{self.low:g}"
        high = "inf" if self.high is None else f"{self.high:g}"
        return f"{noun} in {open_}{low}, {high}{close}"


@dataclass(frozen=True)
class StrOptions:
    """One of a few strings.

    Parameters
    ----------
    options : iterable of str
        The strings.
    """

    options: frozenset[str]

    def __init__(self, options: Iterable[str]) -> None:
        object.__setattr__(self, "options", frozenset(options))

    def admits(self, value: Any) -> bool:
        """Whether `value` satisfies the constraint."""
        return isinstance(value, str) and value in self.options

    def __str__(self) -> str:
        return "one of " + ", ".join(repr(o) for o in sorted(self.options))


def _admits(constraint: Any, value: Any) -> bool:
    if constraint is None:
        return value is None
    if isinstance(constraint, (Interval, StrOptions)):
        return constraint.admits(value)
    if constraint == "boolean":
        return isinstance(value, (bool, np.bool_))
    if constraint == "callable":
        return callable(value)
    if constraint == "array":
        return hasattr(value, "shape") or isinstance(value, (list, tuple))
    if constraint == "random_state":
        seeds = (np.random.Generator, np.random.SeedSequence, np.random.BitGenerator)
        return value is None or isinstance(value, seeds) or Interval(Integral, 0).admits(value)
    return isinstance(value, constraint)


def _describe(constraint: Any) -> str:
    if constraint is None:
        return "None"
    names = {
        "boolean": "True or False",
        "callable": "a callable",
        "array": "an array",
        "random_state": "None, a non-negative integer or a numpy.random.Generator",
    }
    if isinstance(constraint, str):
        return names[constraint]
    if isinstance(constraint, type):
        return f"an instance of {constraint.__name__}"
    return str(constraint)


def validate_parameters(
    owner: str, values: Mapping[str, Any], constraints: Mapping[str, list[Any]]
) -> None:
    """Raise :class:`ParameterError` for the first value that no constraint of its name admits.

    Parameters
    ----------
    owner : str
        Name of the class or function, for the message.
    values : mapping of str to object
        Parameter values.
    constraints : mapping of str to list
        For each name the alternatives: `Interval`, `StrOptions`, ``None``, ``"boolean"``,
        ``"callable"``, ``"array"``, ``"random_state"``, or a type. Names without an entry are
        not checked.

    Raises
    ------
    ParameterError
        Names the parameter, the value and what was expected.
    """
    for name, alternatives in constraints.items():
        if name not in values:
            continue
        value = values[name]
        if not any(_admits(c, value) for c in alternatives):
            expected = " or ".join(_describe(c) for c in alternatives)
            hint = ""
            if isinstance(value, str):
                options = {o for c in alternatives if isinstance(c, StrOptions) for o in c.options}
                close = difflib.get_close_matches(value, sorted(options), n=1)
                hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ParameterError(f"{owner}: {name}={value!r} must be {expected}.{hint}")


def make_rng(random_state: Any) -> np.random.Generator:
    """Return a Generator; one given as an instance is copied, so that the caller's is unchanged.

    Parameters
    ----------
    random_state : None, int, numpy.random.SeedSequence, BitGenerator or Generator
        The seed. ``None`` draws fresh entropy.

    Returns
    -------
    numpy.random.Generator
        A generator of its own.
    """
    if isinstance(random_state, (np.random.Generator, np.random.BitGenerator)):
        import copy

        random_state = copy.deepcopy(random_state)
    return np.random.default_rng(random_state)


class Parameters:
    """Base of objects that hold parameters only: solvers, step-size rules, sketches.

    The constructor takes keywords and assigns them unchanged; everything else follows from its
    signature. Objects work with ``sklearn.base.clone`` and as nested parameters of scikit-learn
    estimators (``solver__tol``).
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {}

    @classmethod
    def _signature(cls) -> dict[str, inspect.Parameter]:
        if cls.__init__ is object.__init__:
            return {}
        parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
        return {p.name: p for p in parameters if p.kind is not p.VAR_KEYWORD}

    @classmethod
    def _constraints(cls) -> dict[str, list[Any]]:
        merged: dict[str, list[Any]] = {}
        for base in reversed(cls.__mro__):
            merged.update(vars(base).get("_parameter_constraints", {}))
        return merged

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters by name.

        Parameters
        ----------
        deep : bool, default=True
            Also list the parameters of nested objects, as ``outer__inner``.
        """
        out: dict[str, Any] = {}
        for name in sorted(self._signature()):
            value = getattr(self, name)
            out[name] = value
            if deep and hasattr(value, "get_params") and not isinstance(value, type):
                out.update({f"{name}__{k}": v for k, v in value.get_params().items()})
        return out

    def set_params(self, **params: Any) -> Self:
        """Set parameters by name (``outer__inner`` for nested ones) and return the object.

        Raises
        ------
        ParameterError
            For an unknown name, with the closest known one.
        """
        known = self._signature()
        for name, value in params.items():
            head, _, tail = name.partition("__")
            if head not in known:
                raise ParameterError(
                    f"{type(self).__name__} has no parameter {head!r}." + did_you_mean(head, known)
                )
            if tail:
                getattr(self, head).set_params(**{tail: value})
            else:
                setattr(self, head, value)
        return self

    def validate_params(self) -> None:
        """Raise :class:`ParameterError` if a parameter, nested ones included, is out of range."""
        values = self.get_params(deep=False)
        validate_parameters(type(self).__name__, values, self._constraints())
        for value in values.values():
            if isinstance(value, Parameters):
                value.validate_params()

    def __repr__(self) -> str:
        parts = []
        for name, parameter in self._signature().items():
            value = getattr(self, name)
            if not _same(value, parameter.default):
                parts.append(f"{name}={_source(value)}")
        return f"{type(self).__name__}({', '.join(parts)})"


def _same(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if type(a) is not type(b) or hasattr(a, "shape"):
        return False
    return bool(a == b)


def _source(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return f"float({str(float(value))!r})"
    if isinstance(value, np.generic):
        return _source(value.item())
    return repr(value)


def instantiate(cls: type, params: Mapping[str, Any], caller: str) -> Any:
    """Return ``cls(**params)``; an unknown keyword raises ``TypeError`` with the closest name.

    Parameters
    ----------
    cls : type
        A subclass of :class:`Parameters`.
    params : mapping of str to object
        Keywords for its constructor.
    caller : str
        Name of the function the user called, for the message.

    Returns
    -------
    object
        The instance.
    """
    known = cls._signature()  # type: ignore[attr-defined]
    for name in params:
        if name not in known:
            raise TypeError(
                f"{caller} got an unexpected keyword {name!r} ({cls.__name__} does not take it)."
                + did_you_mean(name, known)
            )
    return cls(**params)


TOLERANCE = Interval(Real, 0, None, closed="both")  # infinite is no limit
COUNT = Interval(Integral, 1, None, closed="left")
