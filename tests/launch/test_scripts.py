"""The launch scripts, with programs in place of gcloud and python that write down how they were called."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tarfile
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))
BASH = shutil.which("bash")
FLAGS = ("--config=configs/msrvtt.py", '--config.name=HBI, 5 "frames" of $HOME\'s', "--workdir=runs/a b")
ENVIRONMENT = ("TPU_NAME", "ZONE", "PROJECT", "ACCELERATOR_TYPE", "RUNTIME_VERSION", "NUM_PROCESSES", "NUM_DEVICES")

pytestmark = pytest.mark.skipif(BASH is None, reason="the scripts are for bash")

# Appends its arguments and some variables to the file of the calls, then does what the test says.
RECORDER = """#!{python}
import json, os, signal, sys, time
names = ("JAX_PLATFORMS", "XLA_FLAGS", "CUDA_VISIBLE_DEVICES", "JAX_COMPILATION_CACHE_DIR")
call = {{"argv": sys.argv[1:], "env": {{name: os.environ.get(name) for name in names}}}}
with open({calls!r}, "a") as file:
    file.write(json.dumps(call) + "\\n")
{then}
"""


@pytest.fixture
def stub(tmp_path):
    """Puts a recording program of a name on PATH; returns the function that does, whose result reads its calls."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def make(name, then=""):
        calls = tmp_path / f"{name}.jsonl"
        program = folder / name
        program.write_text(RECORDER.format(python=sys.executable, calls=str(calls), then=then))
        program.chmod(0o755)
        return lambda: [json.loads(line) for line in calls.read_text().splitlines()] if calls.exists() else []

    return make


def _environment(tmp_path, **variables):
    clean = {name: value for name, value in os.environ.items() if name not in (*ENVIRONMENT, "XLA_FLAGS", "PYTHON")}
    return {**clean, "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}", **variables}


