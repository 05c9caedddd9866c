"""The problem of this room: a Lipschitz constant of a network."""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from lowrank_opt.core.errors import ProblemError
from lowrank_opt.core.params import did_you_mean
from lowrank_opt.core.problem import Certificate, Problem, digest
from lowrank_opt.lipschitz.canonical import parts_of, stack_of
from lowrank_opt.lipschitz.forms import GroupChain
from lowrank_opt.lipschitz.network import Affine, FeedForward, Residual
from lowrank_opt.lipschitz.proofs import BoundProof
from lowrank_opt.lipschitz.regions import Ball, Box

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lowrank_opt.lipschitz.canonical import Part
    from lowrank_opt.lipschitz.network import Network
    from lowrank_opt.lipschitz.regions import Region

__all__ = ["LipschitzProblem"]

NORMS = ("l2", "linf", "l1")
# Rounds of ascent for the lower bound that every result has.
_ASCENTS = 3
# Variables up to which the coupled program of groups takes no more than a few seconds.
_COUPLED = 400


class LipschitzProblem(Problem):
    r"""Smallest L with ``‖f(x) - f(y)‖ <= L ‖x - y‖`` for all inputs of a network f.

    A point is a `BoundProof`: numbers from which an upper bound of L follows. The objective is
    that bound, recomputed with all rounding errors counted.

    Parameters
    ----------
    network : object
        Anything that :func:`as_network` reads: a list of weight matrices of shape (n_out, n_in),
        a `FeedForward`, `Residual` or `Implicit` network, a fitted scikit-learn MLP, a
        ``torch.nn.Sequential``, or the path of an ONNX, ``.npz``, ``.mat`` or ``.nnet`` file.
    norm : {"l2", "linf", "l1"}, default="l2"
        Norm of inputs and of outputs: Euclidean; largest entry; sum of absolute values.
    output : int, (int, int), array-like of shape (k, n_out) or None, default=None
        One output; the difference of two (a margin); linear combinations of outputs. ``None``:
        all outputs together.
    region : Ball, Box or None, default=None
        Where both inputs are; ``None``: anywhere. Feed-forward networks only.
    activation : str, Activation or list, default="relu"
        Activation of the hidden layers when `network` is a list of matrices or a file of them.

    Raises
    ------
    ProblemError
        Shapes that do not fit (with the layer's index), entries that are not finite, unknown
        norms or outputs.
    UnsupportedLayerError
        A layer of a model that the room does not know.

    Notes
    -----
    For "linf" the constant is the largest over the outputs, of each output with respect to the
    largest entry of the input; for "l1" the largest over the inputs. Such problems have several
    :attr:`parts`; those that cannot be the largest are settled by the product of norms.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.lipschitz import LipSDP, LipschitzProblem
    >>> problem = LipschitzProblem([np.array([[1.0], [1.0]]), np.array([[1.0, -1.0]])])
    >>> result = LipSDP().solve(problem)
    >>> print(f"{result.fun:.6f}")
    1.000000
    """

    def __init__(
        self,
        network: Any,
        norm: str = "l2",
        *,
        output: Any = None,
        region: Region | None = None,
        activation: Any = "relu",
    ) -> None:
        from lowrank_opt.lipschitz.convert import as_network

        whole = as_network(network, activation=activation)
        if norm not in NORMS:
            raise ProblemError(
                f"norm={norm!r} must be one of {', '.join(map(repr, NORMS))}."
                + did_you_mean(str(norm), NORMS)
            )
        if region is not None and not isinstance(region, (Ball, Box)):
            raise ProblemError(
                f"region is a {type(region).__name__}; expected Ball(center, radius) or "
                "Box(lower, upper)"
            )
        self.norm, self.output, self.region = norm, output, region
        self.whole_network: Network = whole
        C = _selection(output, whole.n_outputs)
        self.network: Network = whole if C is None else whole.followed_by(C)
        self._slopes = None
        if region is not None:
            from lowrank_opt.lipschitz.local_slopes import slopes_on

            self._slopes = slopes_on(self.network, region)
        self._stack = None
        if isinstance(self.network, FeedForward):
            self._stack = stack_of(self.network, self._slopes)
        self._makers = parts_of(self._stack or self.network, norm, self._slopes)
        self._made: dict[int, Part] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        where = "" if self.region is None else f", region={type(self.region).__name__}"
        out = "" if self.output is None else f", output={_short(self.output)}"
        return f"LipschitzProblem({self.whole_network!r}, norm={self.norm!r}{out}{where})"

    def __getstate__(self) -> dict[str, Any]:
        fields = ("norm", "output", "region", "whole_network", "network")
        return {name: getattr(self, name) for name in fields}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(  # type: ignore[misc]
            state["whole_network"], state["norm"], output=state["output"], region=state["region"]
        )

    @property
    def n_parts(self) -> int:
        """Number of bounds of which the largest is the answer."""
        return len(self._makers)

    def part(self, index: int) -> Part:
        """Return one part; a few are kept, the rest is built when asked for.

        Parameters
        ----------
        index : int
            Number of the part.
        """
        with self._lock:
            if index not in self._made:
                if len(self._made) >= 16:
                    self._made.clear()
                self._made[index] = self._makers[index]()
            return self._made[index]

    @property
    def parts(self) -> Sequence[Part]:
        """All parts, built as they are reached."""
        return _Parts(self)

    @property
    def family(self) -> str:
        """What the network is made of, which decides who can solve it.

        One of "slopes" (element-wise activations), "groups", "mixed", "residual" and "implicit".
        """
        if self._stack is not None:
            return self._stack.kind
        return "residual" if isinstance(self.network, Residual) else "implicit"

    def objective(self, x: BoundProof) -> float:
        """Return the bound that `x` proves, rounding included; infinity if it proves none."""
        return max((upper for upper, _ in self.part_bounds(x)), default=0.0)

    def part_bounds(self, x: BoundProof) -> list[tuple[float, float]]:
        """Return proved bounds of every part.

        Parameters
        ----------
        x : BoundProof
            Proof of the problem; for several parts of kind "parts".

        Returns
        -------
        list of (upper, lower)
            Upper bound of the Lipschitz constant, and lower bound of the best upper bound that
            the same relaxation could give (0 when the proof has no dual), both with the scale.
        """
        graded = self.__dict__.get("_graded")
        if graded is not None and graded[0] is x:
            bounds: list[tuple[float, float]] = graded[1]
            return bounds
        from lowrank_opt.lipschitz.proof_checks import check_proof

        proofs = x.parts if x.kind == "parts" else (x,)
        if len(proofs) != self.n_parts:
            raise ProblemError(
                f"x proves {len(proofs)} parts; the problem has {self.n_parts}. Give the x of a "
                "result of this problem"
            )
        bounds = [check_proof(self, k, proof) for k, proof in enumerate(proofs)]
        self._graded = (x, bounds)
        return bounds

    def certificate(self, x: BoundProof) -> Certificate:
        """Grade a proof: the bound it proves, and how far it is from its relaxation's best."""
        bounds = self.part_bounds(x)
        upper = max((u for u, _ in bounds), default=0.0)
        lower = min(max((v for _, v in bounds), default=0.0), upper)
        if not math.isfinite(upper):
            return Certificate(math.inf, "relative gap of the bound", upper)
        if upper == 0.0:
            return Certificate(0.0, "relative gap of the bound", 0.0, 0.0)
        if any(p.kind == "unproved" for p in (x.parts or (x,))) and not lower > 0:
            return Certificate(1.0, "product of norms; no bound was computed", upper)
        if lower > 0:
            gap = 1.0 - lower / upper
            return Certificate(
                gap, "relative gap of the bound", upper, upper - lower,
                {"relaxation_bound": lower},
            )  # fmt: skip
        return Certificate(0.0, "proved bound, without a statement of optimality", upper)

    def sampled_lower_bound(self) -> float:
        """Return a proved lower bound of the Lipschitz constant from a few sampled Jacobians.

        The same number at every call; see :class:`SampledLowerBound` for more samples.
        """
        sampled = self.__dict__.get("_sampled")
        if sampled is None:
            from lowrank_opt.lipschitz.sampled import sampled_lower_bound

            try:
                sampled = sampled_lower_bound(
                    self.network, self.norm, self.region, n_ascent=_ASCENTS
                )
            except ProblemError:  # an implicit network without equilibrium: nothing was seen
                sampled = (0.0, None)
            self._sampled = sampled
        return float(sampled[0])

    def auto_solver(self) -> tuple[str, dict[str, Any]]:
        """Return ``LipSDPGroupSort`` when all activations act on groups, else ``LipSDP``.

        The former with the coupled program up to 400 variables.
        """
        if self.family != "groups":
            return "LipSDP", {}
        form = self.part(0).form
        variables = 0
        if isinstance(form, GroupChain):
            variables = form.weights[0].shape[1]
            for W, group in zip(form.weights[:-1], form.groups, strict=True):
                moving = 1 if group.direction is not None else group.size - 1
                variables += len(W) // group.size * moving
        coupled = self.n_parts <= 16 and variables <= _COUPLED
        return "LipSDPGroupSort", {"structure": "coupled"} if coupled else {}

    def fingerprint(self) -> dict[str, Any]:
        """Shapes and a hash of the weights, the norm, and what was asked for."""
        arrays = [_entries(a) for a in _arrays(self.network)]
        region = None
        if isinstance(self.region, Ball):
            region = ["Ball", digest(self.region.center), float(self.region.radius)]
        elif isinstance(self.region, Box):
            region = ["Box", digest(self.region.lower, self.region.upper)]
        return {
            "kind": type(self).__name__,
            "network": repr(self.network),
            "shapes": [list(a.shape) for a in _arrays(self.network)],
            "norm": self.norm,
            "region": region,
            "hash": digest(*arrays),
        }


