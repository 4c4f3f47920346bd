# Every target makes .venv and installs what it needs by itself; a second call
# does no work that is already done.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
SITE   := book/_build/html
# The book is built in an environment of its own, which needs no PyTorch (book/_ext/package.py).
BOOK   := .venv-book
# Two cores: two workers of one thread each (tools/run_tests.py).
WORKERS ?= 2

BOOK_SOURCES := $(shell find book notebooks vae_tutorial -type f \
	-not -path 'book/_build/*' -not -path '*/__pycache__/*' -not -path '*/.ipynb_checkpoints/*' 2>/dev/null) \
	$(wildcard artifacts/*/*/run.json artifacts/*/*/likelihood.json)

.DEFAULT_GOAL := help
.PHONY: help book test notebooks lab url lint clean

help:
	@echo "make book       build the site (warnings are errors) and print the file to open"
	@echo "make test       lint, unit and maths tests, every notebook, the built site"
	@echo "make notebooks  execute all notebooks in place; twice gives the same bytes"
	@echo "                RETRAIN=1 make notebooks  trains anew instead of loading the committed runs"
	@echo "                ONLY=01 make notebooks    only the notebooks whose names start with 01"
	@echo "make lab        open JupyterLab in the notebooks' folder"
	@echo "make url        repeat pyproject.toml's repository address wherever it must stand"
	@echo "make lint       ruff alone, on code and notebooks"
	@echo "make clean      remove the built site and caches (not data, not trained runs)"
	@echo
	@echo "VAE_TUTORIAL_DATA=DIR         look for the data sets there (default: data/)"
	@echo "VAE_TUTORIAL_DATASET=digits   run the MNIST chapters on scikit-learn's bundled digits"

$(BIN)/python $(BOOK)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one with: make PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv $(@D)/..

# One stamp an extra: installed once, and again only when the versions change.
$(VENV)/.installed-%: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$*]' -c constraints.txt
	@touch $@

$(BOOK)/.installed: pyproject.toml constraints.txt | $(BOOK)/bin/python
	$(BOOK)/bin/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["book"], sep="\n")' > $(BOOK)/requirements.txt
	$(BOOK)/bin/python -m pip install --quiet --disable-pip-version-check -r $(BOOK)/requirements.txt -c constraints.txt
	@touch $@

$(SITE)/.built: $(BOOK_SOURCES) pyproject.toml CITATION.cff README.md .gitignore | $(BOOK)/.installed
	@rm -f $@
	$(BOOK)/bin/jupyter-book build . --config book/_config.yml --toc book/_toc.yml --path-output book \
		-W -n --keep-going --quiet
	@touch $@

book: $(SITE)/.built
	@echo "Open $(CURDIR)/$(SITE)/index.html"

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

test: lint $(SITE)/.built
	$(BIN)/python tools/run_tests.py --workers $(WORKERS)

notebooks: $(VENV)/.installed-notebooks
	$(BIN)/python tools/execute.py $(ONLY)

lab: $(VENV)/.installed-lab
	$(BIN)/jupyter lab notebooks

url: | $(BIN)/python
	$(BIN)/python tools/set_url.py

clean:
	rm -rf book/_build .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
