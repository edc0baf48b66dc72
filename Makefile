# One door: what people and CI do begins here, and every tool comes from .venv.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
OTHERS := .venv-bench/.installed
RELEASED := .venv-release/.installed
CONTRACT := .venv-contract/.installed
WEB := web/node_modules/.installed
PAGE := etl/serving/static/page etl/report/static
BENCH ?= --write-docs
DATABASE := embedded:
# Processes, each with a server of its own; who has done its part takes from the others'. On two cores the tests of two
# processes leave time unused, for many of them wait. Slow tests work all the time, and some of them measure it.
PARALLEL := --dist worksteal -n 3
SLOWLY := --dist worksteal -n 2

# The demo and the tests bring their own PostgreSQL: nobody's settings may send them to another server.
unexport $(filter PG% ETL_% DATABASE_URL,$(.VARIABLES))
demo serve test test-16 test-slow test-browser test-contract screenshots coverage: export ETL_DATABASE_URL = $(DATABASE)
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help
help: ## list the targets
	@sed -nE 's/^([a-z0-9-]+):[^#]*## (.*)/\1|\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F '|' '{ printf "make %-11s  %s\n", $$1, $$2 }'

.PHONY: demo
demo: $(INSTALLED) ## generate a day's files, load them into the embedded PostgreSQL and print two aggregates
	@ETL=$(BIN)/etl scripts/demo

.PHONY: serve
serve: demo ## the demo, and then its aggregates over HTTP on http://127.0.0.1:8080 until Ctrl-C; SERVE='--port 8081' for another port
	@$(BIN)/etl serve $(SERVE)

.PHONY: test
test: lint ## lint, and all tests but the slow ones, against a real embedded PostgreSQL
	$(BIN)/pytest $(PARALLEL) --durations 10

.PHONY: test-slow
test-slow: $(INSTALLED) ## the tests that take minutes
	$(BIN)/pytest -m slow $(SLOWLY) --durations 10

.PHONY: test-16
test-16: $(INSTALLED) ## the tests against PostgreSQL 16, the oldest that is supported
	ETL_TEST_POSTGRES=16 $(BIN)/pytest $(PARALLEL)

.PHONY: coverage
coverage: $(INSTALLED) ## what part of the branches the tests run through; fails where it is too little
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(PARALLEL)
	$(BIN)/coverage combine --quiet
	@$(BIN)/python -m scripts.coverage_by_room

# Each uses one core: two at a time take half as long.
.PHONY: lint-code lint-types lint-words
.PHONY: lint
lint: $(INSTALLED) ## ruff, import-linter, mypy and the words of plain English
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target lint-types lint-words lint-code

lint-code:
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports

lint-types:
	$(BIN)/mypy

lint-words:
	$(BIN)/python -m scripts.words

.PHONY: format
format: $(INSTALLED) ## let ruff write the code as lint wants it
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.PHONY: web
web: $(WEB) ## build the page of `etl serve` and the assets of `etl report` from web/, and test their logic; needs Node.js 20 or later
	cd web && npm run --silent types && npm run --silent check && npm run --silent test && npm run --silent build

# Without npm, or without a network to fetch packages, nobody can build them: that is no fault of the tree.
.PHONY: web-check
web-check: ## where npm is: build both again, and fail when they are not those in the repository
	@if ! node -e 'process.exit(Number(process.versions.node.split(".")[0]) < 20 ? 1 : 0)' 2>/dev/null || ! command -v npm >/dev/null; then \
	  echo "web-check: skipped, there is no Node.js 20 with npm" >&2; \
	elif [ ! -e $(WEB) ] && ! timeout 30 npm view vite version >/dev/null 2>&1; then echo "web-check: skipped, no packages can be fetched" >&2; \
	else $(MAKE) --no-print-directory web && git diff --exit-code --stat -- $(PAGE) && \
	  test -z "$$(git ls-files --others --exclude-standard -- $(PAGE))"; fi

.PHONY: test-browser
test-browser: $(INSTALLED) $(WEB) ## install Chromium where there is none, and look at the page of `etl serve` and at reports in it
	@command -v chromium google-chrome >/dev/null || { apt-get update -qq && apt-get install -qq --no-install-recommends chromium; } >/dev/null || \
	  { echo "cannot install chromium: install it by hand, then run make test-browser again" >&2; exit 2; }
	@$(BIN)/python -m pip install --quiet -c constraints.txt -c scripts/browser-constraints.txt playwright
	$(BIN)/pytest -m slow tests/serving/test_page*.py

.PHONY: screenshots
screenshots: export SCREENSHOTS := web/screenshots
screenshots: test-browser ## pictures of each view of the page and of reports, wide and narrow, light and dark, in web/screenshots
	@ls $(SCREENSHOTS)

.PHONY: test-contract
test-contract: $(INSTALLED) $(CONTRACT) ## ask `etl serve` whatever its description allows, and compare the Kubernetes manifests with their schemas
	$(BIN)/pytest -m "slow or not slow" tests/serving/test_contract.py tests/docs/test_kubernetes.py