class _Parts:
    """Parts as a sequence, built on demand."""

    def __init__(self, problem: LipschitzProblem) -> None:
        self._problem = problem

    def __len__(self) -> int:
        return self._problem.n_parts

    def __getitem__(self, index: int) -> Part:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self._problem.part(index % len(self))


def _arrays(network: Network) -> list[Any]:
    if isinstance(network, FeedForward):
        affine = [a for a in network.layers if isinstance(a, Affine)]
        return [array for a in affine for array in (a.weight, a.bias)]
    if isinstance(network, Residual):
        ends = [a for a in (network.first, network.last) if a is not None]
        out = [array for a in ends for array in (a.weight, a.bias)]
        return out + [v for b in network.blocks for v in (b.weight, b.bias, b.skip, b.output)]
    return [
        network.weight, network.input, network.output, network.skip, network.bias,
        network.output_bias,
    ]  # fmt: skip


def _entries(array: Any) -> NDArray[np.float64]:
    return np.asarray(array.data if sp.issparse(array) else array)


def _short(output: Any) -> str:
    return repr(output) if isinstance(output, (int, tuple)) else f"matrix {np.shape(output)}"


def _selection(output: Any, n_outputs: int) -> NDArray[np.float64] | None:
    """Return the matrix that selects outputs, ``None`` for all."""
    if output is None:
        return None
    if isinstance(output, (bool, np.bool_, str)):
        raise ProblemError(
            f"output={output!r} must be an output's number, a pair of numbers or a matrix"
        )
    if isinstance(output, (int, np.integer)):
        indices: tuple[int, ...] = (int(output),)
    elif (
        isinstance(output, tuple)
        and len(output) == 2
        and all(isinstance(k, (int, np.integer)) for k in output)
    ):
        indices = (int(output[0]), int(output[1]))
        if indices[0] == indices[1]:
            raise ProblemError(f"output={output!r}: the two outputs of a margin must differ")
    else:
        from lowrank_opt.lipschitz.network import matrix

        if np.ndim(np.asarray(output, dtype=object)) == 1:  # ragged lists too
            raise ProblemError(
                f"output={output!r} is neither a number, nor a tuple of two, nor a matrix of shape "
                f"(k, {n_outputs}); a margin is output=(3, 8)"
            )
        C = matrix("output", output)
        C = C.toarray() if sp.issparse(C) else C
        if C.shape[1] != n_outputs:
            raise ProblemError(
                f"output has shape {C.shape}; expected (k, {n_outputs}), one column for each output"
            )
        return np.asarray(C)
    for k in indices:
        if not 0 <= k < n_outputs:
            raise ProblemError(
                f"output={output!r}: there are outputs 0 to {n_outputs - 1}, no output {k}"
            )
    C = np.zeros((1, n_outputs))
    for k, sign in zip(indices, (1.0, -1.0), strict=False):
        C[0, k] = sign
    return C
