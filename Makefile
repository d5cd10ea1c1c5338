# Two commands do everything on a fresh machine with Python 3.11: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
# A build without CUDA libraries is enough for a machine without a GPU; on one with a GPU, install your CUDA build first.
TORCH ?= torch==2.13.0
PACKAGES = prn_fast kernels build bench
BIN = $(VENV)/bin
OLDER_TRITON = .build/triton-3.6

.PHONY: setup demo test lint format docs bench accuracy figures tree clean

setup: $(VENV)/.ready

# Installed once; again when the list of dependencies or the compiled part changes.
NATIVE = $(wildcard prn_fast/linescan/native/*pp prn_fast/linescan/native/include/prn_fast/*)
$(VENV)/.ready: setup.py pyproject.toml setup.cfg $(NATIVE)
	$(PYTHON) -c "import sys; sys.exit('Python 3.11 or newer is needed' if sys.version_info < (3, 11) else 0)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade "pip>=24" "setuptools>=68" wheel
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet -e ".[dev]"
	@$(BIN)/python -c "import cv2" || { echo "OpenCV needs system libraries: apt-get install -y libgl1 libglib2.0-0"; exit 1; }
	touch $@

demo: setup
	$(BIN)/python -m prn_fast.demo --output runs/demo

test: setup $(OLDER_TRITON)
	$(BIN)/python -m pytest tests

# The oldest Triton that compiles the kernels, beside the installed one: tests compile with both.
$(OLDER_TRITON): | setup
	rm -rf $@.part
	$(BIN)/pip install --quiet --no-deps --target $@.part triton==3.6.0
	mv $@.part $@

# Operations and engine steps, timed; .benchmarks/ keeps each run, and `pytest-benchmark compare` holds them together.
# BENCH_OPTIONS=--benchmark-disable runs each once, without times.
BENCH_OPTIONS ?= --benchmark-only --benchmark-autosave --benchmark-columns=median,iqr,rounds --benchmark-sort=fullname
bench: setup
	$(BIN)/python -m pytest -o addopts=-q bench/suite $(BENCH_OPTIONS)

# The tables of the README and of the guides, from bench/results/.
figures: setup
	$(BIN)/python -m prn_fast.bench.figures README.md docs/accuracy.md docs/linescan.md

# A study of many trainings, docs/accuracy.md: make accuracy STUDY=seen DATA=DIR EPOCHS=10 [ACCURACY_OPTIONS="--seeds 0"].
# Interrupted, the same command goes on. Epochs train alike on every machine; MINUTES=60 bounds the time instead.
STUDY ?= seen
ACCURACY_OPTIONS ?=
accuracy: setup
	$(BIN)/python -m prn_fast.bench.accuracy run $(STUDY) --data $(or $(DATA),$(error DATA=DIR is needed)) \
	  --output runs/accuracy $(if $(MINUTES),--minutes $(MINUTES)) $(ACCURACY_OPTIONS) $(if $(EPOCHS),-- --epochs $(EPOCHS))

CPP = $(shell find prn_fast examples tests -name '*.[ch]pp' -o -name linescan.h)

lint: setup tree
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CPP)
	cd .build/tree && $(abspath $(BIN))/mypy --config-file $(CURDIR)/pyproject.toml -p prn_fast

# The package as setup.py lays it out, for tools that look for files.
tree:
	rm -rf .build/tree && mkdir -p .build/tree/prn_fast
	ln -s $(addprefix $(CURDIR)/prn_fast/,$(notdir $(filter-out %__pycache__,$(wildcard prn_fast/*)))) .build/tree/prn_fast/
	ln -s $(addprefix $(CURDIR)/,kernels build bench) .build/tree/prn_fast/

# The guides and the Python reference as web pages, .build/docs/index.html.
docs: setup tree
	$(BIN)/mkdocs build --quiet

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

clean:
	rm -rf $(VENV) .build runs *.egg-info
