#!/usr/bin/env bash
# Builds the extension with AddressSanitizer and UndefinedBehaviorSanitizer into build/sanitize and runs a command against it.
# Usage: tools/sanitize.sh VENV/bin/pytest ARGUMENTS...
set -euo pipefail
cd "$(dirname "$0")/.."
command=$PWD/$1
shift
python=$(dirname "$command")/python
tree=$PWD/build/sanitize
"$python" -m pip install --quiet --disable-pip-version-check pybind11 scipy-openblas32 'cmake>=3.24' ninja
bin=$("$python" -c 'import sysconfig; print(sysconfig.get_path("scripts"))')
export PATH="$bin:$PATH"
# The emulated CUDA backend is in it, so that its tests run in CI; its kernels themselves are checked for alignment only.
# One instruction set bounds the build time: the widest one that this machine runs. PYDLX_CPU_PATHS="generic;avx2;avx512"
# builds all. -O1 keeps stack traces readable.
widest=generic
grep -qw avx2 /proc/cpuinfo && grep -qw bmi2 /proc/cpuinfo && grep -qw fma /proc/cpuinfo && widest=avx2
grep -qw avx512vl /proc/cpuinfo && grep -qw avx512bw /proc/cpuinfo && widest=avx512
cmake -S . -B "$tree" -G Ninja -DPython_EXECUTABLE="$python" -DCMAKE_BUILD_TYPE=RelWithDebInfo \
  -DCMAKE_CXX_FLAGS_RELWITHDEBINFO="-O1 -g1" -DPYDLX_SANITIZE=address,undefined -DPYDLX_CUDA=EMULATE \
  -DPYDLX_CPU_PATHS="${PYDLX_CPU_PATHS:-$widest}" >/dev/null
cmake --build "$tree" -j "$(nproc)"
rm -rf "$tree/package"
mkdir -p "$tree/package"
cp -r pydlx "$tree/package/pydlx"
rm -f "$tree"/package/pydlx/_C*.so
cp "$tree"/_C*.so "$tree/package/pydlx/"
mkdir -p "$tree/package/pydlx/lib"
cp "$("$python" -c 'import scipy_openblas32 as s; print(s.get_lib_dir())')"/lib*.so* "$tree/package/pydlx/lib/"
# Leaks are not reported: the interpreter and PyTorch keep memory until exit by design. PyTorch itself is not instrumented.
export LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so) $(gcc -print-file-name=libstdc++.so.6)"
export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:abort_on_error=0 UBSAN_OPTIONS="${UBSAN_OPTIONS:-halt_on_error=1:print_stacktrace=1}"
export PYTHONMALLOC=malloc PYDLX_NO_CACHING=1 PYTHONPATH="$tree/package"
# pytest must not capture file descriptors: a report is written straight to standard error before the process ends.
exec "$command" "$@" -p no:cacheprovider --capture=sys
