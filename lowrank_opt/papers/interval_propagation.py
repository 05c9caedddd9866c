"""Mao et al.: why training with imprecise interval bounds works, and how tight they become.

The paper's networks are convolutional and are trained on image sets for many hours. Its statements
are tested here on Gaussian networks, where closed forms exist, and on perceptrons trained on
scikit-learn's digits.
"""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import gammaln
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from lowrank_opt.lipschitz import IBPClassifier, interval_bounds, propagation_tightness
from lowrank_opt.papers.report import Row, Section, Table, draw

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

__all__ = ["REFERENCE", "gaussian_tightness", "reproduce"]

REFERENCE = (
    "Y. Mao, M. N. Müller, M. Fischer, M. Vechev, Understanding Certified Training with Interval "
    "Bound Propagation, ICLR 2024, arXiv:2306.10426"
)
_SCALES: dict[str, dict[str, Any]] = {
    "smoke": {"draws": 8, "epochs": 40, "widths": (25, 100, 400), "seeds": 1},
    "medium": {"draws": 40, "epochs": 70, "widths": (25, 100, 400), "seeds": 3},
    "paper": {"draws": 200, "epochs": 100, "widths": (25, 50, 100, 200, 400, 800), "seeds": 5},
}
_RADII = (0.0, 0.02, 0.05, 0.1, 0.2)
_TEST_RADII = np.array([0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.125, 0.15])
_ABSTRACT = {
    "start": "abstract: tightness decreases with width and depth at initialisation",
    "training": "abstract: tightness improves with IBP training, given sufficient width",
    "exact": "abstract: conditions on the weights for exact bounds; here the simplest, no sign "
    "changes",
    "size": "abstract, arXiv version 2: tightness is dominated by the size of the regions",
    "neither": "abstract: tightness is neither sufficient nor necessary for robustness",
    "width": "abstract: wider networks improve performance",
}


def reproduce(scale: str, *, random_state: int = 0) -> list[Section]:
    """Measure tightness at initialisation and along training, and certified accuracy on digits.

    Parameters
    ----------
    scale : {"smoke", "medium", "paper"}
        Number of draws, epochs and seeds.
    random_state : int, default=0
        Seed of weights, split and training.

    Returns
    -------
    list of Section
        Initialisation, training.
    """
    size = _SCALES[scale]
    return [_start(size, random_state), *_training(size, random_state)]


def gaussian_tightness(width: int) -> float:
    """Return the tightness of two Gaussian layers, as the ratio of expected radii.

    Parameters
    ----------
    width : int
        Neurons between the layers.

    Returns
    -------
    float
        ``sqrt(pi) Γ((d + 1) / 2) / (d Γ(d / 2))``: an entry of the product has the length of a
        Gaussian vector of d entries times a Gaussian number; the sum of absolute values is d
        times a product of two means.
    """
    log = 0.5 * np.log(np.pi) + gammaln((width + 1) / 2) - np.log(width) - gammaln(width / 2)
    return float(np.exp(log))


def _gaussian(widths: tuple[int, ...], rng: np.random.Generator) -> list[Any]:
    pairs = itertools.pairwise(widths)
    return [rng.standard_normal((m, n)) / np.sqrt(n) for n, m in pairs]


# -- at initialisation ----------------------------------------------------------------------------


