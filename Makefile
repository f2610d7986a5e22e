# make run   every notebook, tiny profile, default data, into runs/demo/
# make test  lint, unit tests, every notebook executed
# make lab   the notebooks in JupyterLab; its options go in ARGS, such as make lab ARGS=--no-browser
# make browser   the interactive views in a real browser, on a finished run (needs chromium on the PATH)
# Each sets itself up in .venv; nothing has to be typed first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)

# Shared cores run 10x slower when idle OpenMP threads spin.
export OMP_WAIT_POLICY = PASSIVE
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: run test lab browser clean

run: $(VENV)/run.stamp
	$(BIN)/cellfm run

test: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder

browser: $(VENV)/browser.stamp
	@test -e runs/demo/track/tracks.csv || $(BIN)/cellfm run
	@# the two servers side by side
	export CELLFM_BROWSER=1; unset CI; $(BIN)/python -m pytest tests/browser -k hub & hub=$$!; \
	$(BIN)/python -m pytest tests/browser -k plain; plain=$$?; wait $$hub && exit $$plain

lab: $(VENV)/run.stamp
	$(BIN)/cellfm lab $(ARGS)

clean:
	rm -rf $(VENV) runs build dist *.egg-info .pytest_cache .ruff_cache

$(VENV)/run.stamp: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; this is $$($(PYTHON) --version). Try: make PYTHON=python3.12 ..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@# Without a GPU the CPU build saves gigabytes: taken wherever the configured index or wheels offer it.
	@if command -v nvidia-smi >/dev/null || ! $(BIN)/pip install -q -c constraints.txt "torch==$(TORCH)+cpu" 2>/dev/null; then \
		$(BIN)/pip install -q -c constraints.txt "torch==$(TORCH)"; fi
	$(BIN)/pip install -q -c constraints.txt -e .
	@touch $@

$(VENV)/browser.stamp: $(VENV)/test.stamp
	$(BIN)/pip install -q -c constraints.txt -e '.[browser]'
	@touch $@

$(VENV)/test.stamp: $(VENV)/run.stamp
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	@touch $@
