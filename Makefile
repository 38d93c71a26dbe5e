# The commands of the README. `make setup` is called by each of them and does nothing the second time.
VENV   ?= .venv
PYTHON ?= python3
BIN    := $(VENV)/bin
PACKAGES := tests/lab/packages.txt

.PHONY: help setup demo test test-quick lab bench down clean

help:
	@echo 'make demo        build, verify, serve, and install a real two-node cluster in the lab'
	@echo 'make test        every test but the long ones on real nodes (root on Debian 12)'
	@echo 'make lab         every test on real nodes: the cluster of the demo, and the long life of others'
	@echo 'make test-quick  unit, shell and linter tests, which need neither root nor the lab'
	@echo 'make bench       the measured figures, beside what one would use instead'
	@echo 'make down        stop whatever the lab left running'

setup: $(VENV)/.ready
	@tests/lab/setup.sh $(PACKAGES)

$(VENV)/.ready: setup.cfg tests/lab/python.sh
	@tests/lab/python.sh $(PYTHON) $(VENV)
	@touch $@

demo: setup
	@$(BIN)/python -m tests.lab demo

test: setup
	@$(BIN)/python -m pytest -m 'not life'

test-quick: $(VENV)/.ready
	@$(BIN)/python -m pytest -m 'not root and not lab' tests/unit tests/shell tests/test_linters.py

lab: setup
	@$(BIN)/python -m pytest -m lab

bench: setup
	@$(BIN)/python -m bench

down:
	@$(BIN)/python -m tests.lab down

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
