"""The inequality in units near one, as data of a cone program."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from lowrank_opt.lipschitz.conic_backends import ConeData, svec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lowrank_opt.lipschitz.lmi_operator import Operator

__all__ = ["ScaledProgram"]


class ScaledProgram:
    """The program in units in which its numbers are near one.

    Parameters
    ----------
    operator : Operator
        The inequality.
    u : ndarray of shape (k,) or None
        Feasible multipliers, divided by the ρ that they prove; None: not known.
    r : float
        That ρ.
    """

    def __init__(self, operator: Operator, u: NDArray[np.float64] | None, r: float) -> None:
        self.op = operator
        sizes = operator.sizes()
        if u is None:
            self.r = 1.0
            self.D = np.ones(operator.d)
            self.u = 1.0 / sizes
            return
        self.r = r
        K = operator.adjoint(u)
        K.flat[:: operator.d + 1] += operator.E
        self.D = 1.0 / np.sqrt(K.diagonal())
        floor = 1e-9 * float(np.max(np.abs(u) * sizes, initial=0.0)) / sizes
        self.u = np.where(operator.bounded, np.maximum(u, floor), np.maximum(np.abs(u), floor))
        self.u = np.where(self.u > 0.0, self.u, 1.0 / sizes)

    def term(self, k: int) -> NDArray[np.float64]:
        """Return u_k D A_k D."""
        op = self.op
        if op.M is None:
            rows, weights = np.array([k]), np.ones(1)
        else:
            first, last = op.Mt.indptr[k : k + 2]
            rows, weights = op.Mt.indices[first:last], op.Mt.data[first:last]
        P = op.Pt[rows].toarray() if sp.issparse(op.Pt) else op.Pt[rows]
        A = (P * self.D).T @ ((weights * self.u[k])[:, None] * (op.Qt[rows] * self.D))
        return A + A.T

    def cone_data(self, blocks: tuple[int, ...], tighter: float) -> ConeData:
        """Return the cone program; several blocks make one cone for each neighbouring pair.

        The variables are ρ, y and, with several blocks, a free symmetric matrix for each block
        between two cones, which one of them adds and the other one subtracts.
        """
        op = self.op
        E = np.diag(op.E * self.D * self.D)
        C = op.C * np.outer(self.D, self.D) / self.r
        ends = np.concatenate([[0], np.cumsum(blocks)])
        cones = [(ends[i], ends[i + 2]) for i in range(len(blocks) - 1)] or [(0, op.d)]
        columns: list[list[sp.csc_array]] = []
        terms = [self.term(k) for k in range(op.k)]
        constants = []
        owner = self._owners(terms, cones)
        for c, (a, b) in enumerate(cones):
            zero = np.zeros((b - a) * (b - a + 1) // 2)
            first = c == 0
            last = c == len(cones) - 1
            cols = [svec(E[a:b, a:b]) if first else zero]
            cols += [svec(A[a:b, a:b]) if owner[k] == c else zero for k, A in enumerate(terms)]
            parts = [sp.csc_array(np.column_stack(cols))]
            parts += self._shared(blocks, c, b - a)
            columns.append(parts)
            constants.append(svec(C[a:b, a:b]) if last else zero)
        matrix = sp.vstack([sp.hstack(parts) for parts in columns])
        kept = np.flatnonzero(op.bounded)
        n = int(matrix.shape[1])
        nonnegative = sp.csc_array(
            (np.full(kept.size, -1.0), (np.arange(kept.size), 1 + kept)), shape=(kept.size, n)
        )
        q = np.zeros(n)
        q[0] = 1.0
        q[1 + kept] = -tighter
        b = np.concatenate([np.zeros(kept.size), *(-v for v in constants)])
        A = sp.csc_array(sp.vstack([nonnegative, -matrix]))
        return ConeData(q, A, b, kept.size, tuple(int(b - a) for a, b in cones))

    @staticmethod
    def _owners(terms: list[NDArray[np.float64]], cones: list[tuple[Any, Any]]) -> list[int]:
        """Return the cone that contains each term."""
        if len(cones) == 1:
            return [0] * len(terms)
        owner = []
        for A in terms:
            last = int(np.flatnonzero(A.diagonal() != 0.0)[-1])
            owner.append(next(c for c, (_, b) in enumerate(cones) if last < b))
        return owner

    @staticmethod
    def _shared(blocks: tuple[int, ...], c: int, order: int) -> list[sp.csc_array]:
        """Columns of the matrices that neighbouring cones share."""
        parts = []
        for i in range(1, len(blocks) - 1):
            n = blocks[i]
            size = n * (n + 1) // 2
            block = sp.csc_array((order * (order + 1) // 2, size))
            if c in (i - 1, i):  # the second block of cone i - 1, the first of cone i
                shift, sign = (order - n, -1.0) if c == i - 1 else (0, 1.0)
                columns, rows = np.tril_indices(n)
                rows, columns = rows + shift, columns + shift
                at = columns * (columns + 1) // 2 + rows
                block = sp.csc_array(
                    (np.full(size, sign), (at, np.arange(size))), shape=block.shape
                )
            parts.append(block)
        return parts
