"""Finds the library's configurations by name, in a checkout and in an installed package."""

import ast
import difflib
import os
import pathlib
import runpy
from collections.abc import Sequence

from ml_collections import ConfigDict

from hbi_jax.fields import ConfigError

_PACKAGE = pathlib.Path(__file__).parents[1]
# setup.py copies the repository's configs/ into the package; in a checkout, configs/ lies beside the package.
_FOLDERS = (_PACKAGE / "configs", _PACKAGE.parent / "configs")
_FLAG = ("--config", "-config")


def names() -> list[str]:
    """Returns the names that `--config` takes, in alphabetical order."""
    return sorted(_files())


def locate(config: str) -> str:
    """Returns the path of a configuration, with its argument if it has one.

    Args:
      config: A name such as `quickstart` or the path of a file, optionally followed by a colon and the argument of
        its `get_config`; `~` is the home folder.

    Raises:
      ConfigError: If it is neither a name nor a file.
    """
    name, colon, argument = config.partition(":")
    path = _files().get(name, pathlib.Path(os.path.expanduser(name)))
    if not path.is_file():
        if colon and pathlib.Path(os.path.expanduser(config)).is_file():
            raise ConfigError(
                f"--config={config}: wanted a path without a colon, after which the argument of a configuration "
                "stands; rename or move the file"
            )
        near = difflib.get_close_matches(pathlib.Path(name).stem, names(), 1)
        raise ConfigError(
            f"--config={config}: wanted a configuration file or one of the names {', '.join(names())}; "
            + (f"did you mean --config={near[0]}?" if near else "there is no file at that path")
        )
    return f"{path}{colon}{argument}"


def load(config: str) -> ConfigDict:
    """Loads a configuration by calling its `get_config`; the fields of the result can be changed.

    Args:
      config: As for `locate`.

    Raises:
      ConfigError: If it is neither a name nor a file.
    """
    path, colon, argument = locate(config).partition(":")
    return runpy.run_path(path)["get_config"](*([argument] if colon else []))


def with_paths(argv: Sequence[str]) -> list[str]:
    """Returns the command line with the name after `--config` replaced by its path.

    Raises:
      ConfigError: If the value of `--config` is neither a name nor a file.
    """
    argv = list(argv)
    for place, argument in enumerate(argv):
        flag, equals, value = argument.partition("=")
        if flag in _FLAG and equals:
            argv[place] = f"{flag}={locate(value)}"
        elif flag in _FLAG and place + 1 < len(argv):
            argv[place + 1] = locate(argv[place + 1])
    return argv


def chosen(argv: Sequence[str]) -> str:
    """Returns the value of `--config` in a command line, or an empty string if it is not given."""
    given = [
        argument.partition("=")[2] or following
        for argument, following in zip(argv, [*argv[1:], ""], strict=True)
        if argument.partition("=")[0] in _FLAG
    ]
    return given[-1] if given else ""


def help_text(argv: Sequence[str]) -> str:
    """Returns the `--help` text on the configuration that the command line names, or on all if it names none.

    Raises:
      ConfigError: If the named configuration does not exist.
    """
    if name := chosen(argv):
        path = locate(name).partition(":")[0]
        return f"--config={name} is {path}:\n\n{_docstring(path)}"
    width = max(map(len, names()), default=0)
    lines = (f"  {name:{width}}  {_docstring(path).splitlines()[0]}" for name, path in sorted(_files().items()))
    return "\n".join(("Names that --config takes:", *lines))


def _files() -> dict[str, pathlib.Path]:
    folder = next((folder for folder in _FOLDERS if folder.is_dir()), None)
    return {path.stem: path for path in folder.glob("[!_]*.py")} if folder else {}


def _docstring(path: str | pathlib.Path) -> str:
    try:
        tree = ast.parse(pathlib.Path(path).read_text(encoding="utf-8"))
    except (SyntaxError, ValueError) as error:
        raise ConfigError(f"--config: {path} is not a Python file ({error}); correct it") from error
    return ast.get_docstring(tree) or "It has no docstring."
