"""Configuration fields: each is declared once, in a frozen dataclass of the package that uses it.

    @dataclasses.dataclass(frozen=True)
    class SamplerConfig:
        method: Literal["exact", "sampled"] = field("exact", "How the interaction is computed.")
        num_samples: int = field(1000, "Coalitions drawn per pair.", at_least=2)

A section is a field whose type is such a dataclass. `parse` makes an instance from plain values, `plain` converts an
instance back, `check` checks an instance against the declarations, and `explain` describes fields. A dataclass with
relations between its fields defines `validate(self, path)`, which `check` calls.
"""

import dataclasses
import difflib
import functools
import math
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, TypeVar

T = TypeVar("T")

# NumPy, Grain and JAX all take seeds up to this one, and JAX tells no others apart.
LARGEST_SEED = 2**32 - 1


class ConfigError(ValueError):
    """An invalid configuration. The message names the field, the value, the wanted value and the remedy."""


class _Declared(NamedTuple):
    """The meaning and range of a field, kept in its metadata."""

    meaning: str
    at_least: float | int | None
    above: float | int | None
    at_most: float | int | None
    share: bool


def field(
    default: Any,
    meaning: str,
    *,
    at_least: float | int | None = None,
    above: float | int | None = None,
    at_most: float | int | None = None,
    share: bool = False,
) -> Any:
    """Declares a field of a configuration.

    Args:
      default: The default, an immutable value.
      meaning: The meaning of the field, with its unit, in one or more sentences.
      at_least: The smallest valid value.
      above: A value that the field must exceed.
      at_most: The largest valid value.
      share: Whether the value is a share, in 0..1.
    """
    return dataclasses.field(default=default, metadata={"field": _Declared(meaning, at_least, above, at_most, share)})


def section(config_class: type, meaning: str) -> Any:
    """Declares a section: a field that holds another configuration and defaults to that configuration's defaults."""
    return dataclasses.field(
        default_factory=config_class, metadata={"field": _Declared(meaning, None, None, None, False)}
    )


def mapping(meaning: str) -> Any:
    """Declares a field that maps names to values, empty by default."""
    return dataclasses.field(default_factory=dict, metadata={"field": _Declared(meaning, None, None, None, False)})


def require(condition: bool, name: str, got: object, wanted: str, remedy: str) -> None:
    """Raises a `ConfigError` that names the field unless the condition holds."""
    if not condition:
        raise ConfigError(f"{name}={got!r}: wanted {wanted}; {remedy}")


def check(config: Any, path: str) -> None:
    """Checks every field of a configuration against its declared range and choices, then the relations between them.

    Args:
      config: An instance of a configuration dataclass.
      path: The name of the configuration in messages, such as `config.model`.

    Raises:
      ConfigError: For the first invalid field.
    """
    for declared, hint in _declared(type(config)):
        name, value = f"{path}.{declared.name}", getattr(config, declared.name)
        if dataclasses.is_dataclass(hint):
            check(value, name)
        elif typing.get_origin(hint) is Literal:
            _check_choice(hint, name, value)
        else:
            _check_range(declared.metadata["field"], name, value)
    if hasattr(config, "validate"):
        config.validate(path)


def _check_choice(hint: Any, name: str, value: Any) -> None:
    choices = typing.get_args(hint)
    require(value in choices, name, value, f"one of {', '.join(map(repr, choices))}", "choose one of them")


def _check_range(declared: _Declared, name: str, value: Any) -> None:
    if isinstance(value, float):
        require(not math.isinf(value), name, value, "a finite number", "lower it")
    if declared.at_least is not None:
        require(value >= declared.at_least, name, value, f"{declared.at_least} or more", "raise it")
    if declared.above is not None:
        require(value > declared.above, name, value, f"more than {declared.above}", "raise it")
    if declared.at_most is not None:
        require(value <= declared.at_most, name, value, f"{declared.at_most} or less", "lower it")
    if declared.share:
        require(0 <= value <= 1, name, value, "a share in 0..1", "write 0.01 for 1 %")


def parse(config_class: type[T], values: Mapping[str, Any], path: str) -> T:
    """Returns a configuration made from plain values, such as a JSON object. Absent fields get their defaults.

    Args:
      config_class: A configuration dataclass.
      values: Values by field name. Lists are accepted for tuples, and whole numbers for floats.
      path: The name of the configuration in messages, such as `config.model`.

    Raises:
      ConfigError: If a field is unknown or a value has the wrong type.
    """
    declared = {declared.name: hint for declared, hint in _declared(config_class)}
    for name in values:
        if name not in declared:
            near = difflib.get_close_matches(str(name), declared, 3, 0.5)
            remedy = f"did you mean {' or '.join(near)}?" if near else "remove it"
            raise ConfigError(f"{path}.{name} is unknown: wanted one of {', '.join(declared)}; {remedy}")
    return config_class(**{name: _parsed(declared[name], value, f"{path}.{name}") for name, value in values.items()})


