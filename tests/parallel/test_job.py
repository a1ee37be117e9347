"""A job that fails: who says what, in which order, and with which exit code. Real processes, without devices."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import textwrap
from typing import Any

import pytest

# Imports the library once, and forks the processes of every scenario. Their outputs go to one pipe, in order.
PROGRAM = '''
import json, os, signal, sys, time
from hbi_jax.parallel import job

class Store:
    """The key-value store of JAX's coordinator, as a file."""

    def __init__(self, path):
        self.path = path

    def key_value_set(self, key, value):
        with open(self.path + ".new", "w") as file:
            file.write(value)
        os.rename(self.path + ".new", self.path)

    def blocking_key_value_get(self, key, timeout):
        while not os.path.exists(self.path):
            time.sleep(0.01)
        return open(self.path).read()

def ready(folder, index):
    """Waits until all three have joined."""
    open(f"{folder}/ready-{index}", "w").close()
    while not all(os.path.exists(f"{folder}/ready-{other}") for other in range(3)):
        time.sleep(0.01)
    time.sleep(0.1)

def scenario(name, index):
    if name == "a reason":
        if index == 1:
            raise ValueError("config.x=1: wanted 2; change it")
        time.sleep(60)
    if name in ("process 0 fails", "process 0 fails early"):
        if index == 0:
            raise OSError("disk full")
        time.sleep(60)
    if name == "a collective breaks first":
        if index == 1:
            time.sleep(0.5)
            raise ValueError("the cause")
        # What a process sees that waits for one that fails; the news comes later.
        raise RuntimeError("connection closed by peer")
    if name == "a collective of several devices breaks first":
        if index == 1:
            time.sleep(0.5)
            raise ValueError("the cause")
        raise ValueError("UNKNOWN: AllGather failed: connection reset by peer")
    if name == "all fail":
        raise ValueError("the same for all")
    if name == "a bug":
        if index == 2:
            {}["missing"]
        time.sleep(60)
    if name in ("killed", "process 0 is killed"):
        if index == (name == "killed"):
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)
    if name == "a code of its own":
        if index == 1:
            job.end("stopped on request", 143)
        time.sleep(60)
    if name == "interrupted":
        if index == 1:
            raise KeyboardInterrupt
        time.sleep(60)
    if name == "all end":
        time.sleep(0.3 * index)
        print(f"process {index} is done", flush=True)
        return 3
    if name == "one ends early":
        if index == 2:
            return 0
        time.sleep(0.5)
        if index == 1:
            raise ValueError("later")
        time.sleep(60)

def run(name, index, folder):
    early = name == "process 0 fails early"
    if early and index:
        time.sleep(index)
    job._member = job._Member(index, 3, Store(f"{folder}/store"), "127.0.0.1:1234")
    if not early:
        ready(folder, index)
    code = job.guarded(lambda: scenario(name, index))
    if name == "one ends early":
        time.sleep(60)
    # JAX's shutdown: process 0 waits for the others.
    time.sleep(1.0)
    os._exit(code or 0)

