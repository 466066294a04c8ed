# LMX. Needs make and Python 3.11 or newer; everything else is installed into .venv from requirements.lock.

FILE ?= lmx.yaml
ARGS ?=
SEED ?= 1
FAULTS ?= 300
MINUTES ?= 10
# Half as many again as there are cores: a third of a test's time it waits for an engine to start or to end.
WORKERS ?= $(shell echo $$(( $$(getconf _NPROCESSORS_ONLN) * 3 / 2 )))
BIN := .venv/bin
READY := .venv/.ready
RUNS := .venv/.runs

.DEFAULT_GOAL := help
.PHONY: help up test lint format bench browser chaos fuzz gitops upgrade soak trial pictures lock wheel clean

help: ## list the verbs
	@echo "make VERB"
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-9s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

up: $(RUNS) ## install what is needed, then serve what lmx.yaml says (FILE=other.yaml for another)
	@exec $(BIN)/lmx up -f $(FILE)

# Workers that are done take tests from those that are not. Eight at most: each runs appliances and engines of its own.
test: lint ## lint, types, import contract, then every test (ARGS="-k swap" for some, WORKERS=0 for one after another)
	@$(apt_test)
	$(BIN)/python -m pytest -q -n $(WORKERS) --maxprocesses 8 --dist worksteal $(ARGS)

lint: $(READY) ## ruff, mypy and the import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache > .venv/contract.txt || { cat .venv/contract.txt; exit 1; }
	@tail -n 2 .venv/contract.txt

format: $(READY) ## put the code into shape: import order, then layout
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY) ## measure against mlx-lm: a table here, JSON in bench/results
	$(BIN)/python -m bench $(ARGS)

chaos: $(READY) ## hundreds of faults on a real appliance under load (SEED=1 FAULTS=300)
	$(BIN)/python -m tests.chaos.run --seed $(SEED) --faults $(FAULTS) $(ARGS)
	$(BIN)/python -m pytest -q -m heavy --ignore tests/packaging/test_trial.py --ignore tests/upgrade --ignore tests/browser

fuzz: $(READY) ## thousands of random inputs: JSON Schemas that answers must follow, and requests of every kind
	$(BIN)/python -m pytest -q -m fuzz $(ARGS)

upgrade: $(READY) ## fifty upgrades and switches under sixteen streams: none refused, none cut
	$(BIN)/python -m pytest -q -s -m heavy $(ARGS) tests/upgrade

browser: $(READY) ## the dashboard in a real browser, the open hour too; pictures of it go to build/dashboard
	@$(apt_test)
	$(BIN)/python -m pytest -q -m "heavy or not heavy" $(ARGS) tests/browser

gitops: $(READY) ## 500 random pushes, good and bad, to a repository that a machine follows while it serves
	@$(apt_test)
	$(BIN)/python -m pytest -q -m gitops -s tests/gitops $(ARGS)

soak: $(READY) ## steady load with swaps; memory must stay flat, drawn to bench/results/soak.png (MINUTES=10)
	$(BIN)/python -m bench.soak --minutes $(MINUTES) $(ARGS)

trial: $(READY) ## as a new user: fresh clone, fresh HOME, the README's own commands, with the time each takes
	$(BIN)/python -m pytest -q -m heavy $(ARGS) tests/packaging/test_trial.py

pictures: $(READY) ## take the sessions and the picture of docs/first-hour.md anew (needs chromium)
	$(BIN)/python -m tests.documents.pictures

wheel: $(READY) ## build the wheel into dist
	$(BIN)/python -m build --wheel --no-isolation --outdir dist .

lock: ## write both locks anew from pyproject.toml (needs uv; ARGS=--upgrade for newer versions)
	@command -v uv > /dev/null || { echo "make lock needs uv: pip install uv" >&2; exit 1; }
	$(COMPILE) --group dev $(ARGS) --output-file requirements.lock pyproject.toml
	$(COMPILE) --group run --constraint requirements.lock --output-file requirements-run.lock pyproject.toml

clean: ## remove what can be made again (not .venv, not downloaded models)
	rm -rf dist build bench/results .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .grimp_cache
	find appliance reconciler tests bench examples -name __pycache__ -type d -prune -exec rm -rf {} +

# --- set-up ----------------------------------------------------------------------------------------
# Runs again only when the lock or pyproject.toml changes. A virtual environment that works is kept.

COMPILE := uv pip compile --universal --python-version 3.11 --generate-hashes --quiet --no-emit-index-url \
	--no-emit-find-links --custom-compile-command "make lock"
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input

# To serve takes half of the packages that developing takes, and a new user half the time.
$(RUNS): requirements-run.lock pyproject.toml
	@$(find_python); $(apt_install); $(make_venv)
	@echo "Installing what LMX needs into .venv ..."
	@$(PIP) install --quiet --require-hashes --no-deps --requirement requirements-run.lock
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(READY): requirements.lock pyproject.toml
	@$(find_python); $(apt_install); $(make_venv)
	@echo "Installing the locked packages into .venv ..."
	@$(PIP) install --quiet --require-hashes --no-deps --requirement requirements.lock
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $(RUNS) $@

define find_python
python=; \
for name in "$$PYTHON" python3 python3.13 python3.12 python3.11 python; do \
	if [ -n "$$name" ] && "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then \
		python="$$name"; break; \
	fi; \
done; \
if [ -z "$$python" ]; then \
	echo "LMX needs Python 3.11 or newer, and none was found. Install one (macOS: brew install python;" >&2; \
	echo "Debian and Ubuntu: apt-get install python3 python3-venv), or name it: make PYTHON=/path/to/python3" >&2; \
	exit 1; \
fi
endef

# OpenBLAS makes the CPU backend about ten times faster; on a Mac the GPU does the work and nothing is needed.
# Without root this only prints what to do: LMX runs without it.
define apt_install
missing=; \
if [ "$$(uname -s)" = Linux ] && command -v apt-get > /dev/null; then \
	PATH="$$PATH:/usr/sbin:/sbin" ldconfig -p 2> /dev/null | grep -q libopenblas || missing="libopenblas0-pthread"; \
	"$$python" -c 'import ensurepip' 2> /dev/null || missing="$$missing python3-venv"; \
fi; \
if [ -n "$$missing" ] && [ "$$(id -u)" = 0 ]; then \
	echo "Installing $$missing ..."; \
	{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$missing > /dev/null; } || \
		echo "Could not install $$missing; going on without (models run slower on the CPU)." >&2; \
elif [ -n "$$missing" ]; then \
	echo "Hint: as root, apt-get install $$missing (models run about ten times faster on the CPU with OpenBLAS)." >&2; \
fi
endef

# A second reader for the property lists that launchd gets, git and ssh-keygen for what follows a repository, a
# browser for the dashboard; without them those tests are skipped, and say so. (In CI as root a missing browser is
# an error: see tests/browser/conftest.py.)
define apt_test
if [ "$$(uname -s)" = Linux ] && [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
	missing=; \
	command -v plistutil > /dev/null || missing="libplist-utils"; \
	command -v git > /dev/null || missing="$$missing git"; \
	command -v ssh-keygen > /dev/null || missing="$$missing openssh-client"; \
	command -v chromium > /dev/null || missing="$$missing chromium fonts-dejavu-core"; \
	[ -z "$$missing" ] || { \
		apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing > /dev/null; } || \
		echo "Could not install $$missing; going on without." >&2; \
fi
endef

define make_venv
if ! $(BIN)/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then \
	"$$python" -m venv --clear .venv || { echo "Could not make .venv with $$python." >&2; exit 1; }; \
fi
endef
