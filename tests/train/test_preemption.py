"""Stopping a group of processes: the one that is asked tells the others, and all stop at one step."""

import os
import pathlib
import socket
import subprocess
import sys

PROGRAM = """
import os, signal, sys, time
import jax
jax.config.update("jax_platforms", "cpu")
jax.distributed.initialize(f"127.0.0.1:{sys.argv[1]}", num_processes=2, process_id=int(sys.argv[2]))
from hbi_jax.train.preemption import StopRequest
with StopRequest() as request:
    for step in range(1, 200):
        if step == 3 and jax.process_index() == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        if request.at(step):
            print("stopped at", step, request.exit_code)
            break
        time.sleep(0.1)
"""


def test_one_of_two_processes_is_asked_and_both_stop():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    # Programs of several devices are not shared, see tests/compilation.py.
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, port, str(number)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=pathlib.Path(__file__).parents[2],
        )
        for number in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    answers = [out.split() for out, _ in outputs]
    assert answers[0][:2] == ["stopped", "at"], outputs
    assert answers[0] == answers[1], outputs
    assert int(answers[0][2]) < 199
    assert answers[0][3] == str(128 + 15)
