"""The account of one program: what it takes of a chip's memory, time and links, as its compiler says."""

import contextlib
import dataclasses
import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import jax

from hbi_jax.commands.progress import format_duration
from hbi_jax.plan import hlo
from hbi_jax.plan.chips import Chip
from hbi_jax.plan.costs import costs
from hbi_jax.plan.parts import Part, parts
from hbi_jax.tasks import gallery

_log = logging.getLogger(__name__)

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# What libtpu says where the buffers of a program exceed the HBM of a chip.
_EXCEEDS = (
    re.compile(r"required for HLO temporaries \(([\d.]+)([KMGT]?)\) exceeds available HBM", re.IGNORECASE),
    re.compile(r"Used ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? hbm", re.IGNORECASE),
)
_TOO_LARGE = re.compile(r"RESOURCE_EXHAUSTED.*\bhbm\b", re.IGNORECASE | re.DOTALL)


class CompileError(ValueError):
    """The compiler refused a program for a reason other than its size."""


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one chip's memory.

    Attributes:
      arguments: What the program is called with: state and batch, or parameters and inputs.
      results: Results that do not take the place of an argument.
      temporaries: What it needs besides.
      peak: The most at any time.
    """

    arguments: int
    results: int
    temporaries: int
    peak: int


@dataclasses.dataclass(frozen=True)
class Communication:
    """The collectives of one kind.

    Attributes:
      kind: Such as `all-gather`.
      in_loop: Whether they stand in loops.
      number: How many there are in the program.
      runs: How many run in a call.
      size: Bytes of the whole arrays, of all runs.
      sent: Bytes that each chip sends, of all runs, if every byte takes the shortest way round a ring.
    """

    kind: str
    in_loop: bool
    number: int
    runs: int
    size: int
    sent: float


@dataclasses.dataclass(frozen=True)
class Bounds:
    """The shortest times of one run at a chip's peaks, in milliseconds.

    Attributes:
      compute: Of the matrix products.
      memory: Of the bytes between HBM and chip.
      interconnect: Of the bytes between chips.
    """

    compute: float
    memory: float
    interconnect: float

    @property
    def binds(self) -> str:
        """The name of the longest."""
        times = dataclasses.asdict(self)
        return max(times, key=times.get)

    @property
    def overlapped(self) -> float:
        """The time if all three overlap completely: the longest."""
        return max(self.compute, self.memory, self.interconnect)

    @property
    def in_turn(self) -> float:
        """The time if none overlaps with another: the sum."""
        return self.compute + self.memory + self.interconnect


@dataclasses.dataclass(frozen=True)
class Account:
    """The account of a program on one chip. If the compiler refuses it as too large, only the first fields are known.

    Attributes:
      name: The program.
      fits: Whether it fits the memory of the chip; None if that is not known.
      needed: Bytes that it needs at least if the compiler refuses it as too large and says how many; otherwise None.
      compile_seconds: Tracing, lowering and compilation.
      instructions: Instructions in the text of the compiled program.
      memory: Its memory.
      flops: Operations of matrix products and convolutions.
      flops_counted: All operations by the compiler's count, in which loop bodies count once.
      hbm_bytes: Bytes moved between HBM and chip; loop bodies count as often as they run.
      on_chip_bytes: Bytes read and written in the memory of the chip itself.
      bytes_counted: Bytes by the compiler's count: both of these, with loop bodies once.
      loops: Number of loops.
      iterations: Their iterations, all together.
      unknown_loops: Loops whose length the text does not tell; their bodies count once.
      communication: The collectives.
      kernels: Kernels whose operations are not in the text, and not in `flops`.
      bounds: The shortest times; None for devices of unknown peaks.
      parts: The costs of each part of the model, those that move the most bytes first.
    """

    name: str
    fits: bool | None
    needed: float | None
    compile_seconds: float
    instructions: int = 0
    memory: Memory | None = None
    flops: int = 0
    flops_counted: float = 0.0
    hbm_bytes: int = 0
    on_chip_bytes: int = 0
    bytes_counted: float = 0.0
    loops: int = 0
    iterations: int = 0
    unknown_loops: int = 0
    communication: tuple[Communication, ...] = ()
    kernels: tuple[str, ...] = ()
    bounds: Bounds | None = None
    parts: tuple[Part, ...] = ()

    @property
    def utilisation(self) -> float | None:
        """The share of the peak operations at the time of the longest bound: no measured MFU can exceed it."""
        if self.bounds is None or not self.bounds.overlapped:
            return None
        return self.bounds.compute / self.bounds.overlapped


class _Compiled(NamedTuple):
    """What the compiler made of a program: the program, or None and the bytes that it would need, if known."""

    program: jax.stages.Compiled | None
    needed: float | None
    seconds: float


def account(name: str, program: gallery.Program, chip: Chip | None) -> Account:
    """Compiles a program for the devices of its arguments, and accounts for it.

    Args:
      name: A name for it.
      program: The program.
      chip: The kind of chip; None for devices of unknown peaks.

    Raises:
      CompileError: If the compiler refuses the program, other than for its size.
    """
    compiled, needed, seconds = _compile(name, program)
    if compiled is None:
        return Account(name, False, needed, seconds)
    sizes, counted, text = compiled.memory_analysis(), compiled.cost_analysis(), compiled.as_text()
    del compiled
    held = (
        sizes.argument_size_in_bytes,
        sizes.output_size_in_bytes - sizes.alias_size_in_bytes,
        sizes.temp_size_in_bytes,
    )
    # On CPU, the compiler's peak leaves the temporaries out.
    memory = Memory(*held, peak=max(sizes.peak_memory_in_bytes, sum(held)))
    read = hlo.Program(text)
    cost, loops, communication = costs(read), read.loops(), _communication(read.collectives())
    bounds = None
    if chip is not None:
        bounds = Bounds(
            compute=1e3 * cost.passes / chip.flops,
            memory=1e3 * cost.traffic.memory / chip.bandwidth,
            interconnect=1e3 * sum(found.sent for found in communication) / chip.interconnect,
        )
    return Account(
        name=name,
        fits=None if chip is None else memory.peak <= chip.usable,
        needed=None,
        compile_seconds=seconds,
        instructions=read.num_instructions,
        memory=memory,
        flops=cost.flops,
        flops_counted=counted.get("flops", 0.0),
        hbm_bytes=cost.traffic.memory,
        on_chip_bytes=cost.traffic.on_chip,
        bytes_counted=counted.get("bytes accessed", 0.0),
        loops=len(loops),
        iterations=sum(times * (loop.trips or 1) for loop, times in loops),
        unknown_loops=sum(loop.trips is None for loop, _ in loops),
        communication=communication,
        kernels=cost.opaque,
        bounds=bounds,
        parts=parts(read),
    )


def _compile(name: str, program: gallery.Program) -> _Compiled:
    begun = time.perf_counter()
    try:
        with _told(name):
            compiled, needed = program.function.lower(*program.arguments).compile(), None
    except jax.errors.JaxRuntimeError as error:
        message = str(error)
        if not _TOO_LARGE.search(message):
            raise CompileError(
                f"{name}: the compiler refused it: {message.splitlines()[0]}; try another topology, or report it"
            ) from error
        compiled, needed = None, needed_bytes(message)
    return _Compiled(compiled, needed, time.perf_counter() - begun)


@contextlib.contextmanager
def _told(name: str, interval: float = 60.0) -> Iterator[None]:
    """Logs that a program is being compiled: at the beginning, after every `interval` seconds, and at the end."""
    begun, ended = time.perf_counter(), threading.Event()

    def passed() -> str:
        return format_duration(time.perf_counter() - begun)

    def wait() -> None:
        while not ended.wait(interval):
            _log.info("still compiling %s, for %s", name, passed())

    _log.info("compiling %s", name)
    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        _log.info("compiled %s in %s", name, passed())


def needed_bytes(message: str) -> float | None:
    """Returns the bytes that a program needs according to the compiler's message that it does not fit, or None."""
    for pattern in _EXCEEDS:
        if found := pattern.search(message):
            return float(found[1]) * _UNITS[found[2].upper()]
    return None


def _communication(collectives: list[hlo.Collective]) -> tuple[Communication, ...]:
    """Adds up the collectives of each kind, in loops and outside."""
    number, runs, size, sent = Counter(), Counter(), Counter(), Counter()
    for found in collectives:
        if found.group == 1:
            continue
        key = found.kind, found.in_loop
        number[key] += 1
        runs[key] += found.times
        size[key] += found.times * found.size
        sent[key] += found.times * found.sent
    return tuple(
        Communication(*key, number=number[key], runs=runs[key], size=size[key], sent=float(sent[key]))
        for key in sorted(number)
    )
