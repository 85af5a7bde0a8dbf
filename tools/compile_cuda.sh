#!/usr/bin/env bash
# Compiles the CUDA backend for GPUs, where a CUDA compiler is; warnings, and register spills of the hot kernels, are
# errors. No GPU is needed. The default is sm_90a alone; PYDLX_CUDA_ARCHITECTURES="80;90a" is what a release is built for
# (machine code of sm_80, PTX that newer GPUs translate, machine code of sm_90a).
# Usage: [PYDLX_CUDA_ARCHITECTURES=...] tools/compile_cuda.sh VENV/bin/python
set -euo pipefail
cd "$(dirname "$0")/.."
python=$PWD/$1
command -v nvcc >/dev/null || { echo "no nvcc: the CUDA backend is not compiled"; exit 0; }
"$python" -m pip install --quiet --disable-pip-version-check pybind11 'cmake>=3.24' ninja
PATH="$("$python" -c 'import sysconfig; print(sysconfig.get_path("scripts"))'):$PATH"
cmake -S . -B build/cuda -G Ninja -DPython_EXECUTABLE="$python" -DPYDLX_BLAS=none -DPYDLX_CPU_PATHS=generic -DPYDLX_WERROR=ON \
  -DPYDLX_CUDA=ON -DPYDLX_CUDA_ARCHITECTURES="${PYDLX_CUDA_ARCHITECTURES:-90a-real}" >/dev/null
cmake --build build/cuda -j "$(nproc)" --target pydlx_cuda
