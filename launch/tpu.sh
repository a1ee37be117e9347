#!/usr/bin/env bash
# Cloud TPU: make a TPU VM, run hbi_jax on all its workers, delete it.
set -euo pipefail

usage() {
  cat <<'USAGE'
usage: launch/tpu.sh create [-n NAME] [-z ZONE] [-p PROJECT] [-t TYPE] [-r RUNTIME] [-s] [-q]
       launch/tpu.sh run    [-n NAME] [-z ZONE] [-p PROJECT] [-k] -- FLAGS OF hbi_jax.main
       launch/tpu.sh watch  [-n NAME] [-z ZONE] [-p PROJECT] [-t TYPE] [-r RUNTIME] [-s] [-q] -- FLAGS OF hbi_jax.main
       launch/tpu.sh delete [-n NAME] [-z ZONE] [-p PROJECT] [-q] [-y]

create   asks for a TPU VM
run      copies this checkout to every worker, installs it there with jax[tpu], and runs
         python -m hbi_jax.main --multihost FLAGS on all workers at once
watch    creates the TPU VM, runs, and does both again whenever the VM is preempted, until the run has written its
         report; asks again for as long as there is no capacity; gives up where the run fails three times on a VM that
         is ready, or gcloud twenty times in a row. --workdir has to outlive the VM.
delete   deletes the TPU VM with everything on its disks

  -n NAME     name of the TPU VM             (or the variable TPU_NAME)
  -z ZONE     its zone, such as us-west4-a   (or ZONE)
  -p PROJECT  the project that pays          (or PROJECT; else what gcloud is set to)
  -t TYPE     accelerator type               (or ACCELERATOR_TYPE; else v5litepod-8)
  -r RUNTIME  software version of the VM     (or RUNTIME_VERSION; else v2-alpha-tpuv5-lite)
  -s          a spot VM: cheaper, and taken back at any time with a SIGTERM
  -q          a queued resource of the same name: waits until there is capacity
  -k          keep what is installed: neither copy nor install
  -y          delete without asking
  -h          this text

With several workers --workdir has to be a folder that all of them share. Where one process fails, all end within
seconds with its exit code, which is that of run; the last line of the output is its reason. A preempted run saves its
state and exits with 143. watch looks at a VM that is not ready, and asks again, every POLL seconds (else 60).
USAGE
}

fail() {
  echo "error: $1" >&2
  exit 2
}

command=${1:-}
case $command in
  create | run | watch | delete) shift ;;
  -h | --help) usage && exit 0 ;;
  *) usage >&2 && fail "wanted create, run, watch or delete; got '$command'" ;;
esac

name=${TPU_NAME:-}
zone=${ZONE:-}
project=${PROJECT:-}
type=${ACCELERATOR_TYPE:-v5litepod-8}
runtime=${RUNTIME_VERSION:-v2-alpha-tpuv5-lite}
poll=${POLL:-60}
spot=no keep=no yes=no queued=no
while getopts ':n:z:p:t:r:sqkyh' option; do
  case $option in
    n) name=$OPTARG ;;
    z) zone=$OPTARG ;;
    p) project=$OPTARG ;;
    t) type=$OPTARG ;;
    r) runtime=$OPTARG ;;
    s) spot=yes ;;
    q) queued=yes ;;
    k) keep=yes ;;
    y) yes=yes ;;
    h) usage && exit 0 ;;
    :) fail "-$OPTARG needs a value" ;;
    *) fail "unknown option -$OPTARG; launch/tpu.sh -h lists them" ;;
  esac
done
shift $((OPTIND - 1))

[ -n "$name" ] || fail "no name of a TPU VM; give -n NAME or set TPU_NAME"
[ -n "$zone" ] || fail "no zone; give -z ZONE or set ZONE"
[ "$command" = run ] || [ "$command" = watch ] || [ $# -eq 0 ] || fail "unexpected argument '$1'"
command -v gcloud >/dev/null || fail "gcloud is not installed, or not on PATH"

where=("--zone=$zone")
[ -z "$project" ] || where+=("--project=$project")

create() {
  local kind=tpu-vm options=("--accelerator-type=$type" "--version=$runtime")
  if [ "$queued" = yes ]; then
    kind=queued-resources options=("--node-id=$name" "--accelerator-type=$type" "--runtime-version=$runtime")
  fi
  [ "$spot" = no ] || options+=(--spot)
  gcloud compute tpus "$kind" create "$name" "${where[@]}" "${options[@]}"
}

# In one word: ready, waiting, gone (preempted, and to be deleted before it is created again), none, or unknown.
state() {
  local found kind=tpu-vm field=state
  [ "$queued" = no ] || kind=queued-resources field=state.state
  if ! found=$(gcloud compute tpus "$kind" describe "$name" "${where[@]}" "--format=value($field)" 2>&1); then
    case $found in
      *NOT_FOUND*) echo none ;;
      *) echo "$found" >&2 && echo unknown ;;
    esac
    return
  fi
  # gcloud may say something else before or after the state.
  case $(grep -xE '[A-Z_]+' <<<"$found" | tail -n 1) in
    READY | ACTIVE) echo ready ;;
    PREEMPTED | TERMINATED | STOPPED | SUSPENDED | FAILED) echo gone ;;
    *) echo waiting ;;
  esac
}

on_all_workers() {
  gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker=all "--command=$1"
}

