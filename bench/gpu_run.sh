#!/usr/bin/env bash
# Run every check and measurement that needs a GPU; see gpu_run.py. Installs nothing.
#   bench/gpu_run.sh FOLDER [--package PACKAGE.prn] [--pycuda SDIST]
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
export PRN_FAST_CALLED_FROM="$PWD"
unset TRITON_INTERPRET
cd "$packages"
timeout 590 "${PYTHON:-python3}" -m prn_fast.bench.gpu_run "$folder" "$@"
