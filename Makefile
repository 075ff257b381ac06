# LiveTalk: every target sets up what it needs in a .venv of its own.
#
#   PYTHON   the interpreter that makes the .venv (3.10 or newer)
#   WORKERS  test processes; each computes on one thread

PYTHON  ?= python3
WORKERS ?= 2
VENV    := .venv
BIN     := $(VENV)/bin
PIP     := $(BIN)/python -m pip --disable-pip-version-check install --quiet
# The tested pin of this development environment only: users bring their own torch.
TORCH   := torch==2.13.0

RUNTIME := $(VENV)/.runtime-installed
DEV     := $(VENV)/.dev-installed
# The frontend that the oldest tested ComfyUI pins; the newest comes with requirements-dev.txt.
FRONTEND := 1.49.6
SOURCES := livetalk_core nodes

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help install demo test lint typecheck pytest chromium workflows gpu format clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1|/p' $(firstword $(MAKEFILE_LIST)) | while IFS='|' read -r name text; do \
		printf '  make %-10s %s\n' "$$name" "$$text"; done

install: $(DEV)  ## make the .venv with all that development needs

demo: $(RUNTIME)  ## render demo/out/demo.mp4 from the demo portrait and speech (CPU, no download)
	@mkdir -p demo/out
	@$(BIN)/python -m livetalk_core generate --image demo/portrait.png --audio demo/speech.wav \
		--output demo/out/demo.mp4 --model nano --overwrite

test: lint typecheck pytest  ## lint, check types, run the tests

lint: $(DEV)  ## ruff: rules and formatting
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

typecheck: $(DEV)  ## pyright on the core and the nodes
	@$(BIN)/pyright --pythonpath $(BIN)/python $(SOURCES)

# One thread in each process: on few cores, more only fight for them.
pytest: $(DEV) chromium  ## the tests alone
	@OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -rs

# The browser tests need one. Asks nothing: without apt or root they are skipped, and say so.
chromium:
	@command -v chromium google-chrome >/dev/null || [ -n "$$CHROMIUM" ] || { \
		[ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq >/dev/null && \
		DEBIAN_FRONTEND=noninteractive apt-get install -yqq chromium fonts-dejavu >/dev/null 2>&1; } || \
		echo "No Chromium, and none could be installed: the browser tests are skipped"

workflows: $(DEV)  ## have the frontend save the example workflows and picture the nodes (needs Chromium)
	@$(BIN)/python -m tests.browser.save_workflows
	@$(BIN)/python -m tests.browser.picture_nodes
	@$(BIN)/python -m tests.browser.help_pages

# Nothing is set up for it: the machine's own PyTorch is what is to be measured.
gpu:  ## measure this machine's GPU with the 14B model's shape, in eight minutes (random weights, no download)
	@$(PYTHON) -m benchmarks.first_gpu

format: $(DEV)  ## let ruff mend what it can
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

clean:  ## remove the .venv, caches and demo output
	rm -rf $(VENV) demo/out .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch goes in first and alone, so that no other package chooses another build of it.
$(RUNTIME): requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "$(PYTHON) is missing or older than Python 3.10; 3.10 or newer is needed: set PYTHON=/path/to/python3" >&2; \
		exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) has no venv module; it is needed to make $(VENV):" \
			"install it (Debian, Ubuntu: apt install python3-venv) or set PYTHON=/path/to/another/python3" >&2; \
		exit 1; }
	@echo "Setting up $(VENV) (the first time only; torch is large)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) '$(TORCH)'
	@$(PIP) -r requirements.txt '$(TORCH)'
	@touch $@

$(DEV): requirements-dev.txt requirements-training.txt $(RUNTIME)
	@echo "Adding the development tools to $(VENV)"
	@$(PIP) -r requirements-dev.txt '$(TORCH)'
	@$(PIP) --no-deps --upgrade --target $(VENV)/frontends/$(FRONTEND) comfyui-frontend-package==$(FRONTEND)
	@touch $@
