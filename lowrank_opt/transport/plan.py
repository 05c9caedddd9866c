"""A transport plan together with the potentials that certify it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from lowrank_opt.core.serialize import register_serializable

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["TransportPlan"]


@register_serializable
class TransportPlan(sp.csc_array):
    """A sparse transport plan, with the dual potentials and the relaxed plan of the same run.

    It is a :class:`scipy.sparse.csc_array` and can be used as one; what is computed from it
    (products, slices) does not inherit the potentials.

    Parameters
    ----------
    arg1 : object
        Whatever makes a ``csc_array`` of shape (n_sources, n_targets).
    *args
        Further positional arguments of ``csc_array``.
    alpha : ndarray of shape (n_sources,) or None, default=None
        Potentials of the sources.
    beta : ndarray of shape (n_targets,) or None, default=None
        Potentials of the targets.
    relaxed : csc_array or None, default=None
        The plan of the convex relaxation, when it is another one: its columns may have more
        nonzeros than the cap.
    **kwargs
        Further keywords of ``csc_array``.

    Attributes
    ----------
    alpha, beta, relaxed
        See Parameters; ``None`` when unknown.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.transport import TransportPlan
    >>> plan = TransportPlan(np.diag([0.5, 0.5]), alpha=np.array([1.0, -1.0]))
    >>> plan.nnz, plan.alpha
    (2, array([ 1., -1.]))
    """

    alpha: Any = None
    beta: Any = None
    relaxed: Any = None

    def __init__(
        self,
        arg1: Any,
        *args: Any,
        alpha: Any = None,
        beta: Any = None,
        relaxed: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(arg1, *args, **kwargs)
        _ = self.has_canonical_format  # known from the start: to look later would change the object
        self.alpha = alpha
        self.beta = beta
        if relaxed is not None:
            relaxed = sp.csc_array(relaxed)  # alone: its potentials are those of this plan
            _ = relaxed.has_canonical_format
        self.relaxed = relaxed

    def with_potentials(
        self, alpha: Any = None, beta: Any = None, relaxed: Any = None
    ) -> TransportPlan:
        """Return the same plan with other potentials; the arrays are shared.

        Parameters
        ----------
        alpha, beta, relaxed : ndarray or csc_array or None, default=None
            See the class.

        Returns
        -------
        TransportPlan
            A new object.
        """
        parts = (self.data, self.indices, self.indptr)
        return TransportPlan(parts, shape=self.shape, alpha=alpha, beta=beta, relaxed=relaxed)

    def copy(self) -> TransportPlan:
        """Return a copy with copies of potentials and relaxed plan."""
        copied = super().copy()
        return copied.with_potentials(
            *(None if part is None else part.copy()
              for part in (self.alpha, self.beta, self.relaxed))
        )  # fmt: skip

    def __repr__(self) -> str:
        longest = int(np.max(np.diff(self.indptr), initial=0))
        return (
            f"TransportPlan({self.shape[0]} x {self.shape[1]}, {self.nnz} nonzeros, at most "
            f"{longest} a column)"
        )

    def to_fields(self) -> Mapping[str, Any]:
        """Return what a file has to hold, see :mod:`lowrank_opt.core.serialize`."""
        return {
            "data": self.data,
            "indices": self.indices,
            "indptr": self.indptr,
            "shape": tuple(int(n) for n in self.shape),
            "alpha": self.alpha,
            "beta": self.beta,
            "relaxed": None if self.relaxed is None else sp.csc_array(self.relaxed),
        }

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> TransportPlan:
        """Inverse of :meth:`to_fields`."""
        parts = (fields["data"], fields["indices"], fields["indptr"])
        options = {name: fields[name] for name in ("alpha", "beta", "relaxed")}
        return cls(parts, shape=tuple(fields["shape"]), **options)

    def counts(self, threshold: float = 1e-12, axis: int = 0) -> Any:
        """Return the number of nonzeros of every column or row.

        Parameters
        ----------
        threshold : float, default=1e-12
            Entries up to this part of the sum of their column (row) count as zero.
        axis : {0, 1}, default=0
            Of every column (0), or of every row (1); as in
            :class:`~lowrank_opt.transport.TransportProblem`.

        Returns
        -------
        ndarray of int64, of shape (n_targets,) or (n_sources,)
            Counts.
        """
        size = self.shape[1 - axis]
        owner = self.indices
        if axis == 0:
            owner = np.repeat(np.arange(size), np.diff(self.indptr))
        sums = np.bincount(owner, weights=np.abs(self.data), minlength=size)
        kept = np.abs(self.data) > threshold * sums[owner]
        return np.bincount(owner[kept], minlength=size)
