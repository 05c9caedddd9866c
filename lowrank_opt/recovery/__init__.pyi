from lowrank_opt.recovery.alternating import AlternatingMinimization as AlternatingMinimization
from lowrank_opt.recovery.estimators import LowRankImputer as LowRankImputer
from lowrank_opt.recovery.estimators import MatrixFactorization as MatrixFactorization
from lowrank_opt.recovery.estimators_robust import (
    RobustMatrixFactorization as RobustMatrixFactorization,
)
from lowrank_opt.recovery.estimators_robust import RobustPCA as RobustPCA
from lowrank_opt.recovery.factor_sgd import FactorSGD as FactorSGD
from lowrank_opt.recovery.front import complete as complete
from lowrank_opt.recovery.gibbs import GibbsFactorization as GibbsFactorization
from lowrank_opt.recovery.huber_als import HuberALS as HuberALS
from lowrank_opt.recovery.lowrank import LowRankMatrix as LowRankMatrix
from lowrank_opt.recovery.lowrank import LowRankSamples as LowRankSamples
from lowrank_opt.recovery.observations import Observations as Observations
from lowrank_opt.recovery.problems import MatrixCompletion as MatrixCompletion
from lowrank_opt.recovery.robust import LowRankPlusSparse as LowRankPlusSparse
from lowrank_opt.recovery.scaled_gd import ScaledGD as ScaledGD
from lowrank_opt.recovery.scaled_subgradient import (
    ScaledSubgradientMethod as ScaledSubgradientMethod,
)
from lowrank_opt.recovery.sensing import MatrixSensing as MatrixSensing
from lowrank_opt.recovery.soft_impute import SoftImpute as SoftImpute
from lowrank_opt.recovery.soft_impute import biscale as biscale
from lowrank_opt.recovery.soft_impute import debias as debias
from lowrank_opt.recovery.soft_impute import soft_impute_path as soft_impute_path
from lowrank_opt.recovery.subgradient import SubgradientMethod as SubgradientMethod

def warmup() -> dict[str, float]: ...
