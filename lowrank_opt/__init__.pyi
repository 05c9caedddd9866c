from lowrank_opt import block_coordinate as block_coordinate
from lowrank_opt import core as core
from lowrank_opt import datasets as datasets
from lowrank_opt import lipschitz as lipschitz
from lowrank_opt import monotone as monotone
from lowrank_opt import numerics as numerics
from lowrank_opt import papers as papers
from lowrank_opt import plotting as plotting
from lowrank_opt import recovery as recovery
from lowrank_opt import testing as testing
from lowrank_opt import transport as transport
from lowrank_opt.core import solve as solve
from lowrank_opt.core import warmup as warmup
from lowrank_opt.core.environment import show_versions as show_versions
from lowrank_opt.recovery import complete as complete

FAMILIES: tuple[str, ...]
__version__: str
