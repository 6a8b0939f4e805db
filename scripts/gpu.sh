#!/usr/bin/env bash
# Builds, tests and measures the CUDA module on this machine's GPU: scripts/gpu.sh <folder for results>. Needs nvcc, CMake and
# a C++17 compiler. Where Node and a built addon are, calls from JavaScript are checked too; where python3 has PyTorch, that is
# measured beside. Every step has a limit, so that all of them fit into nine minutes; a step that fails or takes longer is
# named, and the others run nevertheless.
#
#   LOWBIT_GPU_NODE=<program>     Node, where it is not on the PATH
#   LOWBIT_GPU_BUILD=<folder>     where to build (default build-gpu)
#   LOWBIT_GPU_PREBUILT=1         what is in that folder is used as it is
#   LOWBIT_GPU_ARCHITECTURES=…    default: that of the first device alone, which is quick to build
#   LOWBIT_GPU_PATIENCE=<n>       limits that are n times as long
set -uo pipefail
cd "$(dirname "$0")/.."

if [ $# -ne 1 ]; then
  echo "usage: scripts/gpu.sh <folder for results>" >&2
  exit 2
fi
mkdir -p "$1" || exit 2
out=$(cd "$1" && pwd)
build=${LOWBIT_GPU_BUILD:-build-gpu}
patience=${LOWBIT_GPU_PATIENCE:-1}
failed=0
: >"$out/summary.txt"

# step <name> <seconds> <file> <command …>: runs it with a limit; its output goes to the file.
step() {
  local name=$1 limit=$(($2 * patience)) file=$out/$3 begin=$SECONDS status verdict
  shift 3
  timeout --kill-after=5 "$limit" "$@" >"$file" 2>"$file.errors"
  status=$?
  case $status in
  0) verdict=ok ;;
  124 | 137) verdict="TOO LONG (limit $limit s)" ;;
  *) verdict="FAILED (status $status)" ;;
  esac
  [ "$status" = 0 ] || failed=1
  [ -s "$file.errors" ] || rm -f "$file.errors"
  echo "$name: $verdict, $((SECONDS - begin)) s" | tee -a "$out/summary.txt"
  return "$status"
}

skip() { echo "$1: skipped, $2" | tee -a "$out/summary.txt"; }

architectures=${LOWBIT_GPU_ARCHITECTURES:-}
if [ -z "$architectures" ]; then
  capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -1 | tr -d ' .')
  case $capability in
  90 | "") architectures=90a-real ;; # 90a: the products of whole warp groups
  *) architectures=$capability-real ;;
  esac
fi

{
  nvidia-smi 2>&1
  nvcc --version 2>&1 | tail -2
  cmake --version 2>&1 | head -1
  echo "architectures: $architectures"
  python3 -c 'import torch; assert torch.cuda.is_available(); print("PyTorch", torch.__version__)' 2>/dev/null
} >"$out/machine.txt"

compile() {
  local ninja=()
  command -v ninja >/dev/null && ninja=(-G Ninja)
  cmake -S . -B "$build" "${ninja[@]}" -DCMAKE_BUILD_TYPE=Release -DLOWBIT_BUILD_ADDON=OFF -DLOWBIT_BUILD_TESTS=ON \
    -DLOWBIT_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES="$architectures" &&
    cmake --build "$build" --parallel "$(nproc)" --target lowbit_cuda lowbit_cuda_test lowbit_cuda_bench lowbit_cuda_gptq_bench
}
if [ -n "${LOWBIT_GPU_PREBUILT:-}" ]; then
  skip build "$build is used as it is"
else
  export -f compile
  export build architectures
  step build 150 build.txt bash -c compile || tail -30 "$out/build.txt" "$out/build.txt.errors" 2>/dev/null
fi
if [ ! -x "$build/lowbit_cuda_test" ] || [ ! -e "$build/lowbit_cuda.so" ]; then
  echo "Nothing was built in $build: see $out/build.txt." | tee -a "$out/summary.txt"
  exit 1
fi
export LOWBIT_CUDA_MODULE="$PWD/$build/lowbit_cuda.so"

step tests 90 tests.txt "$build/lowbit_cuda_test"
tail -1 "$out/tests.txt"
if grep -q '^PyTorch' "$out/machine.txt"; then
  step PyTorch 50 peers.tsv python3 bench/peers/pytorch.py
else
  skip PyTorch "python3 has none that sees the GPU"
fi
step bench 95 bench.md "$build/lowbit_cuda_bench" --peers="$out/peers.tsv"
step "bench of GPTQ" 30 bench-gptq.md "$build/lowbit_cuda_gptq_bench"

node=${LOWBIT_GPU_NODE:-$(command -v node)}
if [ -z "$node" ]; then
  skip "calls from JavaScript" "there is no Node: LOWBIT_GPU_NODE names one"
elif [ ! -e build/Release/lowbit.node ] || [ ! -e dist/index.js ]; then
  skip "calls from JavaScript" "the addon has not been built"
else
  step "calls from JavaScript" 40 node.txt "$node" test/runtimes/device.cjs
  tail -1 "$out/node.txt"
fi

sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
if [ -z "$sanitizer" ]; then
  skip compute-sanitizer "it is not installed"
else
  export LOWBIT_TEST_QUICK=1
  step "compute-sanitizer memcheck" 50 memcheck.txt "$sanitizer" --tool memcheck --error-exitcode 9 "$build/lowbit_cuda_test"
  # All of them take longer than nine minutes leave.
  parts=(linear)
  [ "$patience" -gt 1 ] && parts+=(gram gptq affine blocks codebook fake integer)
  for part in "${parts[@]}"; do
    step "compute-sanitizer racecheck, $part" 30 "racecheck-$part.txt" "$sanitizer" --tool racecheck --error-exitcode 9 "$build/lowbit_cuda_test" "$part"
  done
  [ "$patience" -gt 1 ] && step "compute-sanitizer synccheck" 30 synccheck.txt "$sanitizer" --tool synccheck --error-exitcode 9 "$build/lowbit_cuda_test"
fi

exit $failed
