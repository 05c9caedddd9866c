from lowrank_opt.monotone.averaged import Anderson as Anderson
from lowrank_opt.monotone.averaged import KrasnoselskiiMann as KrasnoselskiiMann
from lowrank_opt.monotone.batch import solve_batch as solve_batch
from lowrank_opt.monotone.certificates_lp import Ray as Ray
from lowrank_opt.monotone.cvxpy_solver import CvxpyHalpernPDHG as CvxpyHalpernPDHG
from lowrank_opt.monotone.estimators import L1Regressor as L1Regressor
from lowrank_opt.monotone.estimators import RobustRegressor as RobustRegressor
from lowrank_opt.monotone.extragradient import AnchoredExtraGradient as AnchoredExtraGradient
from lowrank_opt.monotone.extragradient import ExtraGradient as ExtraGradient
from lowrank_opt.monotone.extragradient import FastExtraGradient as FastExtraGradient
from lowrank_opt.monotone.extragradient import OptimisticGradient as OptimisticGradient
from lowrank_opt.monotone.fixed_point import FixedPointProblem as FixedPointProblem
from lowrank_opt.monotone.front import linprog as linprog
from lowrank_opt.monotone.games import GameInteriorPoint as GameInteriorPoint
from lowrank_opt.monotone.halpern import Halpern as Halpern
from lowrank_opt.monotone.halpern_pdhg import HalpernPDHG as HalpernPDHG
from lowrank_opt.monotone.inclusion import MonotoneInclusion as MonotoneInclusion
from lowrank_opt.monotone.inexact import InexactHalpern as InexactHalpern
from lowrank_opt.monotone.linear_program import LinearProgram as LinearProgram
from lowrank_opt.monotone.matrix_game import MatrixGame as MatrixGame
from lowrank_opt.monotone.mps import read_mps as read_mps
from lowrank_opt.monotone.mps import write_mps as write_mps
from lowrank_opt.monotone.points import PrimalDual as PrimalDual
from lowrank_opt.monotone.quadratic_program import QuadraticProgram as QuadraticProgram
from lowrank_opt.monotone.variance_reduced import (
    VarianceReducedExtraGradient as VarianceReducedExtraGradient,
)
from lowrank_opt.monotone.variance_reduced import VarianceReducedHalpern as VarianceReducedHalpern

def warmup() -> dict[str, float]: ...
