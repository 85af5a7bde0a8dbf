#!/usr/bin/env bash
# Everything on a machine with a GPU, from a bare checkout and without a network: build, tests on the device, memory
# checker, benchmarks beside PyTorch. Usage: tools/gpu_check.sh [PYTHON]
#
# The Python at hand brings pybind11, scikit-build-core, cmake, ninja, numpy, pytest, hypothesis and torch; WHEELS=FOLDER
# gives a folder of wheels for what is missing. Results: bench/results/gpu.json and gpu.txt; tests.json and logs in
# build/gpu, or in RESULTS=FOLDER, which gets everything. STEPS="build test sanitize bench" chooses parts; none of them
# stops the others, and each has a limit in seconds: BUILD_LIMIT, TEST_LIMIT, SANITIZE_LIMIT, BENCH_LIMIT.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3}
steps=${STEPS:-build test sanitize bench}
root=$PWD
out=$root/build/gpu
site=$out/site
jobs=$(nproc)
mkdir -p "$out"
[[ -z ${RESULTS:-} ]] || { mkdir -p "$RESULTS" && RESULTS=$(cd "$RESULTS" && pwd); }
# Where toolkits are that nobody has put on the path.
for folder in /usr/local/cuda/bin /usr/local/cuda-*/bin /usr/local/cuda/compute-sanitizer; do
  [[ ! -d $folder ]] || PATH=$PATH:$folder
done
status=0
begin=$SECONDS
say() { printf '%4d s  %s\n' $((SECONDS - begin)) "$*"; }
keep() { [[ -z ${RESULTS:-} ]] || (cd "$out" && cp -f ./*.log ./*.txt ./*.json ./*.journal "$RESULTS" 2>/dev/null); }
# part NAME LIMIT COMMAND...: runs a part, shows the end of its log, and remembers a failure. The interrupt that ends it
# lets Python keep what it has, though a shell in the background would have it ignored.
heeding=()
! env --default-signal=INT true 2>/dev/null || heeding=(env --default-signal=INT)
part() {
  local name=$1 limit=$2 failed=0
  shift 2
  say "$name"
  timeout --signal=INT --kill-after=20 "$limit" "${heeding[@]}" "$@" >"$out/$name.log" 2>&1 || failed=$?
  if [[ $failed != 0 ]]; then
    status=1
    say "$name FAILED with status $failed ($out/$name.log)"
    grep -E '^(FAILED|ERROR)|Error|error:' "$out/$name.log" | head -n 40
  fi
  tail -n "${SHOWN:-$((failed ? 15 : 3))}" "$out/$name.log"
  keep # whatever happens to the parts after it
  return "$failed"
}
nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm,clocks.mem --format=csv | tee "$out/machine.txt" || true
if [[ -n ${WHEELS:-} ]]; then
  "$python" -m pip install --quiet --no-index --no-deps --target "$out/wheels" "$WHEELS"/*.whl && export PYTHONPATH=$out/wheels PATH=$out/wheels/bin:$PATH
fi
for package in pybind11 scikit_build_core cmake ninja numpy pytest hypothesis; do
  "$python" -c "import $package" 2>/dev/null || say "missing Python package: $package (WHEELS=FOLDER gives one)"
done

if [[ $steps == *build* ]]; then
  rm -rf "$site"
  PYDLX_CUDA=ON PYDLX_BLAS=auto CMAKE_BUILD_PARALLEL_LEVEL=$jobs \
    part build "${BUILD_LIMIT:-500}" "$python" -m pip install --no-build-isolation --no-deps --no-index --disable-pip-version-check --target "$site" -v .
  grep -E 'spill|warning|Potential Performance' "$out/build.log" | sed 's/^ *//' | sort | uniq -c | sort -rn >"$out/warnings.txt"
fi
export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH} HYPOTHESIS_STORAGE_DIRECTORY=$out/hypothesis
cd "$out" || exit 1 # so that the checkout's pydlx/, which has no extension, is not found first
"$python" -c 'import pydlx; print("pydlx", pydlx.__version__, pydlx.__file__, pydlx.cuda.get_device_properties())' || exit 1

# tests NAME LIMIT OPTIONS... FILES: every file in processes of its own, see tools/gpu_tests.py.
tests() {
  local name=$1 limit=$2
  shift 2
  SHOWN=500 OMP_NUM_THREADS=2 part "$name" "$((limit + 30))" "$python" "$root/tools/gpu_tests.py" "$out" "$limit" "$@"
}
if [[ $steps == *test* ]]; then
  limit=${TEST_LIMIT:-500}
  # Those whose kernels wait for barriers of their own go first and alone: the products of sm_90a, and recurrent layers
  # whose blocks wait for each other. If one of them fails, everything else is tested and measured without it.
  without_wgmma() { say "from here on PYDLX_CUDA_WGMMA=0" && export PYDLX_CUDA_WGMMA=0; }
  tests test-pairs "$((limit / 6))" --alone tests/test_cuda_hopper.py
  if [[ $? == 1 ]]; then
    for file in tests.json test_cuda_hopper.log test_cuda_hopper.journal; do
      cp -f "$out/$file" "$out/pairs-$file" 2>/dev/null # the next run writes its own
    done
    say "from here on PYDLX_CUDA_CLUSTER=0" && export PYDLX_CUDA_CLUSTER=0
    tests test-hopper "$((limit / 6))" --alone tests/test_cuda_hopper.py
    [[ $? != 1 ]] || without_wgmma
  fi
  tests test-wgmma "$((limit / 6))" --alone tests/test_cuda_attention.py tests/test_cuda_conv_hopper.py
  [[ $? != 1 ]] || without_wgmma
  tests test-rnn "$((limit / 6))" --alone tests/test_cuda_rnn.py
  [[ $? != 1 ]] || { say "from here on PYDLX_CUDA_PERSISTENT=0" && export PYDLX_CUDA_PERSISTENT=0; }
  others=(tests/test_cuda_ops.py/6 tests/test_amp.py)
  for file in "$root"/tests/test_cuda*.py; do
    case $file in
      *_hopper.py | *_attention.py | *_rnn.py | *_ops.py) ;;
      *) others+=("tests/${file##*/}") ;;
    esac
  done
  tests test-cuda "$((limit / 3))" "${others[@]}"
