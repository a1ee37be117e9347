"""Plans a run on TPUs that are not here: whether it fits, what bounds its speed, and how long it takes at best.

  python -m hbi_jax.plan --config=activitynet --topology=v5e:4x4
  python -m hbi_jax.plan --config=msrvtt --topology=cpu:8 --mode=train

It compiles the training step and the programs of an evaluation for the topology, as the run itself would, and reads
what the compiler made of them. No TPU, no data and no weights are needed; `pip install 'hbi_jax[plan]'` installs the
compiler of TPUs (Linux). Topologies are v4, v5e, v5p or v6e with the chips along each axis, such as v5e:16x16, or a
number of simulated devices, such as cpu:8. Compiling a large model takes minutes. docs/scaling.md explains the output.
"""

import os
import pathlib

from absl import flags

from hbi_jax.commands import cli

_TOPOLOGY = flags.DEFINE_string(
    "topology",
    None,
    "The chips, such as v5e:4x4 or v5p:2x2x2; or cpu:8. With config.mesh.slices, the chips of a slice.",
)
_MODE = flags.DEFINE_enum("mode", "both", ["train", "evaluate", "both"], "What to plan.")
_JSON = flags.DEFINE_string("json", None, "A file to write the plan to as JSON.")
_SUGGEST = flags.DEFINE_bool(
    "suggest", False, "If it does not fit, try which fields make it fit. Each try is a compilation."
)
_NUM_EXAMPLES = flags.DEFINE_integer(
    "num_examples",
    None,
    "Rows of a training epoch, for the length of the run; default: as published, if known.",
    lower_bound=1,
)


def _main() -> None:
    """Makes the plan that the flags describe."""
    cli.wanted((cli.CONFIG, "msrvtt"), (_TOPOLOGY, "v5e:2x4"))
    out = None if _JSON.value is None else pathlib.Path(_JSON.value).expanduser().absolute()
    if out is not None and not out.parent.is_dir():
        cli.fail(f"--json={_JSON.value}: wanted a file in a folder that exists; create the folder, or correct it")
    # The programs are compiled, but run nowhere: an accelerator of this machine stays free.
    os.environ["JAX_PLATFORMS"] = "cpu"
    # Programs for chips that are not here cannot be kept.
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    from hbi_jax.config import parse
    from hbi_jax.plan.plan import make_plan
    from hbi_jax.plan.show import to_json, to_text
    from hbi_jax.plan.suggest import suggest
    from hbi_jax.plan.topology import open_topology

    config = parse(cli.CONFIG.value)
    topology = open_topology(_TOPOLOGY.value, config.mesh.slices)
    plan = make_plan(config, topology, _MODE.value, _NUM_EXAMPLES.value)
    changes = []
    try:
        if _SUGGEST.value:
            changes.extend(suggest(config, topology, plan))
    finally:
        # Compilations take minutes: what is known is shown whatever ends the tries.
        print(to_text(plan, changes), end="")
        if out is not None:
            out.write_text(to_json(plan, changes), encoding="utf-8")


if __name__ == "__main__":
    cli.run(_main, __name__, __doc__)
