# Two commands do everything on a fresh machine with Python 3.11: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
# A build without CUDA libraries is enough for a machine without a GPU; on one with a GPU, install your CUDA build first.
TORCH ?= torch==2.13.0
PACKAGES = prn_fast kernels build bench
BIN = $(VENV)/bin
OLDER_TRITON = .build/triton-3.6
TRITONSERVER = .build/tritonserver

.PHONY: setup demo test proofs lint format docs bench gpu-kit accuracy figures wheel tree clean

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

# The tests, one more at a time than there are cores, because some wait for a server, a camera or a compiler; TEST_OPTIONS
# goes to pytest. `make proofs` runs those that take long.
TEST_OPTIONS ?=
PYTEST = $(BIN)/python -m pytest -n $$(($$(nproc) + 1)) --dist worksteal
test: setup $(OLDER_TRITON) $(TRITONSERVER)
	$(PYTEST) -m "not long" $(TEST_OPTIONS) tests

proofs: setup $(OLDER_TRITON) $(TRITONSERVER)
	$(PYTEST) -m long $(TEST_OPTIONS) tests

# The oldest Triton that compiles the kernels, beside the installed one: tests compile with both.
$(OLDER_TRITON): | setup
	rm -rf $@.part
	$(BIN)/pip install --quiet --no-deps --target $@.part triton==3.6.0
	mv $@.part $@

# NVIDIA's inference server as PyPI has it (55 MB), for the tests that serve; without the Python libraries that it names,
# which would hold numpy below 2.
$(TRITONSERVER): | setup
	rm -rf $@.part
	$(BIN)/pip install --quiet --no-deps --target $@.part nvidia-pytriton==0.7.0
	mv $@.part $@

# What a bare machine with a GPU is sent along, for bench/gpu_run.sh: compiled kernels, and what training needs.
# make gpu-kit [WEIGHTS=FILE] [DATA=DIR]: a backbone's pretrained weights, and images to train on.
gpu-kit: setup $(OLDER_TRITON)
	PYTHONPATH=$(OLDER_TRITON) $(BIN)/python -m prn_fast.bench.gpu.kit make .build/gpu-kit \
	  $(if $(WEIGHTS),--weights $(WEIGHTS)) $(if $(DATA),--data $(DATA))

# Operations and engine steps, timed; .benchmarks/ keeps each run, and `pytest-benchmark compare` holds them together.
# BENCH_OPTIONS=--benchmark-disable runs each once, without times.
BENCH_OPTIONS ?= --benchmark-only --benchmark-autosave --benchmark-columns=median,iqr,rounds --benchmark-sort=fullname
bench: setup
	$(BIN)/python -m pytest -o addopts=-q bench/suite $(BENCH_OPTIONS)

# The tables of these pages, from bench/results/.
PAGES_WITH_FIGURES = README.md \
  $(addprefix docs/,accuracy.md benchmarks.md drift.md early-exit.md engines.md linescan.md scale.md thresholds.md)
figures: setup
	$(BIN)/python -m prn_fast.bench.figures $(PAGES_WITH_FIGURES)

# A study of many trainings, docs/accuracy.md:
# make accuracy STUDY=seen DATA="DIR DIR ..." EPOCHS=10 [ACCURACY_OPTIONS="--seeds 0"], a folder for each product.
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

# A wheel in .build/wheels, installed into a fresh environment with its base dependencies alone, and tried there.
# The wheel is built from what setuptools finds in .build/lib*, so that former builds are removed.
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' prn_fast/__init__.py)
wheel: setup
	rm -rf .build/lib* .build/bdist* .build/temp* .build/wheels .build/wheel-venv
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir .build/wheels .
	$(PYTHON) -m venv .build/wheel-venv
	.build/wheel-venv/bin/pip install --quiet $(TORCH)
	.build/wheel-venv/bin/pip install --quiet .build/wheels/prn_fast-*.whl
	cd .build && wheel-venv/bin/python ../tests/wheel_smoke.py $(VERSION)
	@ls .build/wheels/*.whl

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

clean:
	rm -rf $(VENV) .build runs *.egg-info
