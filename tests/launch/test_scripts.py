"""The launch scripts, with programs in place of gcloud and python that write down how they were called."""

import json
import os
import pathlib
import re
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
names = ("JAX_PLATFORMS", "XLA_FLAGS", "CUDA_VISIBLE_DEVICES", "JAX_COMPILATION_CACHE_DIR", "JAX_LOCAL_DEVICE_IDS")
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
    removed = (*ENVIRONMENT, "XLA_FLAGS", "PYTHON", "JAX_PLATFORMS")
    clean = {name: value for name, value in os.environ.items() if name not in removed}
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
    assert re.match(rf"usage: (sbatch .*)?launch/{script.name}", done.stdout)
    assert [calls() for calls in stubs] == [[], []]


def test_there_is_a_script_for_each_place():
    assert [script.name for script in SCRIPTS] == ["gpu.sh", "local.sh", "slurm.sh", "tpu.sh"]


@pytest.mark.parametrize(
    ("script", "arguments", "complaint"),
    [
        ("tpu.sh", (), "wanted create, run, watch or delete; got ''"),
        ("tpu.sh", ("make",), "got 'make'"),
        ("tpu.sh", ("create", "-z", "z"), "give -n NAME or set TPU_NAME"),
        ("tpu.sh", ("create", "-n", "a"), "give -z ZONE or set ZONE"),
        ("tpu.sh", ("create", "-n"), "-n needs a value"),
        ("tpu.sh", ("delete", "-n", "a", "-z", "z", "b"), "unexpected argument 'b'"),
        ("tpu.sh", ("run", "-n", "a", "-z", "z"), "nothing to run"),
        ("tpu.sh", ("run", "-x"), "unknown option -x"),
        ("local.sh", (), "nothing to run"),
        ("local.sh", ("-n", "two", "--", "--help"), "got 'two'"),
        ("local.sh", ("-d", "0", "--", "--help"), "got '0'"),
        ("tpu.sh", ("watch", "-n", "a", "-z", "z", "--", "--config=a"), "wanted --workdir with an absolute path"),
        ("tpu.sh", ("watch", "-n", "a", "-z", "z", "--", "--workdir=runs/a"), "outlives the VM; got 'runs/a'"),
        ("slurm.sh", (), "nothing to run"),
        ("slurm.sh", ("--", "--config=a"), "not in a Slurm job; start it with sbatch"),
        ("slurm.sh", ("-x",), "unknown option -x"),
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
    # Of the others, some may be stopped before they have noted their call.
    assert any("--process_id=1" in call["argv"] for call in calls())
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


# A cloud with one TPU VM: describe tells its state, which the calls and the plan of the test change.
CLOUD = """
import pathlib
root = pathlib.Path({root!r})
state = root / "state"
verb, what = sys.argv[4], sys.argv[-1]
if verb == "describe":
    troubles = root / "troubles"
    if troubles.exists() and (left := int(troubles.read_text())):
        troubles.write_text(str(left - 1))
        sys.exit("ERROR: gcloud crashed (ConnectionError): Connection reset by peer")
    if not state.exists():
        sys.exit("ERROR: (gcloud.compute.tpus.tpu-vm.describe) NOT_FOUND: Resource 'pod' was not found")
    print("WARNING: an old version", file=sys.stderr)
    print(state.read_text())
elif verb in ("create", "delete"):
    answers = root / verb
    first, *others = json.loads(answers.read_text()) if answers.exists() else [None]
    answers.write_text(json.dumps(others or [None]))
    if first:
        sys.exit(first)
    state.write_text({ready!r}) if verb == "create" else state.unlink()
elif "hbi_jax.main" in what:
    plan = root / "plan"
    (first, code), *rest = json.loads(plan.read_text())
    plan.write_text(json.dumps(rest))
    state.write_text(first)
    sys.exit(code)
elif "report.json" in what:
    sys.exit(0 if json.loads((root / "plan").read_text()) == [] else 1)
"""


def _watch(tmp_path, stub, plan, *options, ready="READY"):
    (tmp_path / "plan").write_text(json.dumps(plan))
    calls = stub("gcloud", CLOUD.format(root=str(tmp_path), ready=ready))
    flags = ("-n", "pod", "-z", "here-a", *options, "--", "--config=c", "--workdir=/mnt/a b")
    done = _run(tmp_path, "tpu.sh", "watch", *flags, POLL="0")
    verbs = []
    for argv in _arguments(calls()):
        if argv[3] == "describe":
            continue
        last = argv[-1]
        kind = "run" if "hbi_jax.main" in last else "report" if "report.json" in last else "install"
        verbs.append(kind if argv[3] == "ssh" else argv[3])
    return done, verbs, calls()


def test_a_watched_tpu_comes_back_after_a_preemption(tmp_path, stub):
    """Created, preempted in the run, created and installed again, until the report is there."""
    done, verbs, _ = _watch(tmp_path, stub, [["PREEMPTED", 255], ["READY", 143], ["READY", 0]], "-s")
    assert done.returncode == 0, done.stderr
    start = ["create", "scp", "install"]
    assert verbs == [*start, "run", "delete", *start, "run", "scp", "install", "run", "report"]
    assert "the report is in /mnt/a b" in done.stderr
    assert "was taken back" in done.stderr


def test_a_queued_resource_is_watched_alike(tmp_path, stub):
    done, verbs, calls = _watch(tmp_path, stub, [["SUSPENDED", 255], ["ACTIVE", 0]], "-q", "-s", ready="ACTIVE")
    assert done.returncode == 0, done.stderr
    assert verbs.count("create") == 2
    created = next(argv for argv in _arguments(calls) if argv[3] == "create")
    assert created[:7] == [
        *("compute", "tpus", "queued-resources", "create", "pod", "--zone=here-a", "--node-id=pod"),
    ]
    assert created[7:] == ["--accelerator-type=v5litepod-8", "--runtime-version=v2-alpha-tpuv5-lite", "--spot"]
    deleted = next(argv for argv in _arguments(calls) if argv[3] == "delete")
    assert deleted[2:] == ["queued-resources", "delete", "pod", "--zone=here-a", "--force", "--quiet"]


def test_a_run_that_fails_by_itself_is_not_repeated_for_ever(tmp_path, stub):
    done, verbs, _ = _watch(tmp_path, stub, [["READY", 1]] * 5)
    assert done.returncode == 1
    assert verbs.count("run") == 3
    assert "the run failed 3 times, now with code 1" in done.stderr
    assert verbs.count("create") == 1


def test_a_run_without_a_report_has_failed(tmp_path, stub):
    done, verbs, _ = _watch(tmp_path, stub, [["READY", 0]] * 5)
    assert done.returncode == 1
    assert verbs.count("run") == 3
    assert "the run ended, but there is no report in /mnt/a b" in done.stderr


@pytest.mark.parametrize("troubles", [3, 30])
def test_a_watch_outlives_a_failing_network_for_a_while(tmp_path, stub, troubles):
    """What gcloud cannot tell is no reason to create a VM."""
    (tmp_path / "troubles").write_text(str(troubles))
    done, verbs, _ = _watch(tmp_path, stub, [["READY", 0]])
    assert "Connection reset by peer" in done.stderr
    if troubles < 20:
        assert done.returncode == 0, done.stderr
        assert verbs == ["create", "scp", "install", "run", "report"]
    else:
        assert done.returncode == 1
        assert verbs == []
        assert "the state of pod could not be read 20 times" in done.stderr


NO_CAPACITY = 'ERROR: {"code": 8, "message": "There is no more capacity in the zone \\"here-a\\""}'
NO_NETWORK = "ERROR: gcloud crashed (ConnectionError): Connection reset by peer"
NO_PERMISSION = "ERROR: PERMISSION_DENIED: Permission 'tpu.nodes.create' denied"
START = ["create", "scp", "install", "run"]


def test_a_watch_asks_for_as_long_as_there_is_no_capacity(tmp_path, stub):
    """From the start and after a preemption, and each time it says so."""
    (tmp_path / "create").write_text(json.dumps([NO_CAPACITY, None, *[NO_CAPACITY] * 25, None]))
    done, verbs, _ = _watch(tmp_path, stub, [["PREEMPTED", 255], ["READY", 0]], "-s")
    assert done.returncode == 0, done.stderr
    assert verbs == ["create", *START, "delete", *["create"] * 25, *START, "report"]
    assert done.stderr.count("There is no more capacity in the zone") == 26
    assert done.stderr.count("there is no capacity for pod now; asking again in 0 s") == 26


@pytest.mark.parametrize(
    ("verb", "complaint"), [("create", "pod could not be created"), ("delete", "pod could not be deleted")]
)
@pytest.mark.parametrize("troubles", [3, 30])
def test_a_watch_outlives_what_gcloud_refuses_for_a_while(tmp_path, stub, verb, complaint, troubles):
    (tmp_path / verb).write_text(json.dumps([*([None] if verb == "create" else []), *[NO_NETWORK] * troubles, None]))
    done, verbs, _ = _watch(tmp_path, stub, [["PREEMPTED", 255], ["READY", 0]])
    between = [*["delete"] * (verb == "create"), *[verb] * min(troubles, 20)]
    if troubles < 20:
        assert done.returncode == 0, done.stderr
        assert verbs == [*START, *between, *["delete"] * (verb == "delete"), *START, "report"]
    else:
        assert done.returncode == 1
        assert verbs == [*START, *between]
        assert f"error: {complaint} 20 times; see above" in done.stderr


def test_what_gcloud_never_granted_is_asked_once(tmp_path, stub):
    (tmp_path / "create").write_text(json.dumps([NO_PERMISSION, None]))
    done, verbs, _ = _watch(tmp_path, stub, [["READY", 0]])
    assert (done.returncode, verbs) == (2, ["create"])
    assert NO_PERMISSION in done.stderr
    assert done.stderr.endswith("error: pod could not be created; see above\n")


def _slurm(tmp_path, stub, *arguments, code=0, **variables):
    srun, scontrol = stub("srun", f"sys.exit({code})"), stub("scontrol")
    environment = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "SLURM_GPUS_ON_NODE": "4", **variables}
    return _run(tmp_path, "slurm.sh", *arguments, **environment), srun(), _arguments(scontrol())


@pytest.mark.parametrize(
    ("options", "gpus", "tasks", "devices"),
    [((), "4", "1", "0,1,2,3"), (("-g",), "4", "4", None), ((), "0", "1", None)],
    ids=["node", "gpu", "cpu"],
)
def test_slurm(tmp_path, stub, options, gpus, tasks, devices):
    done, (call,), requeued = _slurm(tmp_path, stub, *options, "--", *FLAGS, SLURM_GPUS_ON_NODE=gpus)
    assert (done.returncode, requeued) == (0, [])
    start = ["--kill-on-bad-exit=0", "--label", "--nodes=2", f"--ntasks-per-node={tasks}"]
    assert call["argv"] == [*start, "python3", "-m", "hbi_jax.main", "--multihost", *FLAGS]
    assert call["env"]["JAX_LOCAL_DEVICE_IDS"] == devices
    assert call["env"]["JAX_PLATFORMS"] == (None if gpus == "0" else "cuda")


def test_slurm_requeues_what_was_stopped_and_nothing_else(tmp_path, stub):
    done, _, requeued = _slurm(tmp_path, stub, "--", *FLAGS, code=143)
    assert (done.returncode, requeued) == (143, [["requeue", "7"]])


def test_slurm_passes_a_failure_on(tmp_path, stub):
    done, _, requeued = _slurm(tmp_path, stub, "--", *FLAGS, code=5)
    assert (done.returncode, requeued) == (5, [])
