#!/usr/bin/env bash
# Line coverage of pydlx/ and csrc/ by the test suite. Usage: tools/coverage.sh VENV/bin/python
set -euo pipefail
cd "$(dirname "$0")/.."
python=$PWD/$1
tree=$PWD/build/coverage
"$python" -m pip install --quiet --disable-pip-version-check pybind11 scipy-openblas32 'cmake>=3.24' ninja gcovr pytest-cov
bin=$(dirname "$python")
export PATH="$bin:$PATH"
cmake -S . -B "$tree" -G Ninja -DPython_EXECUTABLE="$python" -DCMAKE_BUILD_TYPE=Debug -DPYDLX_COVERAGE=ON >/dev/null
cmake --build "$tree" -j "$(nproc)"
find "$tree" -name '*.gcda' -delete
rm -rf "$tree/package"
mkdir -p "$tree/package"
cp -r pydlx "$tree/package/pydlx"
rm -f "$tree"/package/pydlx/_C*.so
cp "$tree"/_C*.so "$tree/package/pydlx/"
mkdir -p "$tree/package/pydlx/lib"
cp "$("$python" -c 'import scipy_openblas32 as s; print(s.get_lib_dir())')"/lib*.so* "$tree/package/pydlx/lib/"
PYTHONPATH="$tree/package" "$bin/pytest" --cov="$tree/package/pydlx" --cov-report=term
"$bin/gcovr" --root . --filter csrc/ "$tree" --print-summary
