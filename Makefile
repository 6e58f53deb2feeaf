# Everything for a developer.  Each target sets up what it needs on its own; a second run starts at once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --quiet --disable-pip-version-check --no-input
# Stamps stand for an installation; they are older than what it was made from when it has to be made again.
RUNTIME := $(VENV)/.stamp-runtime
TESTING := $(VENV)/.stamp-testing
EXAMPLE := $(VENV)/.stamp-example
# Applications of today need other versions than Channels 1 does.
MODERN := .venv-modern
MODERN_PYTHON := $(MODERN)/bin/python
MODERN_PIP := $(MODERN_PYTHON) -m pip --quiet --quiet --disable-pip-version-check --no-input
MODERN_TESTING := $(MODERN)/.stamp-testing
ADDRESS := http://127.0.0.1:8000

.DELETE_ON_ERROR:
.PHONY: help run run-redis run-wsgi test test-modern manual soak lint bench clean

help:
	@echo 'make run        serve the demo on $(ADDRESS)'
	@echo 'make run-redis  serve the chat site with Redis, two servers and three workers'
	@echo 'make run-wsgi   serve the Flask site with its chat'
	@echo 'make test       run all tests; with ARGS="-k name" for pytest, those of the main environment'
	@echo 'make test-modern  run the tests with Django 5 and asgiref 3; ARGS is passed to pytest'
	@echo 'make manual     write the manual page and the completions for shells into build/share'
	@echo 'make soak       reload and restart servers under load; takes hours (ARGS=--help)'
	@echo 'make lint       check style and types'
	@echo 'make bench      measure the server beside others, 25 minutes; a page in build/bench (ARGS=--help)'
	@echo 'make bench-check  compare the cost with that of another commit (BASE=COMMIT)'
	@echo 'make clean      remove everything that these targets made'

run: $(RUNTIME)
	@echo '==> the demo is on $(ADDRESS), Ctrl-C ends it'
	@exec $(BIN)/greendaphne --inline-workers 4 greendaphne.demo:channel_layer

run-redis: $(EXAMPLE)
	@command -v redis-server >/dev/null || [ "$$(id -u)" != 0 ] || { echo '==> installing redis-server' && apt-get update -qq \
		&& RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends redis-server >/dev/null; }
	@exec $(BIN)/python examples/redis/run.py --directory .cache/run-redis $(ARGS)

test: $(TESTING) $(if $(ARGS),,$(MODERN_TESTING))
	@sh .ci/packages
	@echo '==> running the tests'
	@$(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 $(ARGS)
	@$(if $(ARGS),:,$(MAKE) --no-print-directory test-modern)

run-wsgi: $(MODERN_TESTING)
	@echo '==> the chat is on $(ADDRESS), Ctrl-C ends it'
	@exec $(MODERN)/bin/greendaphne --app-dir examples/flask app

test-modern: $(MODERN_TESTING)
	@echo '==> running the tests with applications of today'
	@$(MODERN_PYTHON) -m pytest -c tests/modern/pytest.ini $(or $(ARGS),tests/modern)

manual: $(RUNTIME)
	@mkdir -p build/share/man/man1 build/share/bash-completion/completions build/share/zsh/site-functions build/share/fish/vendor_completions.d
	@$(BIN)/python -m greendaphne.settings.man > build/share/man/man1/greendaphne.1
	@$(BIN)/python -m greendaphne.settings.completions bash > build/share/bash-completion/completions/greendaphne
	@$(BIN)/python -m greendaphne.settings.completions zsh > build/share/zsh/site-functions/_greendaphne
	@$(BIN)/python -m greendaphne.settings.completions fish > build/share/fish/vendor_completions.d/greendaphne.fish
	@echo '==> build/share is ready to be copied to /usr/local/share'

soak: $(TESTING)
	@sh .ci/packages
	@$(BIN)/python -m tests.soak $(ARGS)

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
	rm -rf $(VENV) $(MODERN) .cache build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache artefacts
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An environment that is there is taken over, however it was made.
$(BIN)/python:
	@$(call make-environment,$(VENV))

$(MODERN_PYTHON):
	@$(call make-environment,$(MODERN))

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
