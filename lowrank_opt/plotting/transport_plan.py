"""Pictures of transport plans."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from lowrank_opt.core.errors import MissingDependencyError, ParameterError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from lowrank_opt.core.result import Result

__all__ = ["TransportPlanDisplay"]

# Plans with more rows or columns are shown by the sums of blocks.
_PIXELS = 1000


class TransportPlanDisplay:
    """A transport plan, as a picture of the matrix or as lines between two clouds of points.

    Parameters
    ----------
    plan : array-like or scipy sparse of shape (m, n)
        Masses that go from source i to target j, at least 0.
    X, Y : array-like of shape (m, 2) and (n, 2), or None, default=None
        Points of sources and targets. With both, lines can be drawn.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        The axes of the last :meth:`plot`.
    figure_ : matplotlib.figure.Figure
        Their figure.
    image_ : matplotlib.image.AxesImage or None
        The picture of the matrix.
    lines_ : matplotlib.collections.LineCollection or None
        The lines, in the order of ``plan.data``; the more opaque, the more mass.
    points_ : tuple of matplotlib.collections.PathCollection, or None
        Sources and targets.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.plotting import TransportPlanDisplay
    >>> display = TransportPlanDisplay(np.diag([0.25, 0.75]))
    >>> display.plan.nnz
    2
    """

    def __init__(
        self, plan: Any, *, X: ArrayLike | None = None, Y: ArrayLike | None = None
    ) -> None:
        if not sp.issparse(plan):
            plan = np.asarray(plan, dtype=np.float64)
        if len(plan.shape) != 2 or 0 in plan.shape:
            raise ParameterError(
                f"TransportPlanDisplay: plan has shape {plan.shape}; expected (sources, targets)"
            )
        T = sp.csc_array(plan)
        if not np.isfinite(T.data).all() or np.any(T.data < 0):
            raise ParameterError(
                "TransportPlanDisplay: plan has entries that are negative or not finite; masses "
                "are at least 0"
            )
        T = T.copy()
        T.eliminate_zeros()
        self.plan = T
        if (X is None) != (Y is None):
            raise ParameterError("TransportPlanDisplay: give both X and Y, or neither")
        self.X = _points("X", X, T.shape[0])
        self.Y = _points("Y", Y, T.shape[1])

    @classmethod
    def from_result(
        cls,
        result: Result,
        *,
        X: ArrayLike | None = None,
        Y: ArrayLike | None = None,
        relaxed: bool = False,
    ) -> TransportPlanDisplay:
        """Make a display from the result of a transport problem.

        Parameters
        ----------
        result : Result
            What a solver of :class:`~lowrank_opt.transport.TransportProblem` returned.
        X, Y : array-like of shape (m, 2) and (n, 2), or None, default=None
            Points, to draw lines.
        relaxed : bool, default=False
            Show the plan of the convex relaxation where it is another one.
        """
        plan = result.x
        if relaxed and plan.relaxed is not None:
            plan = plan.relaxed
        return cls(plan, X=X, Y=Y)

    def plot(
        self, ax: Any = None, *, kind: str = "auto", color: Any = "C0", **options: Any
    ) -> TransportPlanDisplay:
        """Draw the plan.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or None, default=None
            Where to draw; ``None``: a new figure.
        kind : {"auto", "image", "lines"}, default="auto"
            "image": the matrix, pairs without mass left blank; a plan with more than 1000 rows or
            columns is summed over blocks. "lines": a line for every pair with mass. "auto": lines
            when there are points.
        color : matplotlib color, default="C0"
            Colour of the lines.
        **options
            For ``Axes.imshow`` or ``matplotlib.collections.LineCollection``.

        Returns
        -------
        TransportPlanDisplay
            Itself.

        Raises
        ------
        MissingDependencyError
            If matplotlib is not installed.
        ParameterError
            Another `kind`, or lines without points.
        """
        if kind not in ("auto", "image", "lines"):
            raise ParameterError(f"kind={kind!r} must be one of auto, image, lines")
        if kind == "lines" and self.X is None:
            raise ParameterError("kind='lines' needs the points X and Y of the display")
        if ax is None:
            try:
                import matplotlib.pyplot as plt
            except ImportError as error:
                raise MissingDependencyError(
                    "matplotlib", "plot", "TransportPlanDisplay.plot"
                ) from error
            _, ax = plt.subplots()
        self.image_ = self.lines_ = self.points_ = None
        if self.X is None or kind == "image":
            self._image(ax, options)
        else:
            self._lines(ax, color, options)
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _image(self, ax: Any, options: dict[str, Any]) -> None:
        m, n = self.plan.shape
        pixels = np.ma.masked_equal(_pixels(self.plan), 0.0)
        options = {
            "cmap": "viridis", "vmin": 0.0, "aspect": "auto", "interpolation": "nearest", **options
        }  # fmt: skip
        # The edges of pixels are between the numbers of rows and columns.
        self.image_ = ax.imshow(pixels, extent=(-0.5, n - 0.5, m - 0.5, -0.5), **options)
        ax.grid(visible=False)
        ax.set_xlabel("target")
        ax.set_ylabel("source")

    def _lines(self, ax: Any, color: Any, options: dict[str, Any]) -> None:
        from matplotlib.collections import LineCollection
        from matplotlib.colors import to_rgb

        rows = self.plan.indices
        cols = np.repeat(np.arange(self.plan.shape[1]), np.diff(self.plan.indptr))
        colors = np.empty((len(rows), 4))
        colors[:, :3] = to_rgb(color)
        colors[:, 3] = self.plan.data / self.plan.data.max(initial=0.0)
        segments = np.stack([self.X[rows], self.Y[cols]], axis=1)
        self.lines_ = LineCollection(segments, colors=colors, zorder=1, **options)
        ax.add_collection(self.lines_)
        self.points_ = (
            ax.scatter(*self.X.T, s=18, color="C1", zorder=2, label="sources"),
            ax.scatter(*self.Y.T, s=18, color="C2", zorder=2, label="targets"),
        )


def _points(name: str, value: ArrayLike | None, size: int) -> NDArray[np.float64] | None:
    if value is None:
        return None
    points = np.asarray(value, dtype=np.float64)
    if points.shape != (size, 2):
        raise ParameterError(
            f"TransportPlanDisplay: {name} has shape {points.shape}; expected ({size}, 2), a point "
            f"of the plane for each {'row' if name == 'X' else 'column'} of the plan"
        )
    return points


def _pixels(plan: Any) -> NDArray[np.float64]:
    """Masses as a dense array of limited size."""
    m, n = plan.shape
    height, width = min(m, _PIXELS), min(n, _PIXELS)
    cols = np.repeat(np.arange(n), np.diff(plan.indptr))
    place = (plan.indices.astype(np.int64) * height // m) * width + cols * width // n
    return np.bincount(place, weights=plan.data, minlength=height * width).reshape(height, width)
