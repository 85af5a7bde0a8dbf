#!/usr/bin/env bash
# Builds the extension with the CUDA backend compiled for the host (cuda/emulator) into build/emulate and runs the
# tests of device="cuda" against it.
# Usage: tools/emulate.sh VENV/bin/python [PYTEST ARGUMENTS...]
set -euo pipefail
cd "$(dirname "$0")/.."
python=$PWD/$1
shift
tree=$PWD/build/emulate
"$python" -m pip install --quiet --disable-pip-version-check pybind11 'cmake>=3.24' ninja
bin=$("$python" -c 'import sysconfig; print(sysconfig.get_path("scripts"))')
export PATH="$bin:$PATH"
# One instruction set and no BLAS: what is tested here is the other device. With fused multiply-adds where the processor has
# them, as a GPU has: random numbers are compared bit by bit.
path=generic
grep -qw avx2 /proc/cpuinfo && grep -qw bmi2 /proc/cpuinfo && grep -qw fma /proc/cpuinfo && path=avx2
configure=(-G Ninja -DPython_EXECUTABLE="$python" -DPYDLX_BLAS=none -DPYDLX_CPU_PATHS="${PYDLX_CPU_PATHS:-$path}")
cmake -S . -B "$tree" "${configure[@]}" -DPYDLX_CUDA=EMULATE >/dev/null
cmake --build "$tree" -j "$(nproc)"
rm -rf "$tree/package"
mkdir -p "$tree/package"
tar -c --exclude='_C*.so' --exclude=lib --exclude=__pycache__ pydlx | tar -x -C "$tree/package"
cp "$tree"/_C*.so "$tree/package/pydlx/"
[[ $# -gt 0 ]] || set -- -n auto tests/test_cuda*.py
PYTHONPATH="$tree/package" exec "$bin/pytest" -p no:cacheprovider "$@" # not python -m: that would find the checkout's pydlx/ first
