"""Neural networks to bound: random laws, nets trained on digits, published weights."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.core.errors import ParameterError
from lowrank_opt.datasets._home import DatasetError, data_home

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from lowrank_opt.core.protocols import Array
    from lowrank_opt.lipschitz.network import FeedForward

__all__ = [
    "NetworkData",
    "fetch_maxmin_network",
    "load_digits_network",
    "make_eclipse_network",
    "make_gaussian_network",
    "make_uniform_network",
]


@dataclass(frozen=True, eq=False)
class NetworkData:
    """Weights of a trained feed-forward network, and data that it was not trained on.

    Parameters
    ----------
    weights : tuple of ndarray of shape (n_out, n_in)
        Matrices of the affine maps, float64.
    biases : tuple of ndarray of shape (n_out,)
        Their biases.
    activation : {"relu", "maxmin"}
        Activation of every hidden layer.
    name : str
        Widths and origin.
    X_test : ndarray of shape (n_samples, n_inputs) or None, default=None
        Test inputs; ``None``: not at hand.
    y_test : ndarray of shape (n_samples,) or None, default=None
        Their classes.
    """

    weights: tuple[Array, ...]
    biases: tuple[Array, ...]
    activation: str
    name: str
    X_test: Array | None = None
    y_test: Array | None = None

    def __repr__(self) -> str:
        return f"NetworkData({self.name}, {self.activation})"

    @property
    def widths(self) -> tuple[int, ...]:
        """Inputs, hidden layers, outputs."""
        return (self.weights[0].shape[1], *(len(W) for W in self.weights))

    @property
    def network(self) -> FeedForward:
        """The network in the form that :class:`lowrank_opt.lipschitz.LipschitzProblem` takes."""
        from lowrank_opt.lipschitz.activations import Activation
        from lowrank_opt.lipschitz.network import Affine, FeedForward

        layers: list[Affine | Activation] = []
        for W, b in zip(self.weights, self.biases, strict=True):
            layers += [Affine(W, b), Activation(self.activation)]
        return FeedForward(tuple(layers[:-1]))

    @property
    def accuracy(self) -> float | None:
        """Share of the test inputs whose largest output is that of their class."""
        if self.X_test is None or self.y_test is None:
            return None
        return float(np.mean(self.network.forward(self.X_test).argmax(axis=1) == self.y_test))


# -- random laws ----------------------------------------------------------------------------------


def _sizes(widths: Sequence[int]) -> list[int]:
    sizes = [int(n) for n in widths]
    if len(sizes) < 2 or min(sizes) < 1:
        raise ParameterError(
            f"widths={widths!r}: expected at least two positive integers, inputs first, outputs "
            "last"
        )
    return sizes


def make_gaussian_network(widths: Sequence[int], *, random_state: int = 0) -> list[Array]:
    """Draw weights of independent normal entries with variance 1 / n_in.

    With few inputs, one output and many layers these are the hard cases for bounds by semidefinite
    programs: the bound spans many orders of magnitude less than the product of norms.

    Parameters
    ----------
    widths : sequence of int
        Inputs, hidden layers, outputs; ``(4, 40, 40, 1)`` has three matrices.
    random_state : int, default=0
        Seed of NumPy's default generator; matrices are drawn in order.

    Returns
    -------
    list of ndarray of shape (n_out, n_in)
        The weights, without biases.

    Raises
    ------
    ParameterError
        Fewer than two widths, or one that is not positive.
    """
    sizes = _sizes(widths)
    rng = np.random.default_rng(random_state)
    pairs = itertools.pairwise(sizes)
    return [rng.standard_normal((m, n)) / np.sqrt(n) for n, m in pairs]


def make_uniform_network(
    widths: Sequence[int] = (2, 10, 30, 20, 2), *, random_state: int = 0
) -> list[Array]:
    """Draw weights uniform in [0, 1), divided by the root of the number of matrices.

    Parameters
    ----------
    widths : sequence of int, default=(2, 10, 30, 20, 2)
        Inputs, hidden layers, outputs.
    random_state : int, default=0
        Seed of NumPy's default generator; matrices are drawn in order.

    Returns
    -------
    list of ndarray of shape (n_out, n_in)
        The weights, without biases.

    Raises
    ------
    ParameterError
        Fewer than two widths, or one that is not positive.

    Notes
    -----
    All weights are positive, so that the units are all on for the steepest input: the exact bound
    of the free patterns is the norm of the product.
    """
    sizes = _sizes(widths)
    rng = np.random.default_rng(random_state)
    scale = 1.0 / np.sqrt(len(sizes) - 1)
    return [scale * rng.random((m, n)) for n, m in itertools.pairwise(sizes)]


def make_eclipse_network(depth: int, width: int) -> list[Array]:
    """Random network of the published grid of Xu and Sivaranjani, by their recipe and seed.

    Four inputs, one output; every matrix is Gaussian with a spectral norm drawn uniformly from
    [0.4, 1.8].

    Parameters
    ----------
    depth : int
        Number of matrices, at least 2. The paper has 2, 5, 10, 20, 30, 50, 75, 100.
    width : int
        Neurons of a hidden layer, positive. The paper has 20, 40, 60, 80, 100, and up to 1000.

    Returns
    -------
    list of ndarray of shape (n_out, n_in)
        The weights, without biases. NumPy keeps the stream of its legacy generator, so that they
        are those of the paper.

    Raises
    ------
    ParameterError
        A depth below 2, or a width that is not positive.

    References
    ----------
    .. [1] Y. Xu, S. Sivaranjani, "ECLipsE: Efficient Compositional Lipschitz Constant Estimation
       for Deep Neural Networks", NeurIPS 2024. :arxiv:`2404.04375`
    """
    if depth < 2 or width < 1:
        raise ParameterError(
            f"depth={depth!r}, width={width!r}: depth counts matrices and must be at least 2, "
            "width at least 1"
        )
    rng = np.random.RandomState(7 * width + 13 * depth)
    sizes = [4, *[width] * (depth - 1), 1]
    weights = []
    for n, m in itertools.pairwise(sizes):
        norm = rng.uniform(0.4, 1.8)
        W = rng.randn(m, n)
        weights.append(norm * W / np.linalg.norm(W, 2))
    return weights


# -- digits ---------------------------------------------------------------------------------------

SIDES = {64: 8, 784: 28}


def digits(side: int, seed: int) -> tuple[Array, Array, Array, Array]:
    """Split scikit-learn's digits into training and test part, 80 to 20, stratified.

    Parameters
    ----------
    side : {8, 28}
        8: the 64 pixels, standardised; 28: up-sampled by linear interpolation, in [0, 1].
    seed : int
        Seed of the split.

    Returns
    -------
    X, X_test, y, y_test : ndarray
        Inputs in rows, and classes.
    """
    from scipy.ndimage import zoom
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import StandardScaler

    X, y = load_digits(return_X_y=True)
    if side != 8:
        X = zoom(X.reshape(-1, 8, 8) / 16.0, (1, side / 8, side / 8), order=1).reshape(len(X), -1)
    X, X_test, y, y_test = train_test_split(X, y, test_size=0.2, stratify=y, random_state=seed)
    if side == 8:
        scaler = StandardScaler().fit(X)
        X, X_test = scaler.transform(X), scaler.transform(X_test)
    return X, X_test, y, y_test


@lru_cache(maxsize=1)
def _stored() -> dict[str, Array]:
    path = resources.files("lowrank_opt.datasets") / "digits_networks.npz"
    with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def load_digits_network(
    widths: Sequence[int] = (64, 32, 10), *, activation: str = "relu", seed: int = 0
) -> NetworkData:
    """Load a small classifier that was trained on scikit-learn's digits.

    Parameters
    ----------
    widths : sequence of int, default=(64, 32, 10)
        Which one. ReLU: ``(64, 32, 10)`` and ``(64, 32, 32, 10)`` with seeds 0, 1, 2;
        ``(784, 50, 10)`` with seed 0, on digits that were up-sampled to 28 × 28 pixels. MaxMin, all
        with seed 0: ``(64, w, …, w, 10)`` with 2 matrices and w = 16 or 32, and with 5, 8 or 18
        matrices and w = 32.
    activation : {"relu", "maxmin"}, default="relu"
        Activation of the hidden layers.
    seed : int, default=0
        Seed of split and training.

    Returns
    -------
    NetworkData
        Weights and test part. The weights are those of a file in the package, so that they are the
        same everywhere; the module that trained them is ``lowrank_opt.datasets._train_networks``.

    Raises
    ------
    ParameterError
        There is no such network; the message lists those that exist.
    """
    key = f"{activation}/{'-'.join(map(str, widths))}/{seed}"
    stored = _stored()
    if f"{key}/W0" not in stored:
        known = sorted({name.rpartition("/")[0] for name in stored})
        raise ParameterError(
            f"there is no network {key!r}; stored are (activation/widths/seed) {', '.join(known)}"
        )
    n = len(widths) - 1
    weights = tuple(stored[f"{key}/W{k}"].astype(np.float64) for k in range(n))
    biases = tuple(stored[f"{key}/b{k}"].astype(np.float64) for k in range(n))
    side = SIDES[int(widths[0])]
    _, X_test, _, y_test = digits(side, seed)
    name = f"{'-'.join(map(str, widths))} on digits"
    name += f" up-sampled to {side} x {side}" if side != 8 else ""
    return NetworkData(weights, biases, activation, name, X_test, y_test)


# -- published weights ----------------------------------------------------------------------------

# The commit is part of the address, so that the files cannot change.
BASE_URL = (
    "https://raw.githubusercontent.com/ppauli/QCs_MaxMin/"
    "b9175e22940cc1cbbbe03e82388b0d92c4cb4ff7/networks_weights/"
)
# (depth, width): SHA-256 of weights_l2_{depth}fc_{width}.mat
MAXMIN_SHA256 = {
    (2, 16): "b28e91218c07887ba80360b990b5935d31700edf9dbfd306e282c4de7e6ca136",
    (2, 32): "a11d56934d9692ca6da8528d69465b3f1126b6b6027d50841a4bc311fc9c0c71",
    (2, 64): "06a09cd944bfdb081cf3b0718c8917a449982ab90d9247f4191adc89c2af0a4d",
    (2, 128): "0b87d2ef2c2ef1837e83432b4029677bf4763b3823e1ef5bba25185cfc55e0b6",
    (5, 32): "3444b4a0a8d6935850f81fdcb35034c4070db788633aa86f8e5e1c1bbc5a6ca5",
    (5, 64): "c733fea845d2230ac2fddee985431b9a5f7ff30b51b4e755414f166333a7efe7",
    (8, 32): "2cff5ba2a2cfa6706d330e3d6a6a39eb870870c6236025c6c74f4c7cfcb9b029",
    (8, 64): "fc2bf3865d2fbbbc781d9ee60a4925791e6fa07c9dbc14a709cef7e95d3471b4",
    (8, 128): "a8546e923fb3b3f0333b5ea8618d181ffe8525a82d21391839c684a6df4f97a4",
    (8, 256): "d157ef3f277c16dc1eb78fac8a83cb76be2b8ebf6ea3ec5f1341add33a285512",
    (18, 32): "1a58efd77d583f93b3876eec5ae6f0616ec07a84d9d9bcd49988aac852cbd84d",
    (18, 64): "8598a3c17c4f5b7ae787ba073dce4b7b186f91309141024c683979470ca5eab9",
    (18, 128): "ae14492bf4fb857301147838a5c20946b94c06b204448b4775af811f56e8459d",
}


def fetch_maxmin_network(
    depth: int = 2,
    width: int = 16,
    *,
    folder: str | os.PathLike[str] | None = None,
    base_url: str | None = None,
    download: bool = True,
    timeout: float = 60.0,
) -> NetworkData:
    """Load the weights of a MaxMin network on MNIST that Pauli et al. published.

    The file is downloaded once, its SHA-256 sum checked, and kept in the data folder.

    Parameters
    ----------
    depth : {2, 5, 8, 18}, default=2
        Number of matrices.
    width : int, default=16
        Neurons of a hidden layer: 16, 32, 64 or 128 with depth 2; 32 or 64 with depth 5; 32, 64,
        128 or 256 with depth 8; 32, 64 or 128 with depth 18.
    folder : str or path-like or None, default=None
        Data folder, see :func:`data_home`; files lie in its subfolder ``maxmin``.
    base_url : str or None, default=None
        Folder URL of a mirror with the same files; ``None`` takes the authors' repository.
    download : bool, default=True
        Whether the network may be used.
    timeout : float, default=60.0
        Seconds without an answer after which the download fails, positive.

    Returns
    -------
    NetworkData
        Weights of shapes (width, 784), …, (10, width), biases zero (the files have none), no data.

    Raises
    ------
    ParameterError
        There is no network of this depth and width.
    DatasetError
        The file is not there and `download` is false, the download failed, the checksum is wrong,
        or the file cannot be read. Nothing partial is left behind.
    MissingDependencyError
        A download is needed and pooch is not installed (extra ``data``).

    References
    ----------
    .. [1] P. Pauli, A. Havens, A. Araujo, S. Garg, F. Khorrami, F. Allgöwer, B. Hu, "Novel
       Quadratic Constraints for Extending LipSDP beyond Slope-Restricted Activations", ICLR 2024.
       :arxiv:`2401.14033`
    """
    if (depth, width) not in MAXMIN_SHA256:
        known = ", ".join(f"({d}, {w})" for d, w in MAXMIN_SHA256)
        raise ParameterError(f"there is no network ({depth}, {width}); choose from {known}")
    # Downloads of all data sets go the same way.
    from lowrank_opt.datasets._movielens import _check, _download

    sha256 = MAXMIN_SHA256[depth, width]
    path = data_home(folder) / "maxmin" / f"weights_l2_{depth}fc_{width}.mat"
    if path.exists():
        _check(path, sha256)
    elif download:
        _download(f"{(base_url or BASE_URL).rstrip('/')}/{path.name}", sha256, path, timeout)
    else:
        raise DatasetError(
            f"{path} does not exist and download=False; allow the download or put the file there"
        )
    weights = _read_cells(path)
    name = f"784-{'-'.join([str(width)] * (depth - 1))}-10 on MNIST, published weights"
    biases = tuple(np.zeros(len(W)) for W in weights)
    return NetworkData(weights, biases, "maxmin", name)


def _read_cells(path: Any) -> tuple[Array, ...]:
    from scipy.io import loadmat

    try:
        cells = loadmat(path)["W"].ravel()
        weights = tuple(np.ascontiguousarray(W, dtype=np.float64) for W in cells)
    except (KeyError, ValueError, TypeError, OSError, NotImplementedError) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error
    return weights
