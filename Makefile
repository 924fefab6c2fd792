# make demo   a small study on drawn scenes, from nothing to an exported model
# make test   the checks, then every test that this machine can run, but the long ones
# make lock   constraints.txt: the version of every package that .venv has, for nodes, images and CI
# make test-browser, make test-cluster, make test-long   one part of them alone, without the checks

PYTHON ?= python3
BIN := .venv/bin
DEMO := demo

.PHONY: demo test test-browser test-cluster test-long screenshots check format lock clean

demo: .venv/installed
	@rm -rf $(DEMO)
	@$(BIN)/python -m tuner run search_spaces/demo.toml --storage $(DEMO)/studies
	@echo
	@$(BIN)/python -m tuner.best demo --storage $(DEMO)/studies --output $(DEMO)/export
	@echo
	@echo "studies and MLflow's database   $(DEMO)/studies"
	@echo "the winner, exported            $(DEMO)/export"
	@echo "masks of validation frames      $(DEMO)/export/samples"
	@echo
	@echo "  . $(BIN)/activate"
	@echo "  python -m tuner show demo --storage $(DEMO)/studies"
	@echo "  python -m tuner ui --storage $(DEMO)/studies"

# Compiled first: where PYTHONDONTWRITEBYTECODE is set, as in many containers, each process of a study would do it again.
test: check
	$(BIN)/python -m compileall -q fcn tuner tests benchmarks
	$(BIN)/python -m pytest -m 'not long' -n 3 --dist loadfile --no-loadscope-reorder --durations=20

# Each test says why where it is skipped: a browser test where there is no Chromium, one on hosts where root is needed.
test-browser test-cluster test-long: test-%: .venv/installed
	$(BIN)/python -m pytest -m $*

# The pictures of the docs, docs/images, of a study that is generated. Needs Chromium.
screenshots: .venv/installed
	$(BIN)/python -m tests.browser.screenshots

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# What `make test` has passed with. In an old .venv first `make clean`, which gets the newest.
lock: .venv/installed
	@{ echo "# Made by \`make lock\`: what the tests ran with, on $$($(BIN)/python --version). pip install -c constraints.txt …"; \
	  $(BIN)/python -m pip freeze --all --exclude-editable --disable-pip-version-check | grep -v '^pip==\|^setuptools=='; } \
	  >constraints.txt.new
	@mv constraints.txt.new constraints.txt
	@wc -l constraints.txt

clean:
	rm -rf .venv $(DEMO)

# The file is written last: an installation that was broken off is done again.
.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v < (3, 14) else \
	  "error: Python 3.11, 3.12 or 3.13 is needed, got %d.%d; name one: make PYTHON=python3.12 …" % v[:2])'
	@$(PYTHON) -m venv .venv
	@echo "installing into .venv (a few minutes, several GB: PyTorch brings CUDA) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable . --group dev
	@touch $@