def _start(size: dict[str, Any], seed: int) -> Section:
    began = time.perf_counter()
    rng = np.random.default_rng([seed, 1])
    ends, draws = 100, size["draws"]
    rows, cells = [], []
    for width in (10, 100):
        found, local = [], []
        for _ in range(draws):
            network = _gaussian((ends, width, ends), rng)
            found.append(propagation_tightness(network, mode="linear"))
            X = rng.standard_normal((4, ends))
            local.append(propagation_tightness(network, X, mode="local"))
        truth = gaussian_tightness(width)
        mean = float(np.mean(found))
        rows.append(
            Row(
                f"two Gaussian layers, {width} neurons between: tightness", mean, paper=truth,
                band=(0.96 * truth, 1.04 * truth), source="closed form: ratio of expected radii",
                note="the mean of ratios, which differs a little from the ratio of means",
            )
        )  # fmt: skip
        if width == 100:
            ratio = float(np.mean(local)) / mean
            rows.append(
                Row(
                    "the same with ReLU at random inputs, over the linear one", ratio,
                    paper=2**0.5, band=(0.93 * 2**0.5, 1.07 * 2**0.5),
                    source="closed form: half of the neurons are on",
                )
            )  # fmt: skip
    depths, curves, falls = (2, 3, 5, 8, 12, 20), {}, 0
    for width in size["widths"]:
        values = []
        for depth in depths:
            network = _gaussian((ends, *[width] * (depth - 1), 10), rng)
            values.append(propagation_tightness(network, mode="linear", log=True) / np.log(10.0))
        curves[width] = values
        falls += int(np.sum(np.diff(values) >= 0))
        cells.append([width, *values])
    across = np.array([curves[w] for w in size["widths"]])
    positive = [np.abs(W) for W in _gaussian((30, 40, 40, 40, 5), rng)]
    rows += [
        Row(
            "steps to a larger depth at which tightness does not fall", falls, band=(0, 0),
            source=_ABSTRACT["start"],
        ),
        Row(
            "steps to a larger width at which tightness does not fall",
            int(np.sum(np.diff(across, axis=0) >= 0)), band=(0, 0), source=_ABSTRACT["start"],
        ),
        Row(
            "20 layers of 400 neurons: logarithm (base 10) of tightness"
            if 400 in curves
            else "20 layers: logarithm of tightness",
            curves.get(400, curves[size["widths"][-1]])[-1],
            note="reported; computed with scaled products, so that no depth underflows",
        ),
        Row(
            "four layers without negative weights: tightness", propagation_tightness(positive),
            paper=1.0, band=(1 - 1e-12, 1 + 1e-12), source=_ABSTRACT["exact"],
        ),
        Row(
            "convolutional networks of the paper at initialisation", None,
            note="their default initialisation is that of a deep learning library which is not a "
            "dependency",
        ),
    ]  # fmt: skip

    def plot(figure: MatplotlibFigure) -> None:
        axes = figure.subplots()
        for width, values in curves.items():
            axes.plot(depths, values, "o-", markersize=4, label=f"{width} neurons")
        axes.set_xlabel("layers")
        axes.set_ylabel("log10 tightness")
        axes.legend(fontsize=8)

    return Section(
        "Tightness at initialisation",
        "Tightness is the radius of the smallest box that contains the outputs over the radius "
        "that interval arithmetic gives: 1 is exact. Weights are independent normal numbers with "
        f"variance 1/n_in; {draws} draws for the closed forms.",
        rows,
        [
            Table(
                ["width", *(f"{d} layers" for d in depths)], cells,
                "Logarithm (base 10) of the tightness of linear Gaussian networks, one draw each",
            )
        ],
        draw(plot, "Tightness of Gaussian networks at initialisation.", size=(5, 3)),
        REFERENCE,
        seconds=time.perf_counter() - began,
    )  # fmt: skip


# -- along training -------------------------------------------------------------------------------


