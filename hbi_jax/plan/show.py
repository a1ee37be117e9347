"""The text and the JSON of a plan."""

import dataclasses
import json
from collections.abc import Sequence

from hbi_jax.plan.account import Account
from hbi_jax.plan.chips import CHIPS
from hbi_jax.plan.plan import TRAIN_STEP, Plan
from hbi_jax.plan.suggest import Change

_GIB = 2**30
# The parts of a model that are shown: their least share of the traffic, and their number.
_SHOWN, _MOST_PARTS = 0.02, 10


def to_json(plan: Plan, changes: Sequence[Change] = ()) -> str:
    """Returns a plan as JSON: bytes, operations, seconds and days, under the names of the classes' attributes.

    The bounds of a program are in milliseconds.
    """
    found = dataclasses.asdict(plan)
    for told, of in zip(found["accounts"], plan.accounts, strict=True):
        told["utilisation"] = of.utilisation
        if of.bounds is not None:
            told["bounds"]["binds"] = of.bounds.binds
    chip = CHIPS.get(plan.topology.partition(":")[0])
    found["peaks"] = None if chip is None else chip._asdict()
    found["fits"] = plan.fits
    found["changes"] = [dataclasses.asdict(change) for change in changes]
    return json.dumps(found, indent=2) + "\n"


def to_text(plan: Plan, changes: Sequence[Change] = ()) -> str:
    """Returns a plan for people."""
    axes = " x ".join(f"{size} {name}" for name, size in plan.mesh.items())
    rows, model = plan.batch_size // plan.mesh["data"], plan.mesh["model"]
    each = "a chip" if model == 1 else f"on every {model} chips"
    lines = [
        f"{plan.name} on {plan.topology}: {plan.chips:,} {'chip' if plan.chips == 1 else 'chips'} ({axes}), "
        f"{plan.hosts:,} {'host' if plan.hosts == 1 else 'hosts'}; training batch of {plan.batch_size:,} rows, "
        f"{rows:,} {each}"
    ]
    for account in plan.accounts:
        lines += ["", *_account(account, plan)]
    if plan.training is not None:
        lines += ["", *_training(plan)]
    if plan.assumptions:
        lines += ["", *(f"Assumed: {sentence}." for sentence in plan.assumptions)]
    if changes:
        lines += ["", "Tried to make it fit:"]
        lines += [f"  {change.fields:<40} {_outcome(change, plan)}" for change in changes]
    elif not plan.fits:
        lines += ["", "--suggest tries which of batch size, remat and others make it fit; each try is a compilation."]
    return "\n".join(lines) + "\n"


def _outcome(change: Change, plan: Plan) -> str:
    return f"refused: {change.error}" if change.account is None else _verdict(change.account, plan)


