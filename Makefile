# One word per habit. `make demo` and `make test` are all that a newcomer needs.
PYTHON ?= python3
BIN := .venv/bin
.PHONY: demo test test-faults-all check test-docker test-net audit fmt proto docs clean soak

demo: .venv/.installed  ## a real swarm trains a real model; ARGS="--plain --report demo.json"
	$(BIN)/p2ptrain demo $(ARGS)

test: check  ## everything: lint, types, contracts, unit, properties, then real peers and faults
	$(BIN)/pytest tests/faults tests/swarm tests/net tests/docker -n 2 --dist loadfile --no-loadscope-reorder \
	  --durations=12 -m "swarm or faults" $(ARGS)

test-faults-all: .venv/.installed  ## every fault in every stage and role: half an hour; ARGS="-k kill"
	P2PTRAIN_FAULTS=all $(BIN)/pytest tests/faults/test_fault_matrix.py $(ARGS)

soak: .venv/.installed  ## nightly: 20 minutes of joins, kills, freezes and cuts; ARGS="--seed 7 --minutes 3"
	$(BIN)/p2ptrain lab soak $(ARGS)

check: .venv/.installed  ## lint, types, import contracts, fast tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -n 2 -m "not swarm and not faults and not net"

test-docker: .venv/.installed  ## the images, built and used for real; starts an engine if none runs
	P2PTRAIN_TEST_DOCKER=1 $(BIN)/pytest tests/docker $(ARGS)

test-net: .venv/.installed  ## routers of all kinds, relays, slow lines; needs root, else skipped; ten minutes
	P2PTRAIN_TEST_NET=1 $(BIN)/pytest tests/net $(ARGS)

audit: .venv/.installed  ## known vulnerabilities of all pinned packages; asks pypi.org, and says so if it cannot
	@$(BIN)/python -m pip_audit --version >/dev/null 2>&1 || $(BIN)/pip install --quiet 'pip-audit>=2.10,<3'
	$(BIN)/python -m tests.support.dependencies --audit

fmt: .venv/.installed  ## make the tree tidy
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

proto: .venv/.installed  ## regenerate p2ptrain/wire/v1 and p2ptrain/control/v1 from proto/
	$(BIN)/python -m grpc_tools.protoc -I proto --python_out=. --pyi_out=. proto/p2ptrain/*/v1/*.proto
	$(BIN)/python -m grpc_tools.protoc -I proto --grpc_python_out=. proto/p2ptrain/control/v1/*.proto

docs: .venv/.installed  ## write docs/events.md and docs/metrics.md from the code
	$(BIN)/python -m p2ptrain.cli.reference_pages

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "p2ptrain needs Python 3.11 or 3.12; $(PYTHON) is $$($(PYTHON) --version). Try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

clean:  ## remove what make made
	rm -rf .venv demo .mypy_cache .ruff_cache .pytest_cache .hypothesis
