#!/usr/bin/env bash
# One machine with NVIDIA GPUs: one process drives all of them.
set -euo pipefail

usage() {
  cat <<'USAGE'
usage: launch/gpu.sh [-g GPUS] [-c FOLDER] -- FLAGS OF hbi_jax.main

  -g GPUS    which GPUs, such as 0,1                   (or CUDA_VISIBLE_DEVICES; else all)
  -c FOLDER  keeps compiled programs for the next run  (or JAX_COMPILATION_CACHE_DIR; else nowhere)
  -h         this text

PYTHON names the interpreter (else python3). Stops at once where JAX sees no GPU, and never falls back to the CPU.
USAGE
}

fail() {
  echo "error: $1" >&2
  exit 2
}

python=${PYTHON:-python3}
while getopts ':g:c:h' option; do
  case $option in
    g) export CUDA_VISIBLE_DEVICES=$OPTARG ;;
    c) export JAX_COMPILATION_CACHE_DIR=$OPTARG ;;
    h) usage && exit 0 ;;
    :) fail "-$OPTARG needs a value" ;;
    *) fail "unknown option -$OPTARG; launch/gpu.sh -h lists them" ;;
  esac
done
shift $((OPTIND - 1))

[ $# -gt 0 ] || fail "nothing to run; give the flags of hbi_jax.main after --"
command -v "$python" >/dev/null || fail "$python is not on PATH; set PYTHON"

export JAX_PLATFORMS=cuda
if ! reason=$("$python" -c 'import jax; print(len(jax.devices()), "x", jax.devices()[0].device_kind)' 2>&1); then
  fail "JAX sees no GPU (${reason##*$'\n'}); look at nvidia-smi and install with: pip install '.[cuda]'"
fi
echo "GPUs: $reason" >&2
exec "$python" -m hbi_jax.main "$@"