.PHONY: docs
docs: $(INSTALLED) ## the documentation as a site that needs no network, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "open site/index.html"

.PHONY: bench
bench: $(INSTALLED) $(OTHERS) ## compare loads with raw COPY and with other tools: half an hour, or BENCH='--records 50000'
	@$(BIN)/python -m scripts.benchmark compare $(BENCH)

.PHONY: bench-scale
bench-scale: $(INSTALLED) ## rate and memory of 100,000, 1 and 10 million records (20 GB of disk), or BENCH='--sizes 10000'
	@$(BIN)/python -m scripts.benchmark scale $(BENCH)

.PHONY: bench-files
bench-files: $(INSTALLED) ## what a small file costs, new and known, in folders of thousands: minutes, or BENCH='--share 10'
	@$(BIN)/python -m scripts.benchmark files $(BENCH)

.PHONY: bench-nights
bench-nights: $(INSTALLED) ## what a second full export costs of which little has changed: half an hour, or BENCH='--records 100000'
	@$(BIN)/python -m scripts.benchmark nights $(BENCH)

.PHONY: bench-partitions
bench-partitions: $(INSTALLED) ## what loads into monthly partitions cost: ten minutes, or BENCH='--records 50000 --rounds 1'
	@$(BIN)/python -m scripts.benchmark partitions $(BENCH)

.PHONY: bench-cliffs
bench-cliffs: $(INSTALLED) ## what each difference from a clean file costs: five minutes, or BENCH='--records 20000'
	@$(BIN)/python -m scripts.benchmark cliffs $(BENCH)

.PHONY: bench-workers
bench-workers: $(INSTALLED) ## compare workers of Dask with processes, and their ways to get an object: ten minutes
	@$(BIN)/python -m scripts.benchmark workers $(BENCH)

.PHONY: bench-collect
bench-collect: $(INSTALLED) ## compare the speed of the collector with what it must reach: five minutes; needs wrk
	@$(BIN)/python scripts/bench_collect.py

.PHONY: bench-export
bench-export: $(INSTALLED) ## compare an export with COPY to a file, in time and memory, and DuckDB over it with PostgreSQL: ten minutes
	@$(BIN)/python scripts/bench_export.py

.PHONY: bench-serve
bench-serve: $(INSTALLED) ## compare the speed of the service with what it must reach, on sample data: three minutes; needs wrk
	@$(BIN)/python scripts/bench_serve.py

.PHONY: wheel
wheel: $(INSTALLED) ## the sdist, and the wheel built from it, in dist/
	rm -rf dist
	$(BIN)/python -m build --no-isolation

.PHONY: release
release: $(INSTALLED) $(RELEASED) ## all parts of a release in dist/, checked, from the last commit; with TAG=v1.2.3 for the day of it
	@$(BIN)/python scripts/release.py

.PHONY: venv
venv: $(INSTALLED) ## .venv with the pinned versions; made again when these change

# Build isolation would fetch a hatchling of its own, which a constraints file reaches in some versions of pip only:
# so the pinned one is installed first, and builds.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "expected Python 3.11 or later, got $$($(PYTHON) --version 2>&1); try: make $(MAKECMDGOALS) PYTHON=python3.13" >&2; \
	  exit 2; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@echo "installing into .venv ..." >&2
	@$(BIN)/python -m pip install --quiet -c constraints.txt hatchling editables
	@$(BIN)/python -m pip install --quiet -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $@

# The tools that the benchmark compares with have an environment of their own: nothing of them is needed to load.
$(OTHERS): scripts/benchmark-constraints.txt
	@echo "installing into .venv-bench ..." >&2
	@$(PYTHON) -m venv --clear .venv-bench
	@.venv-bench/bin/python -m pip install --quiet -c $< \
	  duckdb duckdb-extension-postgres-scanner polars 'dlt[postgres]' 'psycopg[binary]'
	@touch $@

# What checks and describes a release is needed by nobody else.
$(RELEASED): scripts/release-constraints.txt
	@$(PYTHON) -m venv --clear .venv-release
	@.venv-release/bin/python -m pip install --quiet -c $< twine cyclonedx-bom
	@touch $@

# Two programs that only check: the loader, the service and the other tests need neither.
$(CONTRACT): scripts/contract-constraints.txt
	@echo "installing into .venv-contract ..." >&2
	@$(PYTHON) -m venv --clear .venv-contract
	@.venv-contract/bin/python -m pip install --quiet -c $< schemathesis kubernetes-validate
	@touch $@

$(WEB): web/package.json web/package-lock.json web/.npmrc
	@echo "installing into web/node_modules ..." >&2
	@cd web && npm ci --silent
	@touch $@

.PHONY: clean
clean: ## remove what make made; the database in .etl and the failed store stay
	rm -rf .venv .venv-bench .venv-contract .venv-release web/node_modules .coverage* dist site .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find etl tests sql -name __pycache__ -type d -prune -exec rm -rf {} +