def _training(size: dict[str, Any], seed: int) -> list[Section]:
    began = time.perf_counter()
    X, y = load_digits(return_X_y=True)
    X, X_test, y, y_test = train_test_split(
        X / 16.0, y, test_size=0.2, stratify=y, random_state=seed
    )

    def fit(eps: float, k: int, **options: Any) -> IBPClassifier:
        hidden = options.pop("hidden", (64, 64))
        options = {"max_iter": size["epochs"], **options}
        model = IBPClassifier(hidden, eps=eps, clip=(0.0, 1.0), random_state=seed + k, **options)
        return model.fit(X, y)

    models: dict[float, IBPClassifier] = {}

    def measures(model: IBPClassifier) -> tuple[float, float, Any]:
        return (
            float(propagation_tightness(model.network_, X_test)),
            float(model.score(X_test, y_test)),
            np.array([model.certified_accuracy(X_test, y_test, eps=e) for e in _TEST_RADII]),
        )

    def mean(eps: float, **options: Any) -> list[Any]:
        fits = [fit(eps, k, **options) for k in range(size["seeds"])]
        if not options:
            models[eps] = fits[0]
        found = [measures(model) for model in fits]
        return [np.mean([f[i] for f in found], axis=0) for i in range(3)]

    by_eps = {eps: mean(eps) for eps in _RADII}
    small = mean(0.1, shrink=0.4, attack_steps=10)
    narrow, wide = mean(0.1, hidden=(16, 16)), mean(0.1, hidden=(200, 200))
    start = mean(0.1, max_iter=1, learning_rate=1e-12)
    plain, trained = by_eps[0.0], by_eps[0.1]
    at = {e: int(np.flatnonzero(np.isclose(_TEST_RADII, e))[0]) for e in (0.05, 0.1)}
    tightness = [by_eps[eps][0] for eps in _RADII]
    rows = [
        Row(
            "tightness after IBP training at 0.1 over that at the start", trained[0] / start[0],
            band=(1.5, None), source=_ABSTRACT["training"],
        ),
        Row(
            "tightness after IBP training at 0.1 over that after plain training",
            trained[0] / plain[0], band=(1.5, None), source=_ABSTRACT["training"],
        ),
        Row(
            "radii of training at which tightness does not rise",
            int(np.sum(np.diff(tightness) <= 0)),
            band=(0, 0), source=_ABSTRACT["size"],
        ),
        Row(
            "small boxes within 0.1: tightness over that of whole boxes", small[0] / trained[0],
            band=(None, 0.95), source=_ABSTRACT["size"],
        ),
        Row(
            "small boxes: certified accuracy at 0.05 less that of whole boxes",
            small[2][at[0.05]] - trained[2][at[0.05]], band=(-0.05, None),
            source=_ABSTRACT["neither"], note="though their bounds are less tight",
        ),
        Row(
            "widths 200 over 16: certified accuracy at 0.1, difference",
            wide[2][at[0.1]] - narrow[2][at[0.1]], band=(0.0, None), source=_ABSTRACT["width"],
        ),
    ]  # fmt: skip
    cells = [
        [label, *f[:2], *(f[2][i] for i in range(len(_TEST_RADII)))]
        for label, f in (
            ("start", start),
            *((f"ε = {eps:g}" if eps else "plain", by_eps[eps]) for eps in _RADII),
            ("small boxes, ε = 0.1", small),
            ("ε = 0.1, width 16", narrow),
            ("ε = 0.1, width 200", wide),
        )
    ]
    head = ["training", "tightness", "accuracy", *(f"certified at {e:g}" for e in _TEST_RADII)]

    def plot(figure: MatplotlibFigure) -> None:
        left, right = figure.subplots(1, 2)
        left.plot(_RADII, tightness, "o-", markersize=4)
        left.set_xlabel("radius of training")
        left.set_ylabel("tightness")
        for eps in _RADII:
            label = f"ε = {eps:g}" if eps else "plain"
            right.plot(_TEST_RADII, by_eps[eps][2], label=label)
        right.set_xlabel("radius")
        right.set_ylabel("certified accuracy")
        right.legend(fontsize=7)

    training = Section(
        "Tightness along training",
        "Perceptrons with two hidden layers of 64 neurons on 80 % of scikit-learn's digits, "
        f"pixels in [0, 1], {size['epochs']} epochs; means over {size['seeds']} seed(s). "
        "Tightness is that of the linearisations at the test inputs.",
        rows,
        [Table(head, cells, "On the test part, by the radius ε of training")],
        draw(plot, "Tightness, and share of test digits that are certified by intervals.",
             size=(8, 3)),
        REFERENCE,
        seconds=time.perf_counter() - began,
    )  # fmt: skip
    return [training, _certified(models[0.1], models[0.0], X_test, y_test, seed)]


def _certified(model: IBPClassifier, plain: IBPClassifier, X: Any, y: Any, seed: int) -> Section:
    began = time.perf_counter()
    rng = np.random.default_rng([seed, 2])
    eps, wrong, outside, certified = 0.1, 0, 0.0, {}
    for name, net in (("IBP", model.network_), ("plain", plain.network_)):
        bounds = interval_bounds(net, X, eps, clip=(0.0, 1.0), margins_for=y)
        outputs = interval_bounds(net, X, eps, clip=(0.0, 1.0))
        certified[name] = float(np.mean(bounds.certified))
        for _ in range(20):
            corners = np.clip(X + eps * rng.choice([-1.0, 1.0], X.shape), 0.0, 1.0)
            values = net.forward(corners)
            wrong += int(np.sum(bounds.certified & (values.argmax(axis=1) != y)))
            over = np.maximum(values - outputs.upper, outputs.lower - values)
            outside = max(outside, float(over.max()))
    rows = [
        Row(
            "IBP training at 0.1: accuracy", model.score(X, y), band=(0.9, None),
            source="this library: measured once, with a margin",
        ),
        Row(
            "IBP training at 0.1: certified accuracy at 0.1", certified["IBP"], band=(0.65, None),
            source="this library: measured once, with a margin",
        ),
        Row(
            "plain training: certified accuracy at 0.1 by intervals", certified["plain"],
            band=(None, 0.05), source="interval bounds of plainly trained networks are useless",
        ),
        Row(
            "corners of certified boxes that are given another class", wrong, band=(0, 0),
            source="theory; 20 random corners of each box",
        ),
        Row(
            "largest distance of an output outside of its interval", outside, band=(None, 0.0),
            source="theory; 20 random corners of each box",
        ),
    ]  # fmt: skip
    return Section(
        "Certified accuracy of a perceptron on digits",
        "The network that was trained with intervals of radius 0.1, and one that was trained "
        "plainly, on the test part; boxes are cut at [0, 1].",
        rows,
        reference=REFERENCE,
        seconds=time.perf_counter() - began,
    )
