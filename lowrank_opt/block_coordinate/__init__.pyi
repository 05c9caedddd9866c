from lowrank_opt.block_coordinate.affinity import knn_affinity as knn_affinity
from lowrank_opt.block_coordinate.composite import CompositeProblem as CompositeProblem
from lowrank_opt.block_coordinate.descent import BlockCoordinateDescent as BlockCoordinateDescent
from lowrank_opt.block_coordinate.estimators_classification import (
    SparseLogisticRegression as SparseLogisticRegression,
)
from lowrank_opt.block_coordinate.estimators_regression import ElasticNet as ElasticNet
from lowrank_opt.block_coordinate.estimators_regression import GroupLasso as GroupLasso
from lowrank_opt.block_coordinate.estimators_regression import Lasso as Lasso
from lowrank_opt.block_coordinate.estimators_regression import (
    NonNegativeLeastSquares as NonNegativeLeastSquares,
)
from lowrank_opt.block_coordinate.forests import Forest as Forest
from lowrank_opt.block_coordinate.forests import bounded_fill as bounded_fill
from lowrank_opt.block_coordinate.forests import greedy_forest as greedy_forest
from lowrank_opt.block_coordinate.forests import is_forest as is_forest
from lowrank_opt.block_coordinate.forests import random_forest as random_forest
from lowrank_opt.block_coordinate.forests import red_black as red_black
from lowrank_opt.block_coordinate.forests import solve_forest as solve_forest
from lowrank_opt.block_coordinate.forests import tree_partition as tree_partition
from lowrank_opt.block_coordinate.glm import GLMProblem as GLMProblem
from lowrank_opt.block_coordinate.identification import ActiveSet as ActiveSet
from lowrank_opt.block_coordinate.identification import active_set as active_set
from lowrank_opt.block_coordinate.identification import (
    descent_identification as descent_identification,
)
from lowrank_opt.block_coordinate.identification import (
    identification_radius as identification_radius,
)
from lowrank_opt.block_coordinate.identification import (
    prox_gradient_identification as prox_gradient_identification,
)
from lowrank_opt.block_coordinate.label_propagation import LabelPropagation as LabelPropagation
from lowrank_opt.block_coordinate.laplacian_shot import LaplacianKMeans as LaplacianKMeans
from lowrank_opt.block_coordinate.laplacian_shot import LaplacianShot as LaplacianShot
from lowrank_opt.block_coordinate.losses import Huber as Huber
from lowrank_opt.block_coordinate.losses import Logistic as Logistic
from lowrank_opt.block_coordinate.losses import Poisson as Poisson
from lowrank_opt.block_coordinate.losses import Softmax as Softmax
from lowrank_opt.block_coordinate.losses import Squared as Squared
from lowrank_opt.block_coordinate.path import lasso_path as lasso_path
from lowrank_opt.block_coordinate.prototypes import BoundOptimizer as BoundOptimizer
from lowrank_opt.block_coordinate.prototypes import (
    LaplacianPrototypeProblem as LaplacianPrototypeProblem,
)
from lowrank_opt.block_coordinate.prototypes import PrototypeAssignments as PrototypeAssignments
from lowrank_opt.block_coordinate.quadratic import QuadraticProblem as QuadraticProblem
from lowrank_opt.block_coordinate.sparse_glm import SparseGLMSolver as SparseGLMSolver
from lowrank_opt.block_coordinate.tasks import TaskAssignments as TaskAssignments
from lowrank_opt.block_coordinate.tasks import rectified_prototypes as rectified_prototypes
from lowrank_opt.block_coordinate.tasks import solve_tasks as solve_tasks

def warmup() -> dict[str, float]: ...
