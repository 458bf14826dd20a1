# Each target does its own set-up, in .venv; .venv/.core and .venv/.dev say that it was done for this pyproject.toml.
PYTHON ?= python3

# torch is named beside the project in one pip command, so that pip settles on this build and on a torchvision that fits
# it. On Linux a plain `torch` brings several GB of CUDA packages; where pip has been pointed at a CPU build of this
# version, it takes that one. `make demo TORCH="torch>=2.6"` picks another.
TORCH ?= torch==2.13.0

PIP := .venv/bin/python -m pip --disable-pip-version-check
# modules are compiled as they are first imported: most of torch's and transformers' never are
INSTALL := $(PIP) install -qq --no-compile "$(TORCH)"

.PHONY: demo test lint clean

demo: .venv/.core
	.venv/bin/zellige material "mossy cobblestone wall" --size 512x512 --seamless xy --seed 7 --out demo --overwrite
	@echo "Look at demo/: five maps and ambient occlusion, a rendered preview and a 2x2 preview."

# pyright fills the gaps that the tests leave, and is heard after them; ruff takes a second
test: .venv/.dev
	.venv/bin/ruff check
	@echo "pyright runs beside the tests; what it finds comes after them."
	@nice .venv/bin/pyright >.venv/pyright.log 2>&1 & pyright=$$!; \
	trap 'kill 0' INT; \
	.venv/bin/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder; tests=$$?; \
	wait $$pyright; types=$$?; \
	cat .venv/pyright.log; \
	[ $$tests = 0 ] && [ $$types = 0 ]

lint: .venv/.dev
	.venv/bin/ruff check
	.venv/bin/pyright

clean:
	rm -rf .venv demo build dist .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.pip:
	$(PYTHON) -m venv .venv
	@echo "Installing into .venv; this takes a few minutes."
	$(PIP) install -qq --upgrade "pip>=25.1"
	touch $@

.venv/.core: pyproject.toml | .venv/.pip
	$(INSTALL) --editable .
	touch $@

.venv/.dev: pyproject.toml | .venv/.pip
	$(INSTALL) --editable . --group dev
	touch $@ .venv/.core