# The images' own Python may be older than 3.11, so uv brings one along; newer images let pip install uv only if told
# to. The versions are those that are tested.
INSTALL='set -eu
mkdir -p "$HOME/hbi_jax"
tar -xzf "$HOME/hbi_jax.tgz" -C "$HOME/hbi_jax"
PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user uv
uv="python3 -m uv"
$uv venv --quiet --allow-existing --python 3.12 "$HOME/hbi_jax/.venv"
$uv pip install --quiet --python "$HOME/hbi_jax/.venv/bin/python" \
  --constraints "$HOME/hbi_jax/requirements.txt" "$HOME/hbi_jax[tpu]"'

copy_and_install() {
  local checkout archive
  checkout=$(cd "$(dirname "$0")/.." && pwd)
  scratch=$(mktemp -d)
  trap '[ "${BASHPID:-$$}" != "$$" ] || rm -rf "$scratch"' EXIT
  archive=$scratch/hbi_jax.tgz
  tar -czf "$archive" -C "$checkout" --exclude=__pycache__ \
    hbi_jax configs setup.py pyproject.toml requirements.txt requirements-dev.txt MANIFEST.in README.md LICENSE
  gcloud compute tpus tpu-vm scp "$archive" "$name:hbi_jax.tgz" "${where[@]}" --worker=all
  on_all_workers "$INSTALL"
}

run() {
  [ $# -gt 0 ] || fail "nothing to run; give the flags of hbi_jax.main after --"
  [ "$keep" = yes ] || copy_and_install
  # Quoted, so that every flag reaches the workers as it was given here.
  on_all_workers "cd \"\$HOME/hbi_jax\" && exec .venv/bin/python -m hbi_jax.main --multihost $(printf '%q ' "$@")"
}

delete() {
  local kind=tpu-vm options=()
  [ "$queued" = no ] || kind=queued-resources options=(--force)
  [ "$yes" = no ] || options+=(--quiet)
  gcloud compute tpus "$kind" delete "$name" "${where[@]}" ${options[@]+"${options[@]}"}
}

workdir_of() {
  while [ $# -gt 0 ]; do
    case $1 in
      --workdir=*) printf '%s' "${1#--workdir=}" && return ;;
      --workdir) printf '%s' "${2:-}" && return ;;
    esac
    shift
  done
}

# Waits before the next try; ends the watch after the 20th failure of gcloud in a row, as the network may fail a while.
again() {
  local failed=$1 what=$2
  if [ "$failed" -ge 20 ]; then
    echo "error: $what 20 times; see above" >&2
    exit 1
  fi
  sleep "$poll"
}

watch() {
  local workdir code now answer seen=no failures=0 unknown=0 refused=0
  [ $# -gt 0 ] || fail "nothing to run; give the flags of hbi_jax.main after --"
  workdir=$(workdir_of "$@")
  case $workdir in
    /*) ;;
    *) fail "wanted --workdir with an absolute path, which outlives the VM; got '$workdir'" ;;
  esac
  yes=yes
  while true; do
    now=$(state)
    [ "$now" = unknown ] || unknown=0
    case $now in
      unknown) again $((unknown += 1)) "the state of $name could not be read" ;;
      none)
        echo "creating $name" >&2
        keep=no code=0
        answer=$(create 2>&1 | tee /dev/stderr) || code=$?
        case $code:$answer in
          0:*) ;;
          *[Cc]apacity* | *"enough resources"* | *RESOURCE_POOL_EXHAUSTED*)
            # After a preemption this is the usual answer, and may be for hours.
            echo "there is no capacity for $name now; asking again in $poll s" >&2
            refused=0
            sleep "$poll"
            ;;
          *)
            # What gcloud never granted, it will not grant later: a wrong type, or without permission.
            [ "$seen" = yes ] || fail "$name could not be created; see above"
            again $((refused += 1)) "$name could not be created"
            ;;
        esac
        ;;
      gone)
        echo "$name was taken back: deleting it, to create it again" >&2
        keep=no seen=yes
        delete || again $((refused += 1)) "$name could not be deleted"
        ;;
      waiting)
        seen=yes refused=0
        sleep "$poll"
        ;;
      ready)
        seen=yes refused=0 code=0
        # As a program of its own: a failing command must not end the watch.
        run_apart "$@" || code=$?
        if [ "$code" -eq 0 ] && on_all_workers "test -s $(printf '%q' "$workdir")/report.json"; then
          echo "the report is in $workdir" >&2
          return 0
        fi
        # A VM that is taken back answers for a while.
        sleep "$poll"
        if [ "$(state)" = ready ] && [ "$code" -ne 143 ]; then
          failures=$((failures + 1))
          [ "$code" -ne 0 ] || echo "the run ended, but there is no report in $workdir" >&2
          if [ "$failures" -ge 3 ]; then
            echo "error: the run failed 3 times, now with code $code; see above" >&2
            return $((code ? code : 1))
          fi
          echo "the run ended with code $code; once more" >&2
        fi
        ;;
    esac
  done
}

run_apart() {
  local options=(-n "$name" -z "$zone")
  [ -z "$project" ] || options+=(-p "$project")
  [ "$keep" = no ] || options+=(-k)
  "$BASH" "${BASH_SOURCE[0]}" run "${options[@]}" -- "$@"
}

"$command" "$@"
