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
setup: $(STAMP) ## make .venv from constraints.txt; skipped when it is current

$(STAMP): pyproject.toml constraints.txt scripts/setup.sh
	@PYTHON="$(PYTHON)" VENV="$(VENV)" bash scripts/setup.sh
	@touch $@

.PHONY: demo
demo: setup ## train IG-GAN on procedural chairs (about ten minutes on two cores) and write a report
	$(BIN)/python -m trainer fit --config demo.yaml

.PHONY: test
test: setup ## run the tests
	$(BIN)/python -m pytest

.PHONY: fuzz
fuzz: setup ## give 12,000 damaged files to every parser of the project (minutes; make test has a short form)
	PYTHONPATH=.:tests $(BIN)/python -m fuzz --inputs 12000

.PHONY: lint
lint: setup ## ruff (lint and format) and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

.PHONY: docs
docs: setup ## build the site of docs/ without warnings, API reference included, into build/docs (open index.html)
	$(BIN)/python -m sphinx -W --keep-going -q docs build/docs

.PHONY: bench
bench: setup ## measure speed and memory: seconds a training step, renderers
	$(BIN)/python -m benchmarks

.PHONY: chaos
chaos: setup ## kill trainings of all modules at random moments and compare what they become with those left in peace
	$(BIN)/python tests/kill_and_resume.py

.PHONY: extractor
extractor: setup ## train the classifier behind the FID extractor renders_small and put its weights into metrics/weights
	$(BIN)/python -m trainer fit --config extractor.yaml
	$(BIN)/python -m trainer export-extractor "$$(ls -td runs/extractor/* | head -n 1)"

.PHONY: test-pyrender
test-pyrender: setup ## run the OpenGL tests on the two maintained forks of pyrender as well
	bash scripts/test_pyrender.sh $(BIN)/python

GLB ?= runs
.PHONY: validate-glb
validate-glb: ## check GLB files by Khronos' validator (needs node): make validate-glb GLB=runs/demo/001/export
	bash scripts/validate_glb.sh $(GLB)

.PHONY: clean
clean: ## remove .venv and what tools leave behind (runs/ and caches stay)
	rm -rf $(VENV) *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
