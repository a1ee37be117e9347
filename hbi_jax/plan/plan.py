"""A plan: the accounts of a run's programs on a topology, and what they mean for the run."""

import dataclasses
from collections.abc import Mapping
from typing import Literal

from etils import epath

from hbi_jax.fields import ConfigError
from hbi_jax.parallel.mesh import make_mesh
from hbi_jax.plan.account import Account, account
from hbi_jax.plan.splits import training_rows
from hbi_jax.plan.topology import Topology
from hbi_jax.tasks.config import Config
from hbi_jax.tasks.gallery import Program
from hbi_jax.tasks.registry import TASKS
from hbi_jax.tasks.training import check_batch_size, make_state, make_step

Mode = Literal["train", "evaluate", "both"]
TRAIN_STEP = "train_step"
_DAY = 24 * 3600


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The duration of a training run at a chip's peaks. Two values are those without and with complete overlap.

    Attributes:
      step_ms: Milliseconds of a step.
      examples_per_second: Rows of all chips.
      clips_per_host: Clips per second that each host must deliver.
      steps: Length of the run; None if it depends on data whose size is not known.
      days: Duration of the run, without validation, evaluation and compilation; None if `steps` is.
    """

    step_ms: tuple[float, float]
    examples_per_second: tuple[float, float]
    clips_per_host: tuple[float, float]
    steps: int | None
    days: tuple[float, float] | None


@dataclasses.dataclass(frozen=True)
class Plan:
    """A plan.

    Attributes:
      name: The name of the configuration.
      topology: The name of the topology.
      chips, hosts: Their numbers.
      usable: Bytes of memory that a program may use on each chip; None for simulated devices.
      mesh: Devices along each axis of the mesh.
      batch_size: Rows of the global batch in training.
      accounts: One for each program.
      training: The duration of training; None without a training step that fits, or without known peaks.
      assumptions: Sentences on the sizes that only the data would tell.
    """

    name: str
    topology: str
    chips: int
    hosts: int
    usable: float | None
    mesh: Mapping[str, int]
    batch_size: int
    accounts: tuple[Account, ...]
    training: Estimate | None
    assumptions: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether no program is known not to fit."""
        return all(found.fits is not False for found in self.accounts)


def make_plan(config: Config, topology: Topology, mode: Mode = "both", num_examples: int | None = None) -> Plan:
    """Compiles the programs of a run and accounts for them. Makes no parameters and reads no data.

    Args:
      config: The configuration.
      topology: The devices.
      mode: Whether to plan training, evaluation or both.
      num_examples: Rows of an epoch; None takes them from the published data sets, if they are known.

    Raises:
      ConfigError: If the configuration does not suit the topology.
      CompileError: If the compiler refuses a program, other than for its size.
    """
    rows = num_examples or training_rows(config.data)
    steps = config.train.num_steps or (config.train.length(rows) if rows else None)
    planned, assumptions, mesh = programs(config, topology, mode, steps or 1)
    accounts = [account(name, program, topology.chip) for name, program in planned.items()]
    if mode != "evaluate" and rows and not config.train.num_steps:
        assumptions.append(f"an epoch has {rows:,} rows")
    return Plan(
        name=config.name,
        topology=topology.name,
        chips=len(topology.devices),
        hosts=topology.hosts,
        usable=None if topology.chip is None else topology.chip.usable,
        mesh=mesh,
        batch_size=config.train.batch_size,
        accounts=tuple(accounts),
        training=_estimate(config, topology, accounts, steps),
        assumptions=tuple(assumptions),
    )


def programs(
    config: Config, topology: Topology, mode: Mode = "both", num_steps: int = 1
) -> tuple[dict[str, Program], list[str], dict[str, int]]:
    """Returns the programs of a run by name, what was assumed about its data, and the axes of its mesh.

    The arguments are those of `make_plan`; `num_steps` is the length of the run.

    Raises:
      ConfigError: If the configuration does not suit the topology.
    """
    try:
        mesh = make_mesh(config.mesh.data, config.mesh.model, topology.devices, config.mesh.slices)
        if mode != "evaluate":
            check_batch_size(config, mesh)
        task, assumptions = TASKS[config.task].without_data(config, mesh, epath.Path("planned"))
    except ValueError as error:
        raise ConfigError(f"--topology={topology.name}: {error}") from error
    found, assumptions = {}, list(assumptions)
    if config.mesh.slices > 1:
        assumptions.append("the network between slices is as fast as the links within them, which it is not")
    if mode != "evaluate":
        tx, abstract = make_state(task, num_steps)
        found[TRAIN_STEP] = Program(make_step(task, tx, abstract), (abstract, task.abstract_batch()))
    if mode != "train":
        found |= task.evaluation_programs()
    return found, assumptions, dict(mesh.shape)


def _estimate(config: Config, topology: Topology, accounts: list[Account], steps: int | None) -> Estimate | None:
    """Returns the duration of training, if the step's bounds are known."""
    step = next((found for found in accounts if found.name == TRAIN_STEP), None)
    if step is None or step.bounds is None or not step.fits:
        return None
    both = (step.bounds.in_turn, step.bounds.overlapped)
    per_second = tuple(1e3 * config.train.batch_size / found for found in both)
    views = config.data.num_views
    return Estimate(
        step_ms=both,
        examples_per_second=per_second,
        clips_per_host=tuple(views * found / topology.hosts for found in per_second),
        steps=steps,
        days=None if steps is None else tuple(steps * found / 1e3 / _DAY for found in both),
    )
