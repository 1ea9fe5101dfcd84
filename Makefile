# Everything a developer or a first visitor runs. `make help` lists it; CI runs `make check` through .ci/run.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help run test unit check soak recovery failover goodput deliveries rollouts bulk-soak bulk-bench bulk-long provider-options flat caps bench-guard fairness abuse abuse-memory store-stress schemathesis fuzz clean

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
# Tests run in several processes: they wait more than they compute, so three of them fill two CPUs. JOBS=0: in one process.
JOBS ?= 3
PYTEST = $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile
PIP = $(BIN)/python -m pip install -q --disable-pip-version-check

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: export JITNEY_STARTED_AT := $(STARTED_AT)
run: .venv/installed-$(DEVICE) ## Start Jitney on this machine: http://127.0.0.1:8000 (PORT, JITNEY_MODELS_DIR, JITNEY_REDIS_URL …)
	@exec $(BIN)/jitney up

test: .venv/installed-dev ## All tests
	$(PYTEST)

unit: .venv/installed-dev ## The tests of single parts: neither browser nor whole system
	$(PYTEST) --ignore=tests/page --ignore=tests/scripts --ignore=tests/service --ignore=tests/faults --ignore=tests/rollout

check: .venv/installed-dev ## What CI runs: lint, format, types, import rules, tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PYTEST)

MINUTES ?= 20
ROUNDS ?= 50
soak: .venv/installed-dev ## Mixed load while parts are killed every 20 s: make soak MINUTES=20
	$(BIN)/python -m tests.faults.soak --minutes $(MINUTES)

recovery: .venv/installed-dev ## How soon a killed worker's jobs are done elsewhere: make recovery ROUNDS=50
	$(BIN)/python -m tests.faults.soak --recovery $(ROUNDS) --machines 5

FAILOVERS ?= 10
failover: .venv/installed-dev ## The queue's primary and replica change places under load: make failover FAILOVERS=10 (30 s)
	$(BIN)/python -m tests.faults.failover --rounds $(FAILOVERS)

goodput: .venv/installed-dev ## What 1 % of inputs that make the run fail costs the others (3 minutes)
	$(BIN)/python -m tests.faults.goodput

deliveries: .venv/installed-dev ## 10,000 webhooks through an outage of all parts, and how soon the first attempt comes (10 minutes)
	$(BIN)/python -m tests.webhooks.deliveries

BATCHES ?= 10000
flat: .venv/installed-dev ## The memory of models through 10,000 batches of random sizes (10 minutes): make flat BATCHES=10000
	$(BIN)/python -m tests.bench.flat --batches $(BATCHES)

LINES ?= 200000
bulk-soak: .venv/installed-dev ## A batch of 200,000 digits while every part is killed in turn: make bulk-soak LINES=200000
	$(BIN)/python -m tests.bulk.soak --lines $(LINES)

rollouts: .venv/installed-dev ## A model upgraded, canaried, promoted, rolled back under load: make rollouts MINUTES=5
	$(BIN)/python -m tests.rollout.long --minutes $(MINUTES)

caps: .venv/installed-dev ## The batch caps that workers find by themselves, beside the best of a sweep (10 minutes)
	$(BIN)/python -m tests.bench.caps

bench-guard: .venv/installed-dev ## What a small job costs in CPU time, against limits (3 minutes)
	$(BIN)/python -m tests.bench.guard

fairness: .venv/installed-dev ## What a calm tenant waits beside one that floods (3 minutes)
	$(BIN)/python -m tests.bench.fairness

abuse: .venv/installed-dev ## What a calm tenant waits beside 30 that abuse the service, and beside 30 that do not (8 minutes)
	$(BIN)/python -m tests.bench.abuse

abuse-memory: .venv/installed-dev ## Five rounds of all abuse: the memory of each part must not grow (8 minutes)
	$(BIN)/python -m tests.bench.abuse --memory

STEPS ?= 100000
SEED ?= $(shell date +%s)
store-stress: .venv/installed-dev ## Random steps of the store beside a model of what it promises: make store-stress STEPS=100000 SEED=1
	$(BIN)/python -m tests.stress --steps $(STEPS) --seed $(SEED)

schemathesis: .venv/installed-dev ## 5,000 requests and more, made from our own OpenAPI document (10 minutes)
	@test -x .venv/apart/bin/schemathesis || { "$(PYTHON)" -m venv .venv/apart && \
		.venv/apart/bin/python -m pip install -q --disable-pip-version-check 'schemathesis>=4.32'; }
	$(BIN)/python -m tests.fuzz.openapi $(CURDIR)/.venv/apart/bin/schemathesis

FUZZ_SECONDS ?= 600
fuzz: .venv/installed-dev ## Fuzz what reads requests and records, guided by coverage: make fuzz FUZZ_SECONDS=600
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(PIP) 'atheris>=3.0'
	$(BIN)/python -m tests.fuzz.parsers -max_total_time=$(FUZZ_SECONDS) -max_len=4096 -timeout=10 -rss_limit_mb=2048

provider-options: .venv/installed-dev ## What ONNX Runtime's GPU providers say of our options; no GPU, but gcc is needed (1 minute)
	@test -x .venv/gpu/bin/python || { "$(PYTHON)" -m venv .venv/gpu && $(BIN)/python -m pip --python .venv/gpu/bin/python \
		install -q --disable-pip-version-check 'onnxruntime-gpu>=1.31,<2'; }
	$(BIN)/python -m tests.providers.ask_parsers $(CURDIR)/.venv/gpu/bin/python

ITEMS ?= 500000
bulk-bench: .venv/installed-dev ## SqueezeNet over 2,000 JPEGs: the limit, --local and through a service, in turn (10 minutes)
	$(BIN)/python -m tests.bench.bulk

bulk-long: .venv/installed-dev ## CPU time an item over a long bulk run, drawn: make bulk-long ITEMS=500000 (10 minutes)
	$(BIN)/python -m tests.bench.bulk_long --items $(ITEMS)

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
	@$(PIP) -e ".[$*,embedded,bulk]"
	@touch $@

.venv/installed-dev: .venv/installed-$(DEVICE)
	@$(PIP) -e ".[$(DEVICE),embedded,dev]"
	@touch $@