def _run(tmp_path, script, *arguments, **variables):
    return subprocess.run(
        [BASH, str(LAUNCH / script), *arguments],
        env=_environment(tmp_path, **variables),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _arguments(calls):
    return [call["argv"] for call in calls]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_every_script_parses_and_explains_itself(tmp_path, stub, script):
    stubs = [stub("gcloud"), stub("python3")]
    assert subprocess.run([BASH, "-n", str(script)], check=False).returncode == 0
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in script.read_text()
    done = _run(tmp_path, script.name, "-h")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: launch/{script.name}")
    assert [calls() for calls in stubs] == [[], []]


def test_there_is_a_script_for_each_place():
    assert [script.name for script in SCRIPTS] == ["gpu.sh", "local.sh", "tpu.sh"]


@pytest.mark.parametrize(
    ("script", "arguments", "complaint"),
    [
        ("tpu.sh", (), "wanted create, run or delete; got ''"),
        ("tpu.sh", ("make",), "got 'make'"),
        ("tpu.sh", ("create", "-z", "z"), "give -n NAME or set TPU_NAME"),
        ("tpu.sh", ("create", "-n", "a"), "give -z ZONE or set ZONE"),
        ("tpu.sh", ("create", "-n"), "-n needs a value"),
        ("tpu.sh", ("delete", "-n", "a", "-z", "z", "b"), "unexpected argument 'b'"),
        ("tpu.sh", ("run", "-n", "a", "-z", "z"), "nothing to run"),
        ("tpu.sh", ("run", "-q"), "unknown option -q"),
        ("local.sh", (), "nothing to run"),
        ("local.sh", ("-n", "two", "--", "--help"), "got 'two'"),
        ("local.sh", ("-d", "0", "--", "--help"), "got '0'"),
        ("gpu.sh", (), "nothing to run"),
        ("gpu.sh", ("-x",), "unknown option -x"),
    ],
)
def test_what_is_wrong_is_told_before_anything_runs(tmp_path, stub, script, arguments, complaint):
    stubs = [stub("gcloud"), stub("python3")]
    done = _run(tmp_path, script, *arguments)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert [calls() for calls in stubs] == [[], []]


def test_create_a_tpu(tmp_path, stub):
    calls = stub("gcloud")
    flags = ("-n", "pod", "-z", "here-a", "-p", "mine", "-t", "v4-32", "-r", "image", "-s")
    assert _run(tmp_path, "tpu.sh", "create", *flags).returncode == 0
    assert _run(tmp_path, "tpu.sh", "create", TPU_NAME="pod", ZONE="here-a", PROJECT="").returncode == 0
    start = ["compute", "tpus", "tpu-vm", "create", "pod", "--zone=here-a"]
    own, default = _arguments(calls())
    assert own == [*start, "--project=mine", "--accelerator-type=v4-32", "--version=image", "--spot"]
    assert default == [*start, "--accelerator-type=v5litepod-8", "--version=v2-alpha-tpuv5-lite"]


def test_delete_a_tpu(tmp_path, stub):
    calls = stub("gcloud")
    assert _run(tmp_path, "tpu.sh", "delete", "-n", "pod", "-z", "here-a").returncode == 0
    assert _run(tmp_path, "tpu.sh", "delete", "-n", "pod", "-z", "here-a", "-p", "mine", "-y").returncode == 0
    start = ["compute", "tpus", "tpu-vm", "delete", "pod", "--zone=here-a"]
    assert _arguments(calls()) == [start, [*start, "--project=mine", "--quiet"]]


def test_a_failing_gcloud_fails_the_script(tmp_path, stub):
    calls = stub("gcloud", "sys.exit(3)")
    assert _run(tmp_path, "tpu.sh", "run", "-n", "pod", "-z", "here-a", "--", *FLAGS).returncode == 3
    assert len(calls()) == 1


def test_run_on_all_workers_of_a_tpu(tmp_path, stub):
    """What is sent to the workers is executed here, in a home folder of its own."""
    archive = tmp_path / "sent.tgz"
    copy = f"""
import shutil
if sys.argv[4] == "scp":
    shutil.copy(sys.argv[5], {str(archive)!r})
"""
    calls = stub("gcloud", copy)
    done = _run(tmp_path, "tpu.sh", "run", "-n", "pod", "-z", "here-a", "-p", "mine", "--", *FLAGS)
    assert done.returncode == 0, done.stderr
    scp, install, run = _arguments(calls())
    where = ["--zone=here-a", "--project=mine", "--worker=all"]
    assert scp[:4] == ["compute", "tpus", "tpu-vm", "scp"]
    assert scp[5:] == ["pod:hbi_jax.tgz", *where]
    assert not pathlib.Path(scp[4]).exists()
    for ssh in (install, run):
        assert ssh[:-1] == ["compute", "tpus", "tpu-vm", "ssh", "pod", *where]

    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(archive, home / "hbi_jax.tgz")
    python = stub("python3")
    environment = {**_environment(tmp_path), "HOME": str(home)}
    command = install[-1].removeprefix("--command=")
    assert subprocess.run([BASH, "-c", command], env=environment, check=False).returncode == 0
    venv = f"{home}/hbi_jax/.venv"
    assert _arguments(python()) == [
        ["-m", "pip", "install", "--quiet", "--user", "uv"],
        ["-m", "uv", "venv", "--quiet", "--allow-existing", "--python", "3.12", venv],
        [
            *("-m", "uv", "pip", "install", "--quiet", "--python", f"{venv}/bin/python"),
            *("--constraints", f"{home}/hbi_jax/requirements.txt", f"{home}/hbi_jax[tpu]"),
        ],
    ]
    # What arrived can be installed: setup.py finds all that it reads, and the package is whole.
    version = [sys.executable, "setup.py", "--quiet", "--version"]
    told = subprocess.run(version, cwd=home / "hbi_jax", capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    with tarfile.open(archive) as sent:
        names = set(sent.getnames())
    assert {str(path.relative_to(ROOT)) for path in (ROOT / "hbi_jax").rglob("*.py")} <= names
    assert "configs/msrvtt.py" in names
    assert not [name for name in names if "__pycache__" in name or name.startswith((".", "tests", "runs"))]

    (home / "hbi_jax/.venv/bin").mkdir(parents=True)
    remote = stub("remote")
    shutil.copy(tmp_path / "bin/remote", home / "hbi_jax/.venv/bin/python")
    command = run[-1].removeprefix("--command=")
    assert subprocess.run([BASH, "-c", command], env=environment, check=False).returncode == 0
    assert _arguments(remote()) == [["-m", "hbi_jax.main", "--multihost", *FLAGS]]


def test_a_second_run_can_keep_what_is_installed(tmp_path, stub):
    calls = stub("gcloud")
    assert _run(tmp_path, "tpu.sh", "run", "-n", "pod", "-z", "here-a", "-k", "--", *FLAGS).returncode == 0
    ((*ssh, command),) = _arguments(calls())
    assert ssh == ["compute", "tpus", "tpu-vm", "ssh", "pod", "--zone=here-a", "--worker=all"]
    assert "hbi_jax.main --multihost" in command


def test_local_processes(tmp_path, stub):
    calls = stub("python3", "print('hello\\nfrom', sys.argv[5]); print('trouble', file=sys.stderr)")
    done = _run(tmp_path, "local.sh", "-n", "3", "-d", "4", "-l", "1234", "--", *FLAGS, XLA_FLAGS="--xla_a=1")
    assert (done.returncode, done.stderr) == (0, "")
    by_process = sorted(calls(), key=lambda call: call["argv"][5])
    for number, call in enumerate(by_process):
        start = ["-m", "hbi_jax.main", "--multihost", "--coordinator=127.0.0.1:1234", "--num_processes=3"]
        assert call["argv"] == [*start, f"--process_id={number}", *FLAGS]
        assert call["env"]["JAX_PLATFORMS"] == "cpu"
        assert call["env"]["XLA_FLAGS"].split() == ["--xla_a=1", "--xla_force_host_platform_device_count=4"]
    assert len(by_process) == 3
    lines = [(f"[{i}] hello", f"[{i}] from --num_processes=3", f"[{i}] trouble") for i in range(3)]
    assert sorted(done.stdout.splitlines()) == sorted(line for three in lines for line in three)


def test_local_processes_stop_when_one_fails(tmp_path, stub):
    calls = stub("python3", "sys.exit(7) if '--process_id=1' in sys.argv else time.sleep(50)")
    begun = time.monotonic()
    done = _run(tmp_path, "local.sh", "-n", "3", "--", "--help")
    assert done.returncode == 7
    assert len(calls()) == 3
    assert time.monotonic() - begun < 20


def test_a_signal_reaches_every_local_process(tmp_path, stub):
    """They save and exit with their own code; the script waits for them and returns it."""
    saves = "signal.signal(signal.SIGTERM, lambda *_: (print('saved', flush=True), sys.exit(143)))"
    stub("python3", f"{saves}\nprint('ready', flush=True)\ntime.sleep(50)")
    script = subprocess.Popen(
        [BASH, str(LAUNCH / "local.sh"), "-n", "2", "--", "--help"],
        env=_environment(tmp_path),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert sorted(script.stdout.readline() for _ in range(2)) == ["[0] ready\n", "[1] ready\n"]
        script.send_signal(signal.SIGTERM)
        rest, _ = script.communicate(timeout=20)
    finally:
        script.kill()
    assert script.returncode == 143
    assert sorted(rest.splitlines()) == ["[0] saved", "[1] saved"]


def test_gpu(tmp_path, stub):
    calls = stub("python3", "print('2 x Simulated')")
    done = _run(tmp_path, "gpu.sh", "-g", "0,1", "-c", "cache", "--", *FLAGS)
    assert done.returncode == 0
    assert "GPUs: 2 x Simulated" in done.stderr
    probe, run = calls()
    assert (probe["argv"][0], run["argv"]) == ("-c", ["-m", "hbi_jax.main", *FLAGS])
    for call in (probe, run):
        assert call["env"]["JAX_PLATFORMS"] == "cuda"
        assert call["env"]["CUDA_VISIBLE_DEVICES"] == "0,1"
        assert call["env"]["JAX_COMPILATION_CACHE_DIR"] == "cache"


def test_gpu_that_jax_does_not_see(tmp_path, stub):
    calls = stub("python3", "print('RuntimeError: no cuda', file=sys.stderr); sys.exit(1)")
    done = _run(tmp_path, "gpu.sh", "--", *FLAGS)
    assert done.returncode == 2
    assert "JAX sees no GPU (RuntimeError: no cuda)" in done.stderr
    assert "pip install '.[cuda]'" in done.stderr
    assert len(calls()) == 1