def _parsed(hint: Any, value: Any, path: str) -> Any:
    """Converts a value to the type that a field declares."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        _require_type(isinstance(value, Mapping), path, value, "a section of fields")
        return parse(hint, value, path)
    if origin is tuple:
        _require_type(isinstance(value, list | tuple), path, value, "a tuple")
        kinds = (arguments[0],) * len(value) if arguments[-1] is Ellipsis else arguments
        _require_type(len(value) == len(kinds), path, value, f"{len(kinds)} values")
        return tuple(
            _parsed(kind, item, f"{path}[{row}]") for row, (kind, item) in enumerate(zip(kinds, value, strict=True))
        )
    if isinstance(hint, type) and issubclass(hint, tuple):
        return _parsed_named_tuple(hint, value, path)
    if origin is types.UnionType:
        return None if value is None else _parsed(arguments[0], value, path)
    if origin is Literal:
        _check_choice(hint, path, value)
        return value
    if origin is not None:
        _require_type(isinstance(value, Mapping), path, value, "names with values")
        return {str(name): _parsed(arguments[1], item, f"{path}.{name}") for name, item in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    words = {bool: "True or False", int: "a whole number", float: "a number", str: "text"}
    _require_type(type(value) is hint, path, value, words[hint])
    return value


def _parsed_named_tuple(hint: Any, value: Any, path: str) -> Any:
    """Converts a value to a named tuple, whose fields have plain types."""
    kinds = typing.get_type_hints(hint)
    good = isinstance(value, list | tuple) and tuple(map(type, value)) == tuple(kinds.values())
    _require_type(good, path, value, f"({', '.join(kinds)})")
    return hint._make(value)


def _require_type(condition: bool, name: str, got: object, wanted: str) -> None:
    require(condition, name, got, wanted, "correct it")


def plain(config: Any) -> dict[str, Any]:
    """Returns a configuration as nested dicts of plain values; named tuples become tuples."""
    return {declared.name: _plain(getattr(config, declared.name)) for declared in dataclasses.fields(config)}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return plain(value)
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    return dict(value) if isinstance(value, Mapping) else value


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested plain values by dotted name. Empty mappings are dropped."""
    out = {}
    for name, value in values.items():
        out |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return out


def explain(config: Any, name: str = "", path: str = "config") -> str:
    """Describes a field, or every field of a section: value, default, meaning, choices and range.

    Args:
      config: An instance of a configuration dataclass.
      name: The dotted name of a field or section, such as `loss.teacher`; empty for everything.
      path: The name of the configuration, for the text.

    Raises:
      ConfigError: If there is no such field.
    """
    found = dict(_explained(config, path))
    wanted = f"{path}.{name}" if name else path
    texts = [text for full, text in found.items() if full == wanted or full.startswith(f"{wanted}.")]
    if not texts:
        names = [full.removeprefix(f"{path}.") for full in found]
        near = difflib.get_close_matches(name, names, 3, 0.5)
        remedy = f"did you mean {' or '.join(near)}?" if near else f"its sections are {', '.join(plain(config))}"
        raise ConfigError(f"{wanted} is no field of the configuration; {remedy}")
    return "\n".join(texts)


def _explained(config: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yields the name and the description of every field."""
    defaults = type(config)()
    for declared, hint in _declared(type(config)):
        name, value = f"{path}.{declared.name}", getattr(config, declared.name)
        meaning, at_least, above, at_most, share = declared.metadata["field"]
        if dataclasses.is_dataclass(hint):
            yield name, f"{name}: {meaning}"
            yield from _explained(value, name)
            continue
        default = getattr(defaults, declared.name)
        text = f"{name} = {_plain(value)!r}" + ("" if value == default else f"  (default {_plain(default)!r})")
        limits = [f"at least {at_least}"] if at_least is not None else []
        limits += [f"more than {above}"] if above is not None else []
        limits += [f"at most {at_most}"] if at_most is not None else []
        limits += ["a share in 0..1"] if share else []
        if typing.get_origin(hint) is Literal:
            limits.append(f"one of {', '.join(map(repr, typing.get_args(hint)))}")
        yield name, f"{text}\n    {meaning}" + (f" [{', '.join(limits)}]" if limits else "")


@functools.cache
def _declared(config_class: type) -> tuple[tuple[dataclasses.Field, Any], ...]:
    """Returns every field of a dataclass with its type."""
    hints = typing.get_type_hints(config_class)
    return tuple((declared, hints[declared.name]) for declared in dataclasses.fields(config_class))
