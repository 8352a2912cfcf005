# The commands of the README, for a machine with Python (>= 3.10), pip and git.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN ?= runs/scores
TIER ?= cpu
TORCH ?= torch

# quickstart trains and compares the methods; scores plays the experts and the random policy.
.PHONY: quickstart scores test lint docs clean

$(BIN)/eto: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[scienceworld]'
	@touch $@

$(BIN)/accelerate: $(BIN)/eto
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet -e '.[train,plot]'
	@touch $@

quickstart: $(BIN)/accelerate
	$(BIN)/eto reproduce --tier $(TIER) --out runs/reproduce-$(TIER)

scores: $(BIN)/eto
	$(BIN)/eto eval --env ETO-WebShop-v0 --policy random --dataset mini --out $(RUN)/webshop-random
	$(BIN)/eto eval --env ETO-WebShop-v0 --policy expert --dataset mini --out $(RUN)/webshop-expert
	$(BIN)/eto eval --env ETO-ALFWorld-v0 --policy random --dataset mini --out $(RUN)/alfworld-random
	$(BIN)/eto eval --env ETO-ALFWorld-v0 --policy expert --dataset mini --out $(RUN)/alfworld-expert
	$(BIN)/eto eval --env ETO-ALFWorld-v0 --policy alfworld-explorer --dataset mini \
		--out $(RUN)/alfworld-explorer
	$(BIN)/eto eval --env ETO-ScienceWorld-v0 --policy random --dataset 1.2.3 --n-tasks 20 \
		--out $(RUN)/scienceworld-random
	$(BIN)/eto eval --env ETO-ScienceWorld-v0 --policy expert --dataset 1.2.3 --n-tasks 20 \
		--out $(RUN)/scienceworld-expert

$(BIN)/pytest: $(BIN)/eto
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet -e '.[dev,docs]'
	@touch $@

test: $(BIN)/pytest
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow" $(PYTEST_ARGS)

lint: $(BIN)/pytest
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(BIN)/pytest
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) build dist site runs
