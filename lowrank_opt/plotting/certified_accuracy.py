"""Curves of certified accuracy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.core.errors import MissingDependencyError, ParameterError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["CertifiedAccuracyDisplay"]

# Radii of a curve when none are given.
_GRID = 201


class CertifiedAccuracyDisplay:
    """Share of inputs that are proved to be classified right, against the size of perturbations.

    Parameters
    ----------
    eps : array-like of shape (k,)
        Radii, increasing, at least 0.
    accuracy : array-like of shape (k,)
        Certified accuracy at each, in [0, 1]. It cannot rise with the radius.
    name : str or None, default=None
        What the legend says.
    norm : str or None, default=None
        Norm of the perturbations, for the label of the axis.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        The axes of the last :meth:`plot`.
    figure_ : matplotlib.figure.Figure
        Their figure.
    line_ : matplotlib.lines.Line2D
        The curve.

    Examples
    --------
    >>> from lowrank_opt.plotting import CertifiedAccuracyDisplay
    >>> display = CertifiedAccuracyDisplay.from_radii([0.0, 0.1, 0.3, 0.3])
    >>> display.accuracy.tolist()
    [0.75, 0.5, 0.0]
    """

    def __init__(
        self,
        eps: ArrayLike,
        accuracy: ArrayLike,
        *,
        name: str | None = None,
        norm: str | None = None,
    ) -> None:
        self.eps = _vector("eps", eps)
        self.accuracy = _vector("accuracy", accuracy)
        if self.eps.shape != self.accuracy.shape or not len(self.eps):
            raise ParameterError(
                f"CertifiedAccuracyDisplay: eps has shape {self.eps.shape}, accuracy "
                f"{self.accuracy.shape}; expected the same, at least one radius"
            )
        if (np.diff(self.eps) < 0).any() or self.eps[0] < 0:
            raise ParameterError("CertifiedAccuracyDisplay: eps must increase from 0 or more")
        if self.accuracy.min() < 0 or self.accuracy.max() > 1:
            raise ParameterError("CertifiedAccuracyDisplay: accuracy must be in [0, 1]")
        if (np.diff(self.accuracy) > 0).any():
            raise ParameterError(
                "CertifiedAccuracyDisplay: accuracy rises with eps; what is certified at a radius "
                "is so at every smaller one"
            )
        self.name = name
        self.norm = norm
        # Between two radii of a grid only the accuracy at the larger one is proved.
        self._drawstyle = "steps-pre"

    @classmethod
    def from_radii(
        cls, radii: ArrayLike, *, name: str | None = None, norm: str | None = None
    ) -> CertifiedAccuracyDisplay:
        """Make a display from the certified radius of every input.

        Parameters
        ----------
        radii : array-like of shape (n,)
            Radii, 0 for inputs that are classified wrong, as
            :meth:`~lowrank_opt.lipschitz.LipschitzCertifier.certified_radius` gives them for true
            classes.
        name, norm : str or None, default=None
            See the constructor.
        """
        own = np.sort(np.asarray(radii, dtype=np.float64).reshape(-1))
        if not len(own) or not (own >= 0).all():
            raise ParameterError(
                "CertifiedAccuracyDisplay: radii must be at least 0, and at least one"
            )
        eps = np.unique(np.append(own[np.isfinite(own)], 0.0))
        beyond = len(own) - np.searchsorted(own, eps, side="right")
        display = cls(eps, beyond / len(own), name=name, norm=norm)
        display._drawstyle = "steps-post"  # the curve falls at these radii and nowhere else
        return display

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any,
        *,
        eps: ArrayLike | None = None,
        name: str | None = None,
    ) -> CertifiedAccuracyDisplay:
        """Make a display from a fitted estimator and data.

        Parameters
        ----------
        estimator : LipschitzCertifier or IBPClassifier
            Fitted; anything with ``certified_accuracy(X, y, eps)``.
        X, y : array-like
            Inputs and true classes.
        eps : array-like of shape (k,) or None, default=None
            Radii; ``None``: all at which the curve falls, if the estimator knows certified radii,
            else 201 from 0 to twice the radius of its training.
        name : str or None, default=None
            What the legend says; ``None``: the class of the estimator.
        """
        name = type(estimator).__name__ if name is None else name
        norm = getattr(estimator, "norm", "linf")
        if eps is None and hasattr(estimator, "certified_radius"):
            return cls.from_radii(estimator.certified_radius(X, y), name=name, norm=norm)
        if eps is None:
            eps = np.linspace(0.0, 2.0 * (estimator.eps or 0.05), _GRID)
        return cls(eps, estimator.certified_accuracy(X, y, eps), name=name, norm=norm)

    def plot(
        self, ax: Any = None, *, name: str | None = None, legend: bool = True, **options: Any
    ) -> CertifiedAccuracyDisplay:
        """Draw the curve.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or None, default=None
            Where to draw; ``None``: a new figure.
        name : str or None, default=None
            What the legend says, instead of that of the display.
        legend : bool, default=True
            Whether to draw a legend where there is a name.
        **options
            For ``Axes.plot``.

        Returns
        -------
        CertifiedAccuracyDisplay
            Itself.

        Raises
        ------
        MissingDependencyError
            If matplotlib is not installed.
        """
        if ax is None:
            try:
                import matplotlib.pyplot as plt
            except ImportError as error:
                raise MissingDependencyError(
                    "matplotlib", "plot", "CertifiedAccuracyDisplay.plot"
                ) from error
            _, ax = plt.subplots()
        name = self.name if name is None else name
        options = {"drawstyle": self._drawstyle, "label": name, **options}
        (self.line_,) = ax.plot(self.eps, self.accuracy, **options)
        ax.set_ylim(bottom=0.0, top=max(1.0, ax.get_ylim()[1]))
        norm = "" if self.norm is None else f" ({self.norm})"
        if norm or not ax.get_xlabel():
            ax.set_xlabel(f"radius of perturbations{norm}")
        ax.set_ylabel("certified accuracy")
        if legend and options["label"] is not None:
            ax.legend()
        self.ax_, self.figure_ = ax, ax.figure
        return self


def _vector(name: str, value: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(value, dtype=np.float64)
    if array.ndim != 1 or not np.isfinite(array).all():
        raise ParameterError(
            f"CertifiedAccuracyDisplay: {name} has shape {array.shape}; expected a vector of "
            "finite numbers"
        )
    return array
