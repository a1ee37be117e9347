"""Makes a virtual environment, or says in one line what is wanted where there can be none.

    python3 launch/environment.py FOLDER ARGUMENTS OF pip install

The interpreter that runs this is the environment's. Only the standard library is used, and only syntax that an old
Python reads as well: its users have to be told, too.
"""

import os
import platform
import re
import shutil
import struct
import subprocess
import sys

# The versions that CI runs: .ci/run, `make test`. setup.py, README.md and docs/install.md promise these and no others.
SUPPORTED = ("3.11", "3.12", "3.13")
# What an environment with all that the tests need takes, with pip's temporary files.
FREE_GB = 3
# What tools put into an environment, besides the stamps of the Makefile. Anything else in its folder is the user's.
PARTS = {"pyvenv.cfg", "bin", "etc", "include", "lib", "lib64", "share", ".gitignore", ".lock", "CACHEDIR.TAG"}
# How a message begins that is about the machine, and not about the requirements.
NO_SPACE = "wanted {} GB of free disk space".format(FREE_GB)
NO_INDEX = "wanted a package index"

# By what pip prints, in this order: a lost connection also ends in "No matching distribution".
_PIP = (
    (
        r"No space left on device|Disk quota exceeded",
        NO_SPACE + "; free some, or make the environment elsewhere: make VENV=/elsewhere/venv ...",
    ),
    (
        r"connection broken by|Failed to establish|Max retries exceeded|name resolution|ProxyError|[Tt]imed out",
        NO_INDEX + ", but pip reaches none; look at the network, or point PIP_INDEX_URL or PIP_FIND_LINKS at a mirror",
    ),
    (
        r"(?:No matching distribution found for|satisfies the requirement) ([^\s(]+)",
        "wanted {found}, which the index does not have for this Python and system; docs/install.md lists what works",
    ),
    (
        r"Failed building wheel for (\S+)",
        "wanted a compiler for {found}, of which the index has only the source for this system; install one, or use a "
        "system of docs/install.md, where nothing is compiled",
    ),
)


def unsuitable(version, bits, system, machine, libc):
    """Returns what is wanted instead of this interpreter and system; None where they will do.

    Args:
      version: Such as "3.12.1".
      bits: Of a pointer, 32 or 64.
      system, machine: As `platform` names them.
      libc: Of Linux, "glibc" and its version; "" where it is another, such as musl.
    """
    short = ".".join(version.split(".")[:2])
    if short not in SUPPORTED:
        return "wanted Python {}; this is {} ({})".format(_either(SUPPORTED), version, sys.executable)
    if bits != 64:
        return "wanted a 64-bit Python, which JAX needs; {} is a {}-bit one".format(sys.executable, bits)
    if system == "Linux" and not libc:
        return "wanted a Linux with glibc 2.28 or newer, such as Debian's or Ubuntu's; JAX has no packages for musl"
    if system == "Linux" and tuple(map(int, re.findall(r"\d+", libc)[:2])) < (2, 28):
        return "wanted a Linux with glibc 2.28 or newer, which the packages are made for; this one has {}".format(libc)
    if (system, machine) == ("Darwin", "x86_64"):
        return "wanted a Mac with Apple silicon; JAX has no packages for Intel's"
    if system not in ("Linux", "Darwin"):
        return "wanted Linux or macOS; on Windows use WSL 2 (docs/install.md)"
    return None


def explained(output):
    """Returns what pip's output says is wanted, as one line."""
    for pattern, message in _PIP:
        match = re.search(pattern, output)
        if match:
            return message.format(found=match.groups()[-1] if match.groups() else "")
    return "wanted pip to install what is listed, but it failed; its own message is below"


def main(arguments):
    """Makes the environment; returns the exit code."""
    if len(arguments) < 2 or arguments[0].startswith("-"):
        print(__doc__)
        return 0 if set(arguments) & {"-h", "--help"} else 2
    folder, wanted = arguments[0], arguments[1:]
    libc = "".join(platform.libc_ver()) if platform.libc_ver()[0] == "glibc" else ""
    bits = 8 * struct.calcsize("P")
    problem = unsuitable(platform.python_version(), bits, platform.system(), platform.machine(), libc)
    if problem:
        return _fail(problem + _others())
    python = os.path.join(folder, "bin", "python")
    version = _version(python)
    if version and version not in SUPPORTED:
        message = "wanted Python {} in {}; that is of {}: choose a new folder, make VENV=NEW_FOLDER ..."
        return _fail(message.format(_either(SUPPORTED), folder, version))
    if not version:
        kept = foreign(folder)
        if kept:
            message = "wanted a new folder; {} holds other files, such as {}: choose another, make VENV=NEW_FOLDER ..."
            return _fail(message.format(folder, kept[0]))
        parent = os.path.dirname(os.path.abspath(folder))
        free = shutil.disk_usage(parent).free / 1e9 if os.path.isdir(parent) else FREE_GB
        if free < FREE_GB:
            message = "{} for {}, there are {:.1f}; free some, or: make VENV=/elsewhere/venv ..."
            return _fail(message.format(NO_SPACE, folder, free))
        code, output = _run(sys.executable, "-m", "venv", "--clear", folder)
        if code:
            return _fail("wanted Python's venv and pip; on Debian and Ubuntu: apt install python3-venv", output)
    elif _run(python, "-m", "pip", "--version")[0]:
        # As in one that uv made, or whose making was interrupted: what is installed there stays.
        code, output = _run(python, "-m", "ensurepip")
        if code:
            message = "wanted pip in {}, where ensurepip adds none: add it, or choose another, make VENV=NEW_FOLDER ..."
            return _fail(message.format(folder), output)
    code, output = _run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted)
    return _fail(explained(output), output) if code else 0


def foreign(folder):
    """Returns what a new environment in a folder would delete, by name: all but an older environment's own parts."""
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    if "pyvenv.cfg" not in names:
        return names
    return [name for name in names if name not in PARTS and not name.endswith(".stamp")]


def _run(*command):
    done = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
    output = done.communicate()[0]
    return done.returncode, output


def _fail(message, output=""):
    sys.stderr.write("error: {}\n{}".format(message, output))
    return 1


def _either(names):
    return ", ".join(names[:-1]) + " or " + names[-1]


def _others():
    """Where there is a Python that will do, as the end of a sentence."""
    found = [place for place in map(find, SUPPORTED) if place]
    return "; try: make PYTHON={} ...".format(found[-1]) if found else "; python.org, pyenv and uv have them"


def find(version):
    """Returns the path of an interpreter of a version such as "3.12": from PATH, else pyenv's; None if absent."""
    folder = os.path.join(os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv"), "versions")
    names = os.listdir(folder) if os.path.isdir(folder) else []
    numbers = [re.match(r"(\d+)\.(\d+)\.(\d+)$", name) for name in names]
    newest = sorted((tuple(map(int, number.groups())) for number in numbers if number), reverse=True)
    paths = [os.path.join(folder, "{}.{}.{}".format(*number), "bin", "python") for number in newest]
    which = getattr(shutil, "which", lambda name: None)
    for path in [which("python" + version)] + paths:
        if path and _version(path) == version:
            return path
    return None


def _version(path):
    """The version of an interpreter; "" where it does not run, as pyenv's placeholders on PATH may not."""
    try:
        code, output = _run(path, "-c", "import sys; print('%d.%d' % sys.version_info[:2])")
    except OSError:
        return ""
    return "" if code else output.strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
