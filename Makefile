# `make demo` and `make test` work from a bare clone: each prepares its own environment in .venv first.
# Another interpreter: make demo PYTHON=python3.12. Arguments for pytest: make test PYTEST_ARGS="-x -k blocks"; by default
# two processes share the tests, file by file, the dearest first.

PYTHON ?= python3
PYTEST_ARGS ?= -n 2 --dist loadscope --no-loadscope-reorder

VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --constraint constraints.txt

# Stamp files: what has been installed, so that a second call is instant and a changed pin is picked up.
CREATED := $(VENV)/.created
RUNTIME := $(VENV)/.runtime
DEV := $(VENV)/.dev

# torchvision and timm do not import beside the pinned torch: their tests have an environment of their own.
VISION := .venv-vision
VISION_PINS := torch==2.14.1 torchvision==0.29.1 timm==1.0.31

# Threads that wait must not spin: on busy cores that makes training several times slower.
export OMP_WAIT_POLICY ?= passive
# Tests share the cores as processes, so each of these needs one thread only.
test test-fast test-vision coverage: export OMP_NUM_THREADS ?= 1
# Those that tests start find what another one has compiled of Python, also where it is not to be kept otherwise.
test test-fast test-vision coverage: export PYTHONDONTWRITEBYTECODE :=

DEMO_IMAGES := digits_mlp
DEMO_TEXT := pydoc_gpt

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast test-vision coverage lint docs release-check clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(DEV)  ## Create .venv with the package and everything needed to work on it

demo: $(RUNTIME)  ## Train a classifier of digits and a small GPT block by block, and show what they can do
	$(BIN)/ff-lightning fit --config recipes/$(DEMO_IMAGES).yaml
	$(BIN)/ff-lightning test --config recipes/$(DEMO_IMAGES).yaml --ckpt_path runs/$(DEMO_IMAGES)/last.ckpt
	$(BIN)/ff-lightning fit --config recipes/$(DEMO_TEXT).yaml --config recipes/with/samples.yaml \
		--trainer.default_root_dir runs/$(DEMO_TEXT)
	$(BIN)/ff-lightning validate --config recipes/$(DEMO_TEXT).yaml --ckpt_path runs/$(DEMO_TEXT)/last.ckpt
	$(BIN)/ff-lightning generate --ckpt_path runs/$(DEMO_TEXT)/last.ckpt --prompt "The " --max_new_tokens 300
	$(BIN)/ff-lightning report runs/$(DEMO_IMAGES) runs/$(DEMO_TEXT) --output runs/demo.html

test: $(DEV)  ## Run the tests
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-fast: $(DEV)  ## Run the tests of mathematics: no recipes, no commands, no second process
	$(BIN)/python -m pytest -m "not slow and not ranks" $(PYTEST_ARGS)

test-vision: $(VISION)/.ready  ## Run the tests of torchvision and timm, in an environment of their own
	$(VISION)/bin/python -m pytest tests/vision

coverage: $(DEV)  ## Run the tests, and say which lines of the package they do not reach
	$(BIN)/python -m pytest --cov --cov-report=term $(PYTEST_ARGS)

lint: $(DEV)  ## Check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict ff_lightning

docs: $(DEV)  ## Build the documentation into docs/_build/html
	$(BIN)/sphinx-build --fail-on-warning --keep-going -b html docs docs/_build/html

release-check:  ## Build wheel and sdist, and use the wheel in an empty environment without this repository
	PYTHON=$(PYTHON) bash .ci/release-check

clean:  ## Remove .venv, .venv-vision, caches and built files; runs/ stays
	rm -rf $(VENV) $(VISION) build dist docs/_build htmlcov .coverage .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(CREATED):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed, but PYTHON=$(PYTHON) is not that. Try: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
		echo "$(PYTHON) cannot create virtual environments: its 'venv' or 'ensurepip' module is missing." >&2; \
		echo "On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

# torch goes first and alone: whatever the other packages ask for, the tested build is already there.
$(RUNTIME): pyproject.toml constraints.txt $(CREATED)
	$(PIP_INSTALL) torch
	$(PIP_INSTALL) --editable .
	@touch $@

$(DEV): $(RUNTIME)
	$(PIP_INSTALL) --editable ".[dev]"
	@touch $@

# The pinned versions of everything but torch, which are those of the other environment.
$(VISION)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(VISION)
	grep -v '^torch==' constraints.txt > $(VISION)/constraints.txt
	$(VISION)/bin/python -m pip install --constraint $(VISION)/constraints.txt $(VISION_PINS) --editable ".[test,export,transformers]"
	@touch $@
