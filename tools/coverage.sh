#!/usr/bin/env bash
# Line coverage of pydlx/ and csrc/ by the test suite. Usage: tools/coverage.sh VENV/bin/python [PYTEST ARGUMENTS...]
# Reports lie in build/coverage: python.txt, engine.txt and engine.html.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$PWD/$1
shift
tree=$PWD/build/coverage
"$python" -m pip install --quiet --disable-pip-version-check 'pybind11>=3' scipy-openblas32 'cmake>=3.24' ninja 'gcovr>=7' pytest-cov
bin=$("$python" -c 'import sysconfig; print(sysconfig.get_path("scripts"))')
export PATH="$bin:$PATH"
cmake -S . -B "$tree" -G Ninja -DPython_EXECUTABLE="$python" -DCMAKE_BUILD_TYPE=Debug -DPYDLX_COVERAGE=ON \
  -DPYDLX_CPU_PATHS="${PYDLX_CPU_PATHS:-generic;avx2;avx512}" >/dev/null
cmake --build "$tree" -j "$(nproc)"
find "$tree" -name '*.gcda' -delete
rm -rf "$tree/package"
mkdir -p "$tree/package/pydlx/lib"
tar -c --exclude='_C*.so' --exclude=lib --exclude=__pycache__ pydlx | tar -x -C "$tree/package"
cp "$tree"/_C*.so "$tree/package/pydlx/"
cp "$("$python" -c 'import scipy_openblas32 as s; print(s.get_lib_dir())')"/lib*.so* "$tree/package/pydlx/lib/"
# A failing test is reported but does not stop the report. Python's tracing and the instrumented kernels make the suite several times slower.
status=0
PYTHONPATH="$tree/package" COVERAGE_FILE="$tree/.coverage" "$python" -m pytest --cov=pydlx --cov-report="term:skip-covered" \
  -p no:cacheprovider "$@" | tee "$tree/python.txt" || status=$?
# The three instruction sets compile the same lines; a line counts as covered when one of them runs it.
"$bin/gcovr" --root . --filter 'csrc/' --merge-mode-functions=merge-use-line-min --gcov-ignore-parse-errors=negative_hits.warn \
  --exclude-throw-branches --txt "$tree/engine.txt" --html-details "$tree/engine.html" --print-summary "$tree"
grep '^TOTAL' "$tree/python.txt"
exit "$status"