for name in sys.argv[2:]:
    folder = f"{sys.argv[1]}/{name.replace(' ', '-')}"
    os.mkdir(folder)
    begun, children = time.monotonic(), []
    read, write = os.pipe()
    for index in range(3):
        child = os.fork()
        if not child:
            os.dup2(write, 1), os.dup2(write, 2)
            os.close(read), os.close(write)
            run(name, index, folder)
        children.append(child)
    os.close(write)
    with os.fdopen(read) as stream:
        output = stream.read()
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    print(json.dumps({"name": name, "codes": codes, "output": output, "seconds": time.monotonic() - begun}), flush=True)
'''
SCENARIOS = (
    "a reason",
    "process 0 fails",
    "process 0 fails early",
    "a collective breaks first",
    "a collective of several devices breaks first",
    "all fail",
    "a bug",
    "killed",
    "process 0 is killed",
    "a code of its own",
    "interrupted",
    "all end",
    "one ends early",
)


@pytest.fixture(scope="module")
def ended(tmp_path_factory) -> dict[str, dict[str, Any]]:
    """How each scenario ended: exit codes, output of all processes, seconds."""
    folder = tmp_path_factory.mktemp("jobs")
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), str(folder), *SCENARIOS]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, check=False, cwd=pathlib.Path(__file__).parents[2]
    )
    assert done.returncode == 0, done.stderr
    return {line["name"]: line for line in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize(
    ("name", "codes", "last"),
    [
        ("a reason", [1, 1, 1], "error: process 1 of the job failed: config.x=1: wanted 2; change it"),
        ("process 0 fails", [1, 1, 1], "error: process 0 of the job failed: disk full"),
        ("process 0 fails early", [1, 1, 1], "error: process 0 of the job failed: disk full"),
        ("a collective breaks first", [1, 1, 1], "error: process 1 of the job failed: the cause"),
        ("a collective of several devices breaks first", [1, 1, 1], "error: process 1 of the job failed: the cause"),
        ("a bug", [1, 1, 1], "error: process 2 of the job failed: KeyError: 'missing'"),
        ("a code of its own", [143, 143, 143], "error: process 1 of the job failed: stopped on request"),
        ("interrupted", [130, 130, 130], "error: process 1 of the job failed: interrupted"),
    ],
)
def test_one_failure_ends_all_and_its_reason_is_last(ended, name, codes, last):
    found = ended[name]
    lines = found["output"].splitlines()
    assert found["codes"] == codes
    assert lines[-1] == last
    # The others say who failed, and why.
    process, reason = last.removeprefix("error: process ")[0], last.partition("failed: ")[2]
    told = [line for line in lines if line.startswith(f"error: process {process} of the job failed (process ")]
    assert len(told) == 2
    assert all(line.endswith(f": {reason}") for line in told)
    assert "Traceback" not in found["output"] or name == "a bug"
    assert found["seconds"] < 20


def test_where_all_fail_each_says_why(ended):
    found = ended["all fail"]
    assert found["codes"] == [1, 1, 1]
    assert found["output"].count("the same for all") >= 3
    assert found["seconds"] < 15


@pytest.mark.parametrize(
    ("name", "victim", "codes"), [("killed", 1, [1, -9, 1]), ("process 0 is killed", 0, [-9, 1, 1])]
)
def test_a_killed_process_ends_the_others(ended, name, victim, codes):
    found = ended[name]
    assert found["codes"] == codes
    assert found["output"].count(f"error: process {victim} of the job failed") == 2
    assert found["output"].count("it was killed, it ran out of memory, or its machine is gone") == 2
    assert found["seconds"] < 20


def test_a_job_that_ends_well(ended):
    found = ended["all end"]
    assert found["codes"] == [3, 3, 3]
    assert sorted(found["output"].splitlines()) == [f"process {index} is done" for index in range(3)]


def test_a_process_that_waits_for_the_others_at_the_end_ends_with_them(ended):
    assert ended["one ends early"]["codes"] == [1, 1, 1]


# Handlers run in reverse order: these two run after JAX's own, with which process 0 ends the coordination service.
MEMBER = """
import atexit, os, sys, time
index, port, file = int(sys.argv[1]), sys.argv[2], sys.argv[3]
def gone():
    if index:
        time.sleep(2)
        open(file, "w").close()
    else:
        print("the other is gone:", os.path.exists(file), flush=True)
atexit.register(gone)
from hbi_jax.parallel import job
job.join(f"127.0.0.1:{port}", 2, index)
sys.exit(job.guarded(lambda: 7))
"""


def test_the_coordination_service_is_the_last_to_end(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", MEMBER, str(index), str(port), str(tmp_path / "gone")],
            cwd=pathlib.Path(__file__).parents[2],
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [7, 7]
    assert "the other is gone: True" in outputs[0]
