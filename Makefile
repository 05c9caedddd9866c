# Needs python3 (3.11 or newer), pip and make. uv is used when it is found.
#
#   make          set up .venv, then the main job: reproduce the papers at small scale, into reports/
#   make test     set up .venv, then the tests          (make test ARGS="--run slow -k resume")
#   make lint     ruff, codespell, mypy, numpydoc
#   make docs     the HTML documentation, warnings are errors
#   make bench FAMILY=recovery     the quick benchmark of one family (or robust_recovery)
#   make clean    everything that the lines above have made
#
# Another interpreter: make PYTHON=/path/to/python3.12

PYTHON ?= python3
VENV   ?= .venv
EXTRAS ?= test,data,plot,progress
SCALE  ?= smoke
OUT    ?= reports
FAMILY ?= recovery
ARGS   ?=
# Two workers: the default run must be short on two cores, and every worker loads the library.
JOBS   ?= 2

BIN    := $(VENV)/bin
STAMP  := $(VENV)/.stamp
UV     := $(shell command -v uv 2>/dev/null)
# numba stamps only the calling file, so a kernel that calls an edited function in another file
# would be stale: the cache has the name of the hash of all kernel files, and of the named tuples
# that its index refers to by module.
KHASH  := $(shell cat lowrank_opt/*/kernels*.py lowrank_opt/numerics/penalties.py 2>/dev/null | cksum | cut -d' ' -f1)
export NUMBA_CACHE_DIR := $(CURDIR)/.cache/numba-$(KHASH)
# Tools must not pick up packages of the user's home folder or of another environment.
export PYTHONNOUSERSITE := 1
unexport PYTHONHOME
unexport PYTHONPATH

CONSTRAIN := $(addprefix -c ,$(wildcard constraints.txt))
ifeq ($(UV),)
PIP_INSTALL = $(PYTHON) -m pip --python $(BIN)/python install -q --disable-pip-version-check $(CONSTRAIN)
else
PIP_INSTALL = $(UV) pip install -q --python $(BIN)/python $(CONSTRAIN)
endif

.DEFAULT_GOAL := run
.PHONY: run test lint docs bench setup clean
.DELETE_ON_ERROR:

# One stamp for the environment, one for each further extra: a command needs no network, and takes
# no time here, unless pyproject.toml or constraints.txt changed since it last ran.
$(STAMP): pyproject.toml $(wildcard constraints.txt)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": make PYTHON=/path/to/python3.11")'
ifeq ($(UV),)
	@$(PYTHON) -c 'import importlib.util as u, sys; sys.exit(u.find_spec("pip") is None and "pip is needed to install the dependencies (on Debian and Ubuntu: apt install python3-pip), or uv on the PATH")'
	@$(PYTHON) -c 'import pip, sys; sys.exit(tuple(map(int, pip.__version__.split(".")[:2])) < (22, 3) and "pip 22.3 or newer is needed, this is " + pip.__version__ + ": " + sys.executable + " -m pip install --user --upgrade pip, or put uv on the PATH")'
endif
	@test -x $(BIN)/python || echo "setting up $(VENV), once; this takes a minute or two"
	@test -x $(BIN)/python || $(PYTHON) -m venv --without-pip $(VENV)
	$(PIP_INSTALL) -e '.[$(EXTRAS)]'
	@touch $@

$(STAMP)-%: $(STAMP)
	$(PIP_INSTALL) -e '.[$*]'
	@touch $@

setup: $(STAMP)

run: $(STAMP)
	$(BIN)/lowrank-opt reproduce all --scale $(SCALE) --out $(OUT)

test: $(STAMP)
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile $(ARGS)

lint: $(STAMP)-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/python .ci/check_docstrings.py

docs: $(STAMP)-docs
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

bench: $(STAMP)-bench
	$(BIN)/lowrank-opt bench $(FAMILY) $(ARGS)

clean:
	rm -rf $(VENV) .cache reports docs/_build build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