fi
if [[ $steps == *sanitize* ]]; then
  if command -v compute-sanitizer >/dev/null; then
    limit=${SANITIZE_LIMIT:-400}
    subset=${SANITIZE:-"values and float32 and (sum or matmul or softmax or norm or conv2d or cat or gather or sort or embedding or cross_entropy)"}
    # check NAME TOOL FILE SUBSET: all at a time, because most of it is the processor's work.
    waiting=()
    check() {
      part "$1" "$limit" compute-sanitizer --tool "$2" --error-exitcode 9 "$python" -m pytest -q -p no:cacheprovider -p no:xdist \
        --rootdir "$root" -c "$root/pyproject.toml" "$root/tests/test_cuda_$3.py" -k "$4" >"$out/$1.said" 2>&1 &
      waiting+=($!)
    }
    export OMP_NUM_THREADS=2
    check memcheck memcheck ops "$subset"
    check memcheck-hopper memcheck hopper "batches or split or beside"
    check memcheck-attention memcheck attention "tiles_behind or tiles_with_large"
    check memcheck-rnn memcheck rnn "float64 and lstm and (lengths or panels)"
    check racecheck racecheck ops "values and float32 and (sum/ or matmul/2d or softmax/ or layer_norm)"
    check synccheck synccheck hopper "batches or split or beside"
    for process in "${waiting[@]}"; do wait "$process" || status=1; done
    unset OMP_NUM_THREADS
    cat "$out"/*.said
  else
    say "no compute-sanitizer: no memory checks"
  fi
fi
if [[ $steps == *bench* ]]; then
  peer=torch
  "$python" -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null || peer=none
  part bench "${BENCH_LIMIT:-300}" "$python" -m pydlx.cli bench ${FAMILY:-} --device cuda --peer "$peer" --seconds "${SECONDS_PER_ROW:-0.1}" --json gpu.json
  mkdir -p "$root/bench/results"
  cp bench.log "$root/bench/results/gpu.txt"
  [[ ! -f gpu.json ]] || cp gpu.json "$root/bench/results/gpu.json"
fi
keep
say "done, status $status"
exit "$status"
