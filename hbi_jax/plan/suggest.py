"""Finds which changes of a configuration make a plan fit, by compiling with each of them."""

import dataclasses
import logging
from collections.abc import Iterator

from hbi_jax.commands.progress import format_duration
from hbi_jax.plan.account import Account, CompileError, account
from hbi_jax.plan.plan import TRAIN_STEP, Plan, programs
from hbi_jax.plan.topology import Topology
from hbi_jax.tasks.config import Config

_log = logging.getLogger(__name__)

_REMAT = ("none", "elementwise", "blocks")


@dataclasses.dataclass(frozen=True)
class Change:
    """One change that was tried.

    Attributes:
      fields: The fields as the command line sets them, such as `--config.model.remat=blocks`.
      account: The account of the program with them; None if the compiler refused it.
      error: What the compiler said then.
    """

    fields: str
    account: Account | None
    error: str = ""

    @property
    def fits(self) -> bool:
        """Whether the program fits with them."""
        return self.account is not None and bool(self.account.fits)


def suggest(config: Config, topology: Topology, plan: Plan) -> Iterator[Change]:
    """Tries changes for every program of a plan that does not fit; each try is a compilation.

    Of each field, larger changes are tried until one fits.

    Args:
      config: The configuration of the plan.
      topology: The devices of the plan.
      plan: The plan.

    Yields:
      Every change that was tried, as soon as it was.
    """
    for refused in plan.accounts:
        if refused.fits is not False:
            continue
        name = refused.name
        mode = "train" if name == TRAIN_STEP else "evaluate"
        for field, values in _fields(config, name, plan.mesh["data"]):
            for value in values:
                flag = f"--config.{field.replace('__', '.')}={value}"
                _log.info("trying %s, which takes about %s", flag, format_duration(refused.compile_seconds))
                found, _, _ = programs(config.replace(**{field: value}), topology, mode)
                try:
                    change = Change(flag, account(name, found[name], topology.chip))
                except CompileError as error:
                    change = Change(flag, None, str(error))
                _log.info("%s with %s", "fits" if change.fits else "does not fit", flag)
                yield change
                if change.fits:
                    break


def _fields(config: Config, program: str, rows: int) -> Iterator[tuple[str, list]]:
    """Yields the fields that save memory in a program, each with its values in the order in which to try them."""
    if program != TRAIN_STEP:
        yield "eval__batch_size", _halves(config.eval.batch_size, rows)
        if program == "gallery_similarity":
            yield "eval__video_block", _halves(config.eval.video_block, 1)
        return
    remat = config.model.remat
    if remat == "auto":
        remat = "none" if config.model.scan_layers == "off" else "elementwise"
    yield "model__remat", list(_REMAT[_REMAT.index(remat) + 1 :])
    frames, portions = config.data.num_frames, config.model.frame_portions
    yield (
        "model__frame_portions",
        [count for count in range(portions + 1, frames + 1) if frames % count == 0 and count % portions == 0],
    )
    # The contrastive loss needs two rows.
    yield "train__batch_size", _halves(config.train.batch_size, rows, least=2)
    if not config.mesh.fsdp:
        yield "mesh__fsdp", [True]


def _halves(size: int, multiple: int, least: int = 1) -> list[int]:
    """Returns a half, a quarter and so on of a size, as long as they are multiples of a number and at least `least`."""
    found = []
    while size % (2 * multiple) == 0 and size >= 2 * least:
        size //= 2
        found.append(size)
    return found
