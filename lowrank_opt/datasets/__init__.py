"""Data sets: synthetic matrices and linear programs, photographs with holes, networks, ratings.

Nothing here builds a dense matrix of the size of the problem, and nothing is downloaded unless a
``fetch_*`` function is called.
"""

from __future__ import annotations

from lowrank_opt.datasets._entries import ObservedEntries
from lowrank_opt.datasets._home import DatasetError, data_home, find_data
from lowrank_opt.datasets._images import ImageObservations, psnr, sample_image_observations
from lowrank_opt.datasets._linear_programs import (
    LinearProgramData,
    make_basis_pursuit_lp,
    make_infeasible_lp,
    make_l1_regression_lp,
    make_markov_decision_lp,
    make_multicommodity_lp,
    make_pagerank_lp,
    make_planted_lp,
    make_transport_lp,
    make_unbounded_lp,
)
from lowrank_opt.datasets._low_rank import LowRankObservations, make_low_rank_observations
from lowrank_opt.datasets._movielens import fetch_movielens
from lowrank_opt.datasets._networks import (
    NetworkData,
    fetch_maxmin_network,
    load_digits_network,
    make_eclipse_network,
    make_gaussian_network,
    make_uniform_network,
)
from lowrank_opt.datasets._ratings import Ratings, make_ratings

__all__ = [
    "DatasetError",
    "ImageObservations",
    "LinearProgramData",
    "LowRankObservations",
    "NetworkData",
    "ObservedEntries",
    "Ratings",
    "data_home",
    "fetch_maxmin_network",
    "fetch_movielens",
    "find_data",
    "load_digits_network",
    "make_basis_pursuit_lp",
    "make_eclipse_network",
    "make_gaussian_network",
    "make_infeasible_lp",
    "make_l1_regression_lp",
    "make_low_rank_observations",
    "make_markov_decision_lp",
    "make_multicommodity_lp",
    "make_pagerank_lp",
    "make_planted_lp",
    "make_ratings",
    "make_transport_lp",
    "make_unbounded_lp",
    "make_uniform_network",
    "psnr",
    "sample_image_observations",
]
