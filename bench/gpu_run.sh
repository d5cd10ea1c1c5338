#!/usr/bin/env bash
# Run every check and measurement that needs a GPU; see gpu/run.py. Installs nothing.
#   bench/gpu_run.sh FOLDER [--data DIR] [--package PACKAGE.prn] [--pycuda SDIST]
# What `make gpu-kit` has put into .build/gpu-kit is used where it is there.
set -euo pipefail
folder=$(realpath -m "${1:?usage: bench/gpu_run.sh FOLDER}")
shift
root=$(cd "$(dirname "$0")/.." && pwd)
# The package as setup.py lays it out, and the tests beside it, without installing anything.
packages=$(mktemp -d)
trap 'rm -rf "$packages"' EXIT
mkdir "$packages/prn_fast"
ln -s "$root"/prn_fast/* "$packages/prn_fast/"
ln -s "$root/kernels" "$root/build" "$root/bench" "$packages/prn_fast/"
ln -s "$root/tests" "$packages/tests"
export PYTHONPATH="$packages${PYTHONPATH:+:$PYTHONPATH}" PRN_FAST_TESTS="$packages"
export PRN_FAST_COMMIT="${PRN_FAST_COMMIT:-$(git -C "$root" describe --always --dirty --abbrev=12 --exclude='*' 2>/dev/null || true)}"
export PRN_FAST_CALLED_FROM="$PWD" PRN_FAST_STARTED="$(date +%s)"
unset TRITON_INTERPRET
kit=$(realpath -m "${PRN_FAST_GPU_KIT:-$root/.build/gpu-kit}") python=${PYTHON:-python3} data=()
# A path, not a name that the shell looks up, starts where this was called.
[[ $python != */* ]] || python=$(realpath -s "$python")
cd "$packages"
if [ -e "$kit/kit.json" ]; then
  # Sets the variables below, and none where the kit is for another Python or Triton.
  eval "$("$python" -m prn_fast.bench.gpu.kit unpack "$kit" "$packages/kit")"
  export TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-} PRN_FAST_BACKBONE_WEIGHTS=${PRN_FAST_BACKBONE_WEIGHTS:-}
  [ -n "$TRITON_CACHE_DIR" ] || unset TRITON_CACHE_DIR
  # After the project, before what is installed.
  [ -z "${KIT_SITE:-}" ] || export PYTHONPATH="$PYTHONPATH:$KIT_SITE"
  [ -z "${KIT_DATA:-}" ] || data=(--data "$KIT_DATA")
fi
timeout 590 "$python" -m prn_fast.bench.gpu.run "$folder" "${data[@]}" "$@"
