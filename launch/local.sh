#!/usr/bin/env bash
# One training job as several processes of this machine, each with simulated CPU devices: what a job on several
# machines does, to be tried and debugged without them.
set -euo pipefail

usage() {
  cat <<'USAGE'
usage: launch/local.sh [-n PROCESSES] [-d DEVICES] [-l PORT] -- FLAGS OF hbi_jax.main

  -n PROCESSES  how many processes                (or NUM_PROCESSES; else 2)
  -d DEVICES    simulated CPU devices of each     (or NUM_DEVICES; else 2)
  -l PORT       where process 0 listens           (or PORT; else 12355)
  -h            this text

PYTHON names the interpreter (else python3). Each line of output begins with the number of its process.
The batch size has to be a multiple of PROCESSES x DEVICES. SIGTERM and Ctrl-C reach every process; where one
fails the others are stopped, and its exit code is the script's.
USAGE
}

fail() {
  echo "error: $1" >&2
  exit 2
}

processes=${NUM_PROCESSES:-2}
devices=${NUM_DEVICES:-2}
port=${PORT:-12355}
python=${PYTHON:-python3}
while getopts ':n:d:l:h' option; do
  case $option in
    n) processes=$OPTARG ;;
    d) devices=$OPTARG ;;
    l) port=$OPTARG ;;
    h) usage && exit 0 ;;
    :) fail "-$OPTARG needs a value" ;;
    *) fail "unknown option -$OPTARG; launch/local.sh -h lists them" ;;
  esac
done
shift $((OPTIND - 1))

for count in "$processes" "$devices" "$port"; do
  case $count in
    '' | *[!0-9]* | 0) fail "wanted positive whole numbers of processes, devices and the port; got '$count'" ;;
  esac
done
[ $# -gt 0 ] || fail "nothing to run; give the flags of hbi_jax.main after --"
command -v "$python" >/dev/null || fail "$python is not on PATH; set PYTHON"

export JAX_PLATFORMS=cpu
export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=$devices"

scratch=$(mktemp -d)
# A child that is ended before it has become its command would run the trap too.
trap '[ "${BASHPID:-$$}" != "$$" ] || rm -rf "$scratch"' EXIT

label() {
  while IFS= read -r line; do printf '[%s] %s\n' "$1" "$line"; done
}

pids=() labels=()
for ((id = 0; id < processes; id++)); do
  mkfifo "$scratch/$id"
  label "$id" <"$scratch/$id" &
  labels+=($!)
  "$python" -m hbi_jax.main --multihost "--coordinator=127.0.0.1:$port" "--num_processes=$processes" \
    "--process_id=$id" "$@" >"$scratch/$id" 2>&1 &
  pids+=($!)
done

asked=no
trap 'asked=yes; kill -TERM "${pids[@]}" 2>/dev/null || true' TERM INT

# Looked at in turn: where one fails, the others wait for it in vain, some of them deaf to SIGTERM.
status=0 deadline=0
running=("${pids[@]}")
while [ ${#running[@]} -gt 0 ]; do
  left=()
  for pid in "${running[@]}"; do
    if kill -0 "$pid" 2>/dev/null; then
      left+=("$pid")
      continue
    fi
    code=0
    wait "$pid" || code=$?
    [ "$status" -ne 0 ] || status=$code
  done
  running=(${left[@]+"${left[@]}"})
  [ ${#running[@]} -gt 0 ] || break
  if [ "$status" -ne 0 ] && [ "$asked" = no ]; then
    if [ "$deadline" -eq 0 ]; then
      deadline=$((SECONDS + 20))
      kill -TERM "${running[@]}" 2>/dev/null || true
    elif [ "$SECONDS" -ge "$deadline" ]; then
      kill -KILL "${running[@]}" 2>/dev/null || true
    fi
  fi
  sleep 0.2
done
# A process that was ended before it opened its pipe has left the reader of the pipe waiting.
for ((id = 0; id < processes; id++)); do : <>"$scratch/$id"; done
wait "${labels[@]}"
exit "$status"
