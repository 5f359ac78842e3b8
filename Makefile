# Every target does its own set-up. Nothing but Python 3.11+ and make is needed beforehand.
#   make run    fine-tune, score and serve on the embedded default
#   make test   the suite
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
READY  := $(VENV)/.ready
DEV    := $(VENV)/.ready-dev
SECOND_S3 := .venv-s3/.ready

.PHONY: run test test-slow check serve stop bench clean help
.DEFAULT_GOAL := help

help:           ## this list
	@sed -n 's/^\([a-z-]*\): .*## /\1\t/p' Makefile | expand -t 12

$(READY): pyproject.toml constraints.txt
	@echo "setting up $(VENV) (once; a few minutes)"
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version) if sys.version_info < (3, 11) else 0'
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt .
	@rm -rf build finetune_flows.egg-info
	@touch $@

# what only the suite needs; bitsandbytes is among it, which costs each LoRA job two seconds where it is installed
$(DEV): $(READY)
	@$(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt '.[dev]'
	@rm -rf build finetune_flows.egg-info
	@touch $@

# a second S3 server, which checks checksums; apart, because it pins another botocore
$(SECOND_S3):
	@$(PYTHON) -m venv .venv-s3
	@.venv-s3/bin/python -m pip install --quiet --disable-pip-version-check ministack==1.5.33
	@touch $@

run: $(READY)   ## fine-tune, score and serve on the embedded default
	@$(PY) -m flows.finetune $(ARGS)

test: $(DEV)  ## the suite, under ten minutes
	@$(PY) -m pytest --quiet --durations=5 $(ARGS)

test-slow: $(DEV) $(SECOND_S3)  ## kills, restarts, concurrency, a second S3: what takes longer
	@$(PY) -m pytest --quiet -m slow --durations=5 $(ARGS)

check: $(DEV) ## format, lint, types
	@$(PY) -m ruff format --check --quiet .
	@$(PY) -m ruff check --quiet .
	@$(PY) -m mypy

serve: $(READY) ## Prefect server, work pool, worker and every deployment; Ctrl-C ends them
	@$(PY) -m deployments.serve

stop: $(READY)  ## stop every model that is served on this machine
	@$(PY) -m flows.teardown

bench: $(DEV) ## speed, side by side with the published code and the usual libraries
	@$(PY) -m bench.metrics
	@$(PY) -m bench.data
	@$(PY) -m bench.generation
	@$(PY) -m bench.training

clean:          ## forget the environment, the cache and the store
	@test ! -x $(PY) || $(PY) -m flows.teardown
	rm -rf $(VENV) .venv-s3 .finetune
