#!/usr/bin/env bash
# Line coverage of pydlx/ and csrc/ by the test suite. Usage: tools/coverage.sh VENV/bin/python [PYTEST ARGUMENTS...]
# Reports lie in build/coverage: python.txt, engine.txt and engine.html.
# The instruction sets compile the same lines, so the widest one of this machine is built; PYDLX_CPU_PATHS="generic;avx2;avx512" for all.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$PWD/$1
[[ $1 == /* ]] && python=$1
shift
root=$PWD
tree=$root/build/coverage
"$python" -m pip install --quiet --disable-pip-version-check 'pybind11>=3' scipy-openblas32 'cmake>=3.24' ninja 'gcovr>=8.5' pytest-cov
bin=$("$python" -c 'import sysconfig; print(sysconfig.get_path("scripts"))')
export PATH="$bin:$PATH"
widest=generic
grep -qw fma /proc/cpuinfo && grep -qw avx2 /proc/cpuinfo && widest=avx2
grep -qw avx512vl /proc/cpuinfo && grep -qw avx512bw /proc/cpuinfo && widest=avx512
# Without debugging information the objects and the link are a tenth of the size; gcov reads its own notes.
cmake -S . -B "$tree" -G Ninja -DPython_EXECUTABLE="$python" -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS_DEBUG= -DPYDLX_COVERAGE=ON -DPYDLX_CUDA=OFF \
  -DPYDLX_CPU_PATHS="${PYDLX_CPU_PATHS:-$widest}" >/dev/null
cmake --build "$tree" -j "$(nproc)"
find "$tree" -name '*.gcda' -delete
rm -rf "$tree/package"
mkdir -p "$tree/package/pydlx/lib"
tar -c --exclude='_C*.so' --exclude=lib --exclude=__pycache__ pydlx | tar -x -C "$tree/package"
cp "$tree"/_C*.so "$tree/package/pydlx/"
cp "$("$python" -c 'import scipy_openblas32 as s; print(s.get_lib_dir())')"/lib*.so* "$tree/package/pydlx/lib/"
# A failing test is reported but does not stop the report. `pytest`, not `python -m pytest`: that would import pydlx from this folder.
status=0
PYTHONPATH="$tree/package:$root/tools" COVERAGE_FILE="$tree/.coverage" "$bin/pytest" -n auto -p gcov_plugin --cov="$tree/package/pydlx" --cov-report="term-missing:skip-covered" \
  -p no:cacheprovider "$@" >"$tree/python.txt" || status=$?
grep -v '^build/coverage/package' "$tree/python.txt" | tail -n 40
# A line counts once and as covered when one instruction set or instantiation of a template runs it.
"$bin/gcovr" -j "$(nproc)" --root . --filter 'csrc/' --merge-lines --merge-mode-functions=merge-use-line-min --gcov-ignore-parse-errors=negative_hits.warn_once_per_file --gcov-suspicious-hits-threshold=0 \
  --exclude-throw-branches --txt "$tree/engine.txt" --html-details "$tree/engine.html" --print-summary "$tree"
grep '^TOTAL' "$tree/python.txt"
exit "$status"
