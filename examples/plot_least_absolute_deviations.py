"""
Least absolute deviations, quantiles, and worst-case weights
============================================================

A few targets that are far off pull a least-squares line away. The line of least absolute
deviations stays where most of the data are; the lines of other quantiles show how far these
spread. All of them are linear programs, solved with a duality gap that comes with the answer.
"""

# %%
# A line with noise that grows to the right, and one target in ten that is far off.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.linear_model import LinearRegression

from lowrank_opt.monotone.estimators import L1Regressor, RobustRegressor

rng = np.random.default_rng(0)
x = np.sort(rng.uniform(0.0, 10.0, 300))
y = 1.0 + 0.5 * x + (0.1 + 0.1 * x) * rng.standard_normal(300)
wrong = (rng.random(300) < 0.1) & (x > 5)
y[wrong] += rng.uniform(8.0, 15.0, wrong.sum())
X = x[:, None]

median = L1Regressor().fit(X, y)
squares = LinearRegression().fit(X, y)
print(f"slope 0.5; absolute deviations {median.coef_[0]:.3f}, squares {squares.coef_[0]:.3f}")
print(f"duality gap {median.dual_gap_:.1e} after {median.n_iter_} iterations")

figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
ax.plot(x[~wrong], y[~wrong], ".", color="0.6", markersize=4)
ax.plot(x[wrong], y[wrong], "x", color="0.6", markersize=5)
ax.plot(x, squares.predict(X), "C1--", label="least squares")
ax.plot(x, median.predict(X), "C0", label="median")
for quantile in (0.1, 0.8):
    line = L1Regressor(quantile=quantile).fit(X, y)
    ax.plot(x, line.predict(X), "C0", linewidth=1, alpha=0.6, label=f"quantile {quantile}")
ax.legend()

# %%
# The opposite wish: no target is wrong, and rare ones matter. Then the weights of the samples are
# chosen by an opponent, within a ball around equal ones, and the largest errors count more, up to
# the line with the least largest error.

y = 1.0 + 0.5 * x + 0.3 * rng.standard_normal(300) + 0.2 * (x > 9) * (x - 9) * 10
figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
ax.plot(x, y, ".", color="0.6", markersize=4)
for rho in (0.0, 20.0, 1e5):
    model = RobustRegressor(rho, tol=1e-4).fit(X, y)
    largest = np.abs(y - model.predict(X)).max()
    print(f"rho {rho:g}: largest error {largest:.2f}, heaviest weight {model.weights_.max():.3f}")
    ax.plot(x, model.predict(X), label=f"rho = {rho:g}")
ax.legend()
plt.show()
