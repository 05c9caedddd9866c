"""
How many digits are certified
=============================

A classifier is certified at an input for a radius when no perturbation up to that size can change
its class. Two ways to prove it: Lipschitz bounds of the network, for perturbations measured by
their Euclidean length, and interval bounds, for perturbations of every pixel.
"""

# %%
# A small ReLU network that was trained on scikit-learn's digits, with the digits that it was not
# trained on. Its largest sampled Jacobian, its semidefinite bound and the product of its layers'
# norms: the true constant is between the first two.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from lowrank_opt.datasets import load_digits_network
from lowrank_opt.lipschitz import (
    IBPClassifier,
    LipschitzCertifier,
    lipschitz_bound,
    propagation_tightness,
)

data = load_digits_network((64, 32, 10))
result = lipschitz_bound(data.network)
product = lipschitz_bound(data.network, method="product")
print(f"accuracy {data.accuracy:.3f}")
print(f"sampled {result.lower_bound:.3f} <= LipSDP {result.fun:.3f} <= product {product.fun:.3f}")
print(f"certified: {result.certified}, proved gap of the program: {result.gap:.1e}")

# %%
# The radius of an input is its margin over the constant of the difference of two outputs. One
# bound for each pair of classes is tighter than one for the whole network; the product of norms is
# the quick way to have one.

radii = np.linspace(0.0, 3.0, 61)
curves = {}
for label, options in {
    "LipSDP, each pair": {},
    "LipSDP, one bound": {"pairwise": False},
    "product of norms": {"pairwise": False, "method": "product"},
}.items():
    certifier = LipschitzCertifier(**options).fit(data.network)
    curves[label] = certifier.certified_accuracy(data.X_test, data.y_test, eps=radii)
    print(f"{label}: median radius {np.median(certifier.certified_radius(data.X_test)):.3f}")

# %%
# Interval bounds prove little about a network that was trained plainly, and much about one that was
# trained with them. `propagation_tightness` says how much the intervals lose: 1 would be nothing.

X, y = load_digits(return_X_y=True)
X, X_test, y, y_test = train_test_split(X / 16, y, test_size=0.2, stratify=y, random_state=0)
eps = np.linspace(0.0, 0.2, 41)
boxes = {}
for label, radius in {"trained plainly": 0.0, "trained with boxes of 0.1": 0.1}.items():
    model = IBPClassifier((64, 64), eps=radius, clip=(0, 1), max_iter=40, random_state=0)
    model.fit(X, y)
    boxes[label] = model.certified_accuracy(X_test, y_test, eps=eps)
    tightness = propagation_tightness(model.network_, X_test)
    print(f"{label}: accuracy {model.score(X_test, y_test):.3f}, tightness {tightness:.2f}")

# %%
# The share of test digits that are classified rightly and certified, by the size of the
# perturbation. On the left inputs are standardised, on the right pixels are between 0 and 1.

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained", sharey=True)
for label, curve in curves.items():
    left.plot(radii, curve, label=label)
for label, curve in boxes.items():
    right.plot(eps, curve, label=label)
left.set_xlabel("Euclidean length of the perturbation")
right.set_xlabel("largest change of a pixel")
left.set_ylabel("certified accuracy")
for axes in (left, right):
    axes.legend(fontsize=8)
plt.show()
