# Everything from a fresh clone with only Python (3.11 or 3.12) and pip:
#   make avatar    set up, then make the avatar of the sample portrait (PHOTO=me.jpg OUTPUT=outputs/me for another)
#   make test      set up, then pass the tests
# uv is installed by pip into build/uv, apart from the environment it manages (.venv), which it then makes as uv.lock says.
# Bytecode is compiled at once, and kept whatever the shell says: every process that Ray starts would do it again.

unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
PHOTO ?= sample:astronaut
OUTPUT ?= outputs/astronaut
ARGS ?=

UV := UV_PYTHON_DOWNLOADS=never PYTHONPATH=build/uv $(PYTHON) -m uv
SYNCED := .venv/.synced-from-lock

.DEFAULT_GOAL := help
.PHONY: help setup avatar test slow lint format clean

help:
	@sed -n '1,4s/^# //p' Makefile

build/uv/uv/__init__.py:
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --target build/uv uv

$(SYNCED): pyproject.toml uv.lock | build/uv/uv/__init__.py
	$(UV) sync --frozen --compile-bytecode
	@touch $@

setup: $(SYNCED)

avatar: setup
	.venv/bin/zero1toa generate "$(PHOTO)" --output "$(OUTPUT)" $(ARGS)

# Two processes, as most of the time of tests is waiting for other processes; each with one thread for torch.
test: setup
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest --numprocesses 2 --dist worksteal $(ARGS)

slow: setup
	.venv/bin/python -m pytest -m "slow and not gpu" $(ARGS)

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

format: setup
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

clean:
	rm -rf .venv build
