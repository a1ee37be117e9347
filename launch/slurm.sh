#!/usr/bin/env bash
#SBATCH --job-name=hbi_jax
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=TERM@180
# A Slurm job: one process a node, or one a GPU. Slurm tells every process who the others are.
set -euo pipefail

usage() {
  cat <<'USAGE'
usage: sbatch --nodes=N --gpus-per-node=G [OPTIONS OF sbatch] launch/slurm.sh [-g] -- FLAGS OF hbi_jax.main

  -g  one process a GPU, where decoding needs more processes; else one a node, which drives all of its GPUs
  -h  this text

PYTHON names the interpreter (else python3). --workdir, annotations and videos have to be folders that all nodes share.
Three minutes before the time limit, and when it is preempted, the run saves its state and exits with 143; the job is
then put back into the queue and resumes. Where one process fails, all end within seconds with its exit code, and the
last line of the log is its reason.
USAGE
}

fail() {
  echo "error: $1" >&2
  exit 2
}

python=${PYTHON:-python3}
per=node
while getopts ':gh' option; do
  case $option in
    g) per=gpu ;;
    h) usage && exit 0 ;;
    *) fail "unknown option -$OPTARG; launch/slurm.sh -h lists them" ;;
  esac
done
shift $((OPTIND - 1))

[ $# -gt 0 ] || fail "nothing to run; give the flags of hbi_jax.main after --"
[ -n "${SLURM_JOB_ID:-}" ] || fail "not in a Slurm job; start it with sbatch, see launch/slurm.sh -h"
gpus=${SLURM_GPUS_ON_NODE:-0}
case $gpus in
  *[!0-9]*) fail "wanted a number of GPUs in SLURM_GPUS_ON_NODE, got '$gpus'" ;;
esac

tasks=1
if [ "$per" = gpu ]; then
  [ "$gpus" -gt 0 ] || fail "-g needs GPUs; ask for some with --gpus-per-node"
  tasks=$gpus
elif [ "$gpus" -gt 0 ]; then
  # JAX takes one GPU for each process of Slurm, unless it is told.
  JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((gpus - 1)))
  export JAX_LOCAL_DEVICE_IDS
fi
[ "$gpus" -eq 0 ] || export JAX_PLATFORMS=cuda

# Signals are for the processes: this script waits for them.
trap '' TERM
code=0
srun --kill-on-bad-exit=0 --label "--nodes=${SLURM_JOB_NUM_NODES:-1}" "--ntasks-per-node=$tasks" \
  "$python" -m hbi_jax.main --multihost "$@" || code=$?
if [ "$code" -eq 143 ]; then
  echo "the run saved its state; the job goes back into the queue" >&2
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
