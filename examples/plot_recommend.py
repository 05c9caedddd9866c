"""
Predict ratings and recommend
=============================

Ratings with the shape of a recommender's data: few items have most of the ratings, and most users
have rated few items. Three solvers predict ratings that they have not seen.
"""

# %%
# One tenth of the ratings is put aside.

import warnings

import matplotlib.pyplot as plt
import numpy as np

from lowrank_opt.core import History
from lowrank_opt.datasets import make_ratings
from lowrank_opt.recovery import (
    AlternatingMinimization,
    FactorSGD,
    GibbsFactorization,
    MatrixCompletion,
)

data = make_ratings(1000, 600, 60_000, random_state=0)
test = np.random.default_rng(0).random(len(data.values)) < 0.1


def rmse(x):
    """Error on the ratings that were put aside."""
    predicted = x.predict(data.rows[test], data.cols[test])
    return float(np.sqrt(np.mean((predicted - data.values[test]) ** 2)))


# %%
# The problem has an offset, a bias for every user and item, and factors of rank 10. The ridge of a
# row is proportional to its number of ratings.

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # an item whose ratings were all put aside
    problem = MatrixCompletion.from_coo(
        data.rows[~test],
        data.cols[~test],
        data.values[~test],
        data.shape,
        rank=10,
        reg=0.06,
        reg_bias=0.02,
        reg_scaling="count",
        biases=True,
    )

# %%
# A history records any function of the iterate; the time it takes is not counted.

solvers = {
    "AlternatingMinimization": AlternatingMinimization(max_iter=15, tol=1e-3),
    "FactorSGD": FactorSGD(max_iter=20, random_state=0),
    "GibbsFactorization": GibbsFactorization(max_iter=60, random_state=0),
}
results, curves = {}, {}
for name, solver in solvers.items():
    extra = {} if name == "GibbsFactorization" else {"rmse": lambda _, x: rmse(x)}
    history = History(objective=False, extra=extra)
    results[name] = solver.solve(problem, history=history)
    if extra:
        curves[name] = history["time"][1:], history["rmse"][1:]
    print(f"{name}: test RMSE {rmse(results[name].x):.4f}")

# %%
# The sampler's error is shown where it ends; the average over draws improves slowly.

figure, axis = plt.subplots(figsize=(7, 3.6), layout="constrained")
for name, curve in curves.items():
    axis.plot(*curve, "o-", markersize=3, label=name)
axis.axhline(
    rmse(results["GibbsFactorization"].x), linestyle="--", color="C2", label="GibbsFactorization"
)
axis.set_xlabel("seconds")
axis.set_ylabel("test RMSE")
axis.legend()
plt.show()

# %%
# Recommend the items with the highest predicted ratings among those that the user has not rated.

user = 0
items = np.setdiff1d(np.arange(data.shape[1]), data.cols[data.rows == user])
predicted = results["AlternatingMinimization"].x.predict(np.full(len(items), user), items)
print("recommended:", items[np.argsort(-predicted)[:5]])
