#!/usr/bin/env bash
# Everything on a machine with a GPU, from a bare checkout and without a network: build, tests on the device, memory
# checker, benchmarks beside PyTorch. Usage: tools/gpu_check.sh [PYTHON]
#
# The Python at hand brings pybind11, scikit-build-core, cmake, ninja, numpy, pytest, hypothesis and torch; WHEELS=FOLDER
# gives a folder of wheels for what is missing. Results: bench/results/gpu.json and gpu.txt, logs in build/gpu.
# STEPS="build test sanitize bench" chooses parts.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3}
steps=${STEPS:-build test sanitize bench}
out=build/gpu
site=$PWD/$out/site
jobs=$(nproc)
mkdir -p "$out"
status=0
begin=$SECONDS
say() { printf '%4d s  %s\n' $((SECONDS - begin)) "$*"; }
# part NAME LIMIT COMMAND...: runs a part, shows the end of its log, and remembers a failure.
part() {
  local name=$1 limit=$2
  shift 2
  say "$name"
  if timeout --signal=INT --kill-after=20 "$limit" "$@" >"$out/$name.log" 2>&1; then
    tail -n 3 "$out/$name.log"
  else
    status=1
    say "$name FAILED ($out/$name.log)"
    grep -E '^(FAILED|ERROR)|Error|error:' "$out/$name.log" | head -n 40
    tail -n 15 "$out/$name.log"
  fi
}

nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm,clocks.mem --format=csv | tee "$out/machine.txt" || true
if [[ -n ${WHEELS:-} ]]; then
  "$python" -m pip install --quiet --no-index --no-deps --target "$out/wheels" "$WHEELS"/*.whl && export PYTHONPATH=$PWD/$out/wheels
fi
for package in pybind11 scikit_build_core cmake ninja numpy pytest hypothesis; do
  "$python" -c "import $package" 2>/dev/null || say "missing Python package: $package (WHEELS=FOLDER gives one)"
done

if [[ $steps == *build* ]]; then
  rm -rf "$site"
  PYDLX_CUDA=ON PYDLX_BLAS=auto CMAKE_BUILD_PARALLEL_LEVEL=$jobs \
    part build 400 "$python" -m pip install --no-build-isolation --no-deps --no-index --disable-pip-version-check --target "$site" -v .
  grep -E 'spill|warning' "$out/build.log" | sed 's/^ *//' | sort | uniq -c | sort -rn >"$out/warnings.txt"
fi
export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH} HYPOTHESIS_STORAGE_DIRECTORY=$PWD/$out/hypothesis
cd "$out" || exit 1 # so that the checkout's pydlx/, which has no extension, is not found first
out=.
root=../..
"$python" -c 'import pydlx; print("pydlx", pydlx.__version__, pydlx.__file__, pydlx.cuda.get_device_properties())' || exit 1
workers=(-p no:cacheprovider)
"$python" -c 'import xdist' 2>/dev/null && workers+=(-n "$((jobs < 8 ? jobs : 8))")

if [[ $steps == *test* ]]; then
  # A kernel that hangs or faults takes the process with it. Those that wait for barriers of their own go first and alone: the products of
  # sm_90a, and recurrent layers whose blocks wait for each other. If one fails, everything else is tested and measured without it.
  before=$status
  alone() { # alone FAMILY VARIABLE
    status=0
    part "test-$1" 200 "$python" -m pytest -q -x -rsf --rootdir "$root" -c "$root/pyproject.toml" -p no:cacheprovider "$root/tests/test_cuda_$1.py"
    if [[ $status != 0 ]]; then
      say "from here on $2=0"
      export "$2=0"
      before=$status
    fi
  }
  alone hopper PYDLX_CUDA_WGMMA
  alone rnn PYDLX_CUDA_PERSISTENT
  status=$before
  part test-cuda 400 "$python" -m pytest -q -rsf --rootdir "$root" -c "$root/pyproject.toml" "${workers[@]}" "$root"/tests/test_cuda*.py "$root/tests/test_amp.py"
fi
if [[ $steps == *sanitize* ]] && command -v compute-sanitizer >/dev/null; then
  subset=${SANITIZE:-"values and float32 and (sum or matmul or softmax or norm or conv2d or cat or gather or sort or embedding or cross_entropy)"}
  part memcheck 200 compute-sanitizer --tool memcheck --error-exitcode 9 "$python" -m pytest -q -x -p no:cacheprovider --rootdir "$root" -c "$root/pyproject.toml" "$root/tests/test_cuda_ops.py" -k "$subset"
  PYDLX_VERBOSE=1 part memcheck-hopper 120 compute-sanitizer --tool memcheck --error-exitcode 9 "$python" -m pytest -q -x -p no:cacheprovider --rootdir "$root" -c "$root/pyproject.toml" "$root/tests/test_cuda_hopper.py" -k "batches or split or beside"
  part memcheck-rnn 120 compute-sanitizer --tool memcheck --error-exitcode 9 "$python" -m pytest -q -x -p no:cacheprovider --rootdir "$root" -c "$root/pyproject.toml" "$root/tests/test_cuda_rnn.py" -k "float64 and lstm and (lengths or panels)"
  part racecheck 200 compute-sanitizer --tool racecheck --error-exitcode 9 "$python" -m pytest -q -x -p no:cacheprovider --rootdir "$root" -c "$root/pyproject.toml" "$root/tests/test_cuda_ops.py" -k "values and float32 and (sum/ or matmul/2d or softmax/ or layer_norm)"
fi
if [[ $steps == *bench* ]]; then
  peer=torch
  "$python" -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null || peer=none
  part bench 300 "$python" -m pydlx.cli bench ${FAMILY:-} --device cuda --peer "$peer" --seconds "${SECONDS_PER_ROW:-0.1}" --json gpu.json
  mkdir -p "$root/bench/results"
  [[ -f gpu.json ]] && cp gpu.json "$root/bench/results/gpu.json" && cp bench.log "$root/bench/results/gpu.txt"
fi
say "done, status $status"
exit "$status"