def _account(account: Account, plan: Plan) -> list[str]:
    lines = [f"{account.name}: {_verdict(account, plan)}"]
    if account.memory is None:
        return [*lines, f"  compiled in {account.compile_seconds:.0f} s"]
    memory, bounds = account.memory, account.bounds
    lines.append(
        f"  memory        arguments {_bytes(memory.arguments)}, results {_bytes(memory.results)}, temporaries "
        f"{_bytes(memory.temporaries)}; peak {_bytes(memory.peak)}"
    )
    chip = CHIPS.get(plan.topology.partition(":")[0])
    counts = {
        "compute": f"{_number(account.flops)}FLOP in products",
        "memory": f"{_bytes(account.hbm_bytes)} to and from memory",
        "interconnect": f"{_bytes(sum(found.sent for found in account.communication))} sent to other chips",
    }
    names = {"compute": "compute", "memory": "HBM" if chip else "traffic", "interconnect": "links"}
    for field, count in counts.items():
        line = f"  {names[field]:<13} {count:<36}"
        if bounds is not None and chip is not None:
            peak = {
                "compute": f"{_number(chip.flops)}FLOP/s",
                "memory": f"{chip.bandwidth / 1e9:,.0f} GB/s",
                "interconnect": f"{chip.interconnect / 1e9:,.0f} GB/s",
            }[field]
            binds = "  <- binds" if bounds.binds == field else ""
            line += f" {getattr(bounds, field):8.2f} ms at {peak}{binds}"
        lines.append(line.rstrip())
        if field == "memory" and account.on_chip_bytes:
            lines.append(f"  {'':<13} {_bytes(account.on_chip_bytes)} more in the memory of the chip itself")
    lines += [
        f"    {found.kind:<19} {found.number:,} {'in loops' if found.in_loop else 'outside loops'}, {found.runs:,} "
        f"{'run' if found.runs == 1 else 'runs'}, {_bytes(found.size)}"
        for found in account.communication
    ]
    if account.loops:
        unknown = f" ({account.unknown_loops} of unknown length counted once)" if account.unknown_loops else ""
        lines.append(f"  loops         {account.loops:,}, {account.iterations:,} iterations{unknown}")
    if account.kernels:
        lines.append(f"  not counted   the work of the kernels {', '.join(account.kernels)}")
    shown = [part for part in account.parts if part.hbm_bytes >= _SHOWN * account.hbm_bytes][:_MOST_PARTS]
    for number, part in enumerate(shown):
        products = f", {_number(part.flops)}FLOP" if part.flops else ""
        share = f"{100 * part.hbm_bytes / account.hbm_bytes:.0f} %"
        label = "" if number else "traffic of"
        lines.append(f"  {label:<13} {part.name:<44} {share:>4}, {_bytes(part.hbm_bytes)}{products}")
    lines.append(f"  compiled in   {account.compile_seconds:.0f} s, {account.instructions:,} instructions")
    return lines


def _training(plan: Plan) -> list[str]:
    found = plan.training
    slow, fast = found.step_ms
    step = next(account for account in plan.accounts if account.name == TRAIN_STEP)
    per_second, clips = map(_range, (found.examples_per_second, found.clips_per_host))
    lines = [
        "Training at the chip's peaks; real steps take longer:",
        f"  {fast:.1f} ms a step if compute, HBM and links overlap, {slow:.1f} ms if they take turns; MFU at most "
        f"{100 * step.utilisation:.0f} %",
        f"  {per_second} examples/s; each host must deliver {clips} clips/s",
    ]
    if found.days is None:
        return [*lines, "  how long the run takes depends on its data: give --num_examples, the rows of an epoch"]
    return [*lines, f"  {found.steps:,} steps: {_duration(found.days)}, without validation and checkpoints"]


def _verdict(account: Account, plan: Plan) -> str:
    usable = "" if plan.usable is None else f" of {_bytes(plan.usable)}"
    if account.fits is None:
        return f"{_bytes(account.memory.peak)} a device"
    if account.fits:
        return f"fits, {_bytes(account.memory.peak)}{usable} a chip"
    needed = account.needed if account.memory is None else account.memory.peak
    return f"DOES NOT FIT{'' if needed is None else f': it needs at least {_bytes(needed)}{usable} a chip'}"


def _bytes(size: float | int) -> str:
    for unit, name in ((_GIB, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= unit:
            return f"{size / unit:.2f} {name}"
    return f"{size:.0f} B"


def _number(count: float | int) -> str:
    for unit, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if count >= unit:
            return f"{count / unit:.3g} {prefix}"
    return f"{count:.0f} "


def _range(values: tuple[float, float]) -> str:
    return " to ".join(f"{value:,.0f}" if value >= 10 else f"{value:.1f}" for value in values)


def _duration(days: tuple[float, float]) -> str:
    slow, fast = days
    units = {"days": 1, "hours": 1 / 24, "minutes": 1 / 1440, "seconds": 1 / 86400}
    name = next((name for name, unit in units.items() if fast >= 2 * unit), "seconds")
    return f"{fast / units[name]:.1f} to {slow / units[name]:.1f} {name}"
