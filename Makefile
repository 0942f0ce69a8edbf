# `make run` and `make test` are all a newcomer needs. Both install what they use, each only once.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint requirements.lock
KAFKA := .cache/kafka-4.1.0/.complete .cache/kafka-3.9.1/.complete
JAVA := .cache/peers/.complete
NODE := tests/peers/node/node_modules/.complete
PROOFS := $(patsubst tests/prove/test_%.py,prove-%,$(wildcard tests/prove/test_*.py))

.PHONY: help run cluster check test prove bench compiled lock clean installed-for-tests

help: ## List what make can do
	@sed -nE 's/^([a-z%-]+):[^#]*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | sed 's/%/NAME/' | expand -t 20

run: .venv/.run ## Start the proxy with a Kafka in memory, on 127.0.0.1
	@exec $(BIN)/mqk dev

cluster: .cache/programs-for-cluster .venv/.run .cache/kafka-4.1.0/.complete ## Start Kafka, three replicas and HAProxy, on 127.0.0.1
	@exec $(BIN)/python -m tools.cluster

check: .venv/.dev ## Format, lint, types and core tests: under a minute, no Kafka
	@$(BIN)/ruff format --check --quiet . || { echo "Not formatted as above: $(BIN)/ruff format ."; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary & types=$$!; tests=0; \
	  $(BIN)/pytest -q -n 3 -p no:schemathesis --ignore tests/e2e/test_admin_fuzz.py -m "not kafka and not peers and not install and not long" || tests=$$?; \
	  wait $$types && exit $$tests # The types are checked while the tests run. To import schemathesis takes seconds.

test: installed-for-tests ## Every test, with real Kafka and clients that others wrote: under ten minutes
	@$(BIN)/pytest -n 4 # Most of them wait more than they compute.

prove: $(PROOFS) ## The full-size evidence, all of it: hours
	@echo "Proofs that ran: $(or $(PROOFS),none)"

prove-%: installed-for-tests ## One part of it: tests/prove/test_NAME.py
	@$(BIN)/pytest -o faulthandler_timeout=0 tests/prove/test_$*.py

bench: .cache/programs-for-bench .venv/.dev .cache/kafka-4.1.0/.complete .cache/compiled/.complete ## Measure the proxy beside mosquitto
	@cd .cache/compiled && PYTHONPATH=$(CURDIR) ../../$(BIN)/python -m loadtest bench

compiled: .cache/compiled/.complete ## Install the proxy, its hot path compiled to C, into .cache/compiled

lock: ## Choose the newest versions of all dependencies anew: requirements.lock
	@tools/need python
	@test -x .cache/uv/bin/uv || { $(PYTHON) -m venv .cache/uv && .cache/uv/bin/pip install --quiet uv; }
	@.cache/uv/bin/uv pip compile pyproject.toml --quiet --upgrade --all-extras --group dev --universal --python-version 3.11 \
	  --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" --output-file requirements.lock

clean: ## Remove everything that make has made
	@rm -rf .venv .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist tests/peers/node/node_modules
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

installed-for-tests: .cache/programs-for-tests .venv/.dev $(KAFKA) $(JAVA) $(NODE) .cache/compiled/.complete

.venv/.run: pyproject.toml requirements.lock
	@tools/need python
	@echo "Installing the proxy into .venv"
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	@$(PIP) --editable '.[embedded,fast,regex]'
	@touch $@

.venv/.dev: .venv/.run
	@echo "Installing the development tools into .venv"
	@$(BIN)/pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1' # The first with --group.
	@$(PIP) --group dev
	@touch $@

# The programs that pip and npm cannot install. Python is named here too, so that one run names all that is missing.
.cache/programs-for-tests: Makefile tools/need
	@tools/need python cc jdk mvn node npm mosquitto_pub haproxy
	@mkdir -p .cache && touch $@

.cache/programs-for-cluster: Makefile tools/need
	@tools/need python java mvn haproxy
	@mkdir -p .cache && touch $@

.cache/programs-for-bench: Makefile tools/need
	@tools/need python java mvn mosquitto
	@mkdir -p .cache && touch $@

.cache/compiled/.complete: .venv/.dev $(shell find proxy -name '*.py') pyproject.toml
	@tools/need cc
	@echo "Compiling the hot path into .cache/compiled"
	@rm -rf .cache/compiled .cache/compile && mkdir -p .cache/compile
	@cp -r pyproject.toml README.md LICENSE proxy .cache/compile/ # The build leaves its libraries beside the source.
	@HATCH_BUILD_HOOK_ENABLE_MYPYC=1 $(PIP) --no-deps --upgrade --target .cache/compiled ./.cache/compile
	@rm -rf .cache/compile
	@touch $@

.cache/kafka-%/.complete: tests/kafka/pom.xml tools/fetch-jars
	@echo "Downloading Kafka $*"
	@tools/fetch-jars tests/kafka/pom.xml .cache/kafka-$* -Dkafka.version=$*
	@touch $@

$(JAVA): tests/peers/java/pom.xml tools/fetch-jars
	@echo "Downloading the Java clients"
	@tools/fetch-jars tests/peers/java/pom.xml .cache/peers
	@touch $@

$(NODE): tests/peers/node/package.json tests/peers/node/package-lock.json
	@echo "Installing MQTT.js into tests/peers/node"
	@cd tests/peers/node && npm ci --silent --ignore-scripts --no-audit --no-fund
	@touch $@
