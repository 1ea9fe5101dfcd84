# Everything a developer or a first visitor runs. `make help` lists it; CI runs `make check` through .ci/run.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help run test unit long check lint docs wheel clean

is_new_enough := import sys; sys.exit(sys.version_info < (3, 11))
ifndef PYTHON
PYTHON := $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	"$$p" -c '$(is_new_enough)' 2>/dev/null && echo "$$p" && break; done)
endif
STARTED_AT := $(shell "$(PYTHON)" -c 'import time; print(time.time())' 2>/dev/null)

# A GPU counts when its driver loads CUDA 13, which onnxruntime-gpu is built for. DEVICE=cpu or DEVICE=gpu overrules.
has_gpu := import ctypes as c; d = c.CDLL("libcuda.so.1"); n = c.c_int(); v = c.c_int(); \
	d.cuInit(0) and exit(1); d.cuDeviceGetCount(c.byref(n)); d.cuDriverGetVersion(c.byref(v)); \
	exit(not (n.value and v.value >= 13000))
ifndef DEVICE
DEVICE := $(shell "$(PYTHON)" -c '$(has_gpu)' 2>/dev/null && echo gpu || echo cpu)
endif

BIN := .venv/bin
# Tests run in several processes: they wait more than they compute, so four of them fill two CPUs. JOBS=0: in one process.
JOBS ?= 4
# They start hundreds of Python processes. Without the cache of compiled modules, each would compile all sources again.
# In the order of the files, the slow ones come first, and the processes of a folder's tests end with the folder.
PYTEST = env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile --no-loadscope-reorder
PIP = $(BIN)/python -m pip install -q --disable-pip-version-check

# What single long runs need besides; in environments apart where it does not go with ours.
NEEDS_OF_schemathesis := .venv/apart/bin/schemathesis
TOOLS_APART := schemathesis>=4.32 openapi-python-client>=0.29
NEEDS_OF_fuzz := .venv/installed-atheris
NEEDS_OF_provider-options := .venv/gpu/installed

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: export JITNEY_STARTED_AT := $(STARTED_AT)
run: .venv/installed-$(DEVICE) ## Start Jitney on this machine: http://127.0.0.1:8000 (PORT, JITNEY_MODELS_DIR, JITNEY_REDIS_URL …)
	@exec $(BIN)/jitney up

test: .venv/installed-dev .venv/apart/bin/openapi-python-client .venv/apart/installed-tritonclient ## All tests
	$(PYTEST)

unit: .venv/installed-dev ## The unit tests: no other process, no socket (half a minute)
	$(PYTEST) tests/unit

check: lint docs test ## What CI runs: lint, docs and all tests

lint: .venv/installed-dev ## Lint, format, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: export NO_MKDOCS_2_WARNING := 1
docs: .venv/installed-dev ## Build the documentation, build/site/index.html; a broken link is an error
	$(BIN)/python -m mkdocs build

long: .venv/installed-dev $(NEEDS_OF_$(NAME)) ## Soaks, benchmarks, stress, fuzzing: make long NAME=soak ARGS="--minutes 20"; without NAME: their list
	@$(BIN)/python -m tests.long $(NAME) $(ARGS)

wheel: .venv/bin/python ## Build the wheel, dist/jitney-*.whl
	rm -rf build dist
	$(BIN)/python -m pip wheel -q --disable-pip-version-check --no-deps -w dist .

clean: ## Remove what was built; the queue in .data stays
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "Jitney needs Python 3.11 or newer as python3: none is on PATH" >&2; exit 1; }
	@"$(PYTHON)" -c '$(is_new_enough)' || { echo "Jitney needs Python 3.11 or newer: $(PYTHON) is older" >&2; exit 1; }
	@"$(PYTHON)" -m venv .venv || { rm -rf .venv; \
		echo "Python's venv module is missing: apt-get install python3-venv (or your system's name for it)" >&2; exit 1; }

# The cpu and the gpu wheel of ONNX Runtime own the same folder: one leaves before the other comes.
.venv/installed-cpu .venv/installed-gpu: .venv/installed-%: .venv/bin/python pyproject.toml
	@echo "installing Jitney into .venv (once) ..." >&2
	@for other in .venv/installed-cpu .venv/installed-gpu; do \
		if [ "$$other" != "$@" ] && [ -e "$$other" ]; then \
			$(BIN)/python -m pip uninstall -q -y onnxruntime onnxruntime-gpu && rm "$$other"; fi; done
	@$(PIP) -e ".[$*,embedded,bulk,models,optimize]"
	@touch $@

.venv/installed-dev: .venv/installed-$(DEVICE)
	@$(PIP) -e ".[$(DEVICE),embedded,dev,docs]"
	@touch $@

.venv/apart/bin/%: | .venv/installed-dev
	@"$(PYTHON)" -m venv .venv/apart
	@.venv/apart/bin/python -m pip install -q --disable-pip-version-check '$(filter $*>=%,$(TOOLS_APART))'

# It needs another protobuf than ours.
.venv/apart/installed-tritonclient: | .venv/installed-dev
	@"$(PYTHON)" -m venv .venv/apart
	@.venv/apart/bin/python -m pip install -q --disable-pip-version-check 'tritonclient[http,grpc]>=2.73' numpy
	@touch $@

.venv/installed-atheris: .venv/installed-dev
	@$(PIP) 'atheris>=3.0'
	@touch $@

.venv/gpu/installed: | .venv/installed-dev
	@"$(PYTHON)" -m venv .venv/gpu
	@$(BIN)/python -m pip --python .venv/gpu/bin/python install -q --disable-pip-version-check 'onnxruntime-gpu>=1.31,<2'
	@touch $@
