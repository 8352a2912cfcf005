# The commands of the README, for a machine with Python (>= 3.10), pip and git.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN ?= runs/scores
RECIPE ?= cpu
# How many of ScienceWorld's tasks `make scores` plays in each split.
SCIENCEWORLD_TASKS ?= 20
# The versions that are known to work together; `LOCK=` takes whatever is newest.
LOCK ?= requirements.lock
# Outside the lock, because which build of it is right depends on the machine (see the README).
TORCH ?= torch==2.13.0

PIP := $(BIN)/python -m pip
comma := ,
# pip says nothing while it downloads and unpacks, which may take minutes: a line shows that it lives.
define install
@echo "installing $(1) into $(VENV)"
@while sleep 20 >/dev/null 2>&1 && kill -0 $$$$ 2>/dev/null; do echo "installing $(1) …"; done & ticker=$$!; \
	trap 'kill $$ticker' EXIT; \
	$(PIP) install --quiet $(if $(LOCK),-c $(LOCK)) $(2) $(1) || { \
	echo "The installation stopped at the error above. To repeat it, run: make $(MAKECMDGOALS)" >&2; \
	exit 1; }
endef

# quickstart trains and compares the methods; scores plays the experts and the random policy.
.PHONY: quickstart scores test lint docs lock clean

# The build tools are installed, and not fetched by every build, so that the lock holds for them too.
$(BIN)/hatchling:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "eto-gym needs Python 3.10 or newer, and $(PYTHON) is older: name another one," \
			"such as make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(call install,pip hatchling editables,--upgrade)

$(BIN)/eto: $(LOCK) $(BIN)/hatchling pyproject.toml
	$(call install,'.[scienceworld]',--no-build-isolation -e)
	@touch $@

$(BIN)/accelerate: $(BIN)/eto
	$(call install,$(TORCH))
	$(call install,'.[train$(comma)plot]',--no-build-isolation -e)
	@touch $@

quickstart: $(BIN)/accelerate
	$(BIN)/eto reproduce --recipe $(RECIPE) --out runs/reproduce-$(RECIPE)

scores: $(BIN)/eto
	$(BIN)/eto eval --env ETO-WebShop-v0 --policy random --dataset mini --out $(RUN)/webshop-random
	$(BIN)/eto eval --env ETO-WebShop-v0 --policy expert --dataset mini --out $(RUN)/webshop-expert
	$(BIN)/eto eval --env ETO-ALFWorld-v0 --policy random --dataset mini --out $(RUN)/alfworld-random
	$(BIN)/eto eval --env ETO-ALFWorld-v0 --policy expert --dataset mini --out $(RUN)/alfworld-expert
	$(BIN)/eto eval --env ETO-ALFWorld-v0 --policy alfworld-explorer --dataset mini \
		--out $(RUN)/alfworld-explorer
	$(BIN)/eto eval --env ETO-ScienceWorld-v0 --policy random --dataset 1.2.3 \
		--n-tasks $(SCIENCEWORLD_TASKS) --out $(RUN)/scienceworld-random
	$(BIN)/eto eval --env ETO-ScienceWorld-v0 --policy expert --dataset 1.2.3 \
		--n-tasks $(SCIENCEWORLD_TASKS) --out $(RUN)/scienceworld-expert

$(BIN)/pytest: $(BIN)/eto
	$(call install,$(TORCH))
	$(call install,'.[dev$(comma)docs]',--no-build-isolation -e)
	@touch $@

test: $(BIN)/pytest
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow" $(PYTEST_ARGS)

lint: $(BIN)/pytest
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(BIN)/pytest
	$(BIN)/mkdocs build --strict

# Everything that the commands above install, for all platforms and Pythons. Packages that come with
# a build of torch are left to it.
COMPILE = $(BIN)/uv pip compile --quiet --no-python-downloads --no-annotate --no-header \
	--no-emit-index-url --no-emit-package torch --extra dev --extra docs pyproject.toml -
OF_TORCH := ^(nvidia|cuda|triton)[-=]

lock:
	@$(MAKE) --no-print-directory LOCK= $(BIN)/hatchling
	$(PIP) install --quiet --upgrade uv
	printf '%s\n' pip hatchling editables build '$(firstword $(TORCH))' | \
		$(COMPILE) --extra alfworld --universal --python-version 3.10 | grep -Ev '$(OF_TORCH)' >$(LOCK).new
	mv $(LOCK).new $(LOCK)

# The newest versions, and the lowest that pyproject.toml allows: `make test LOCK=requirements.lowest`
# runs the suite with them. pip stays free: the lowest of it runs on no Python of today.
requirements.newest requirements.lowest: pyproject.toml
	@$(MAKE) --no-print-directory LOCK= $(BIN)/hatchling
	$(PIP) install --quiet --upgrade uv
	printf '%s\n' 'hatchling>=1.26' '$(firstword $(TORCH))' | \
		$(COMPILE) --resolution $(if $(filter %.lowest,$@),lowest-direct,highest) | \
		grep -Ev '$(OF_TORCH)' >$@.new
	mv $@.new $@

clean:
	rm -rf $(VENV) build dist site
