# unrender: make help
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.current

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(STAMP) ## create .venv from constraints.txt; skipped when it is up to date

$(STAMP): pyproject.toml constraints.txt scripts/setup.sh
	@PYTHON="$(PYTHON)" VENV="$(VENV)" bash scripts/setup.sh
	@touch $@

.PHONY: demo
demo: setup ## train IG-GAN on procedural chairs (eleven to thirteen minutes with set-up on two cores) and write a report
	$(BIN)/python -m trainer fit --config demo.yaml

.PHONY: view
view: setup ## open an interactive 3D viewer of the trained chairs of the package
	$(BIN)/python -m trainer view --run_dir pretrained/chairs

# A finished run is not trained again, an interrupted one is resumed.
.PHONY: pretrained-chairs
pretrained-chairs: setup ## train the chairs of pretrained/chairs (two hours on one core) and publish them into the package
	$(BIN)/python -m trainer fit --config demo.yaml --model model/iggan_deferred_fast_32.yaml --data.total_kimg=360 \
		--trainer.val_check_interval=0.05 --run_dir runs/pretrained_chairs
	$(BIN)/python -m trainer publish --run_dir runs/pretrained_chairs --out trainer/pretrained/chairs.pt

.PHONY: pretrained-heads
pretrained-heads: setup ## train the heads of pretrained/heads (about 50 minutes) and publish them into the package
	$(BIN)/python -m trainer fit --config heads.yaml --run_dir runs/pretrained_heads
	$(BIN)/python -m trainer publish --run_dir runs/pretrained_heads --out trainer/pretrained/heads.pt

# Many tests start processes: with compiled bytecode on disk, each imports torch in half the time.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

.PHONY: test
test: setup ## run all tests, one process per core
	$(PYTEST)

.PHONY: test-fast
test-fast: setup ## run the tests that are not marked slow (under three minutes on two cores)
	$(PYTEST) -m "not slow"

.PHONY: coverage
coverage: setup ## run the fast tests and print the share of lines that they cover, by file
	$(PYTEST) -m "not slow" --cov --cov-report=term:skip-covered --cov-report=html:build/coverage

.PHONY: fuzz
fuzz: setup ## feed 12,000 corrupt files to every parser (minutes; make test runs a short form)
	PYTHONPATH=.:tests:tests/helpers $(BIN)/python -m fuzz --inputs 12000

.PHONY: lint
lint: setup ## check style and format (ruff), imports (import-linter) and types (mypy)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

.PHONY: docs
docs: setup ## build the site of docs/ without warnings, API reference included, into build/docs (open index.html)
	$(BIN)/python -m sphinx -W --keep-going -q docs build/docs

.PHONY: bench
bench: setup ## measure speed and memory of training steps and renderers
	$(BIN)/python -m benchmarks

.PHONY: gpu
gpu: setup ## check and measure a CUDA card in eight minutes; run again to continue (writes runs/gpu/report.md)
	$(BIN)/python -m benchmarks gpu --minutes 8 --resume

.PHONY: chaos
chaos: setup ## kill trainings at random moments, resume them, and compare with uninterrupted runs
	$(BIN)/python tests/kill_and_resume.py

.PHONY: extractor
extractor: setup ## train the classifier of the FID extractor renders_small and write its weights to metrics/weights
	$(BIN)/python -m trainer fit --config extractor.yaml
	$(BIN)/python -m trainer export-extractor "$$(ls -td runs/extractor/* | head -n 1)"

.PHONY: extractor-color
extractor-color: setup ## train the classifier of the FID extractor renders_color and write its weights to metrics/weights
	$(BIN)/python -m trainer fit --config extractor_color.yaml
	$(BIN)/python -m trainer export-extractor "$$(ls -td runs/extractor_color/* | head -n 1)"

.PHONY: test-pyrender
test-pyrender: setup ## run the OpenGL tests on the two maintained forks of pyrender as well
	bash scripts/test_pyrender.sh $(BIN)/python

.PHONY: test-wheel
test-wheel: ## install a wheel into a fresh environment, run doctor, a smoke run of the demo and docs/python.md there (minutes)
	PYTHON="$(PYTHON)" bash scripts/test_wheel.sh

TESTS ?= -m "not slow"
.PHONY: test-latest
test-latest: ## run the fast tests with the newest versions that pyproject.toml allows: TORCH=torch==X, TESTS="pytest arguments"
	PYTHON="$(PYTHON)" bash scripts/test_latest.sh $(TESTS)

GLB ?= runs
.PHONY: validate-glb
validate-glb: ## check GLB files with the Khronos validator (needs node): make validate-glb GLB=runs/demo/001/export
	bash scripts/validate_glb.sh $(GLB)

.PHONY: sweep
sweep: setup ## read every mesh and voxel file of a folder and tally the results: make sweep DIR=FOLDER
	$(BIN)/python tests/sweep.py $(DIR)

.PHONY: clean
clean: ## remove .venv and tool caches (keeps runs/ and render caches)
	rm -rf $(VENV) *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
