"""The report of a run as plain data; `write` renders it."""

import dataclasses
import platform
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax
import jax

# As returned by `metrics.retrieval.retrieval_metrics`: {"t2v": {...}, "v2t": {...}, "Rsum": float}.
Metrics = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Row:
    """The results of one method on one gallery.

    Attributes:
      method: The name in the table, such as "HBI, trained", "untrained" or "mean pooling".
      metrics: The recalls in percent, and ranks from 1.
      group_accuracy: Percentage of texts that are right within their group of near-twins; None without groups.
      note: A sentence that explains the method; the report prints it under "How it was measured".
    """

    method: str
    metrics: Metrics
    group_accuracy: float | None = None
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Gallery:
    """A gallery, and the results of every method on it.

    Attributes:
      name: The heading, such as "random test videos".
      texts: Number of texts, without those of unreadable videos.
      videos: Number of readable videos.
      chance: The metrics of a random order, in the layout of `Row.metrics`.
      rows: The methods. The first is the run's own; the headline reports it.
      group_chance: In-group accuracy of guessing, in percent; None without groups.
      note: A sentence that describes the gallery.
    """

    name: str
    texts: int
    videos: int
    chance: Metrics
    rows: Sequence[Row]
    group_chance: float | None = None
    note: str = ""


class Column(NamedTuple):
    """A column of a table: its name with its unit, and a sentence that explains it if the name does not."""

    name: str
    note: str = ""


class TableRow(NamedTuple):
    """A row of a table: the method, one value per column (None: not measured), and a sentence that explains it."""

    method: str
    values: Sequence[float | int | None]
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """Results other than those of a retrieval gallery.

    Attributes:
      name: The heading.
      headline: A sentence with the most important result; empty for a table of details, which the terminal does not
        show.
      columns: The quantities.
      rows: The methods; the first is the run's own.
      note: A sentence that describes the data.
    """

    name: str
    headline: str
    columns: Sequence[Column]
    rows: Sequence[TableRow]
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Training:
    """The cost of training.

    Attributes:
      steps: Number of optimizer steps.
      seconds: Wall time of the loop, including validation, without compilation of the step.
      steps_per_second: Throughput after compilation.
      compile_seconds: Time to compile the step.
      parameters: Number of parameters, trained and frozen.
      wait_seconds: The part of the wall time that training waited for data.
      timed_steps: The last steps, which the times are of; fewer than `steps` if the run was resumed. Earlier versions
        did not record it.
    """

    steps: int
    seconds: float
    steps_per_second: float
    compile_seconds: float
    parameters: int
    wait_seconds: float
    timed_steps: int | None = None


@dataclasses.dataclass(frozen=True)
class Environment:
    """The machine and the versions of a run."""

    device_kind: str
    device_count: int
    hbi_jax: str
    python: str
    jax: str
    flax: str


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture to embed: its file, absolute or relative to the folder of the report, and its caption."""

    path: str
    caption: str


@dataclasses.dataclass(frozen=True)
class Report:
    """The report of a run.

    Attributes:
      title: The heading of the page.
      command: The command line that repeats the run.
      config: The whole configuration as nested dicts of plain values.
      environment: The machine and the versions.
      dataset: Counts by name, such as `{"train videos": 1200}`.
      galleries: Retrieval results.
      tables: Other results.
      protocol: Sentences that say how the results were measured (ties, Rsum, which captions).
      training: The cost of training; None if only an evaluation ran.
      unreadable: The reason for each skipped video, by video id.
      pictures: The pictures, in order.
    """

    title: str
    command: str
    config: Mapping[str, Any]
    environment: Environment
    dataset: Mapping[str, int]
    galleries: Sequence[Gallery] = ()
    tables: Sequence[Table] = ()
    protocol: Sequence[str] = ()
    training: Training | None = None
    unreadable: Mapping[str, str] = dataclasses.field(default_factory=dict)
    pictures: Sequence[Picture] = ()


def current_environment(hbi_jax_version: str) -> Environment:
    """Returns the devices that JAX sees, and the relevant versions."""
    devices = jax.devices()
    return Environment(
        device_kind=devices[0].device_kind,
        device_count=len(devices),
        hbi_jax=hbi_jax_version,
        python=platform.python_version(),
        jax=jax.__version__,
        flax=flax.__version__,
    )
