"""Devices: the mesh, which parameter lies where, and how a batch from the host is spread over it."""

import re
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

DATA_AXIS, MODEL_AXIS = "data", "model"

# First match on the parameter's path wins. The towers' wide products are cut along `model`; the rest, small
# or awkward to cut, lies whole on every device.
PARAM_RULES: tuple[tuple[str, PartitionSpec], ...] = (
    (r"/(in_proj|mlp_fc)/kernel$", PartitionSpec(None, MODEL_AXIS)),
    (r"/(in_proj|mlp_fc)/bias$", PartitionSpec(MODEL_AXIS)),
    (r"/(out_proj|mlp_proj)/kernel$", PartitionSpec(MODEL_AXIS, None)),
    (r"/token_embedding/embedding$", PartitionSpec(MODEL_AXIS, None)),
    (r"", PartitionSpec()),
)


def make_mesh(data: int = -1, model: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of `data` x `model` devices.

    Args:
      data: Devices along the batch; -1 takes all that `model` leaves.
      model: Devices along the towers' widths.
      devices: All of the process group's by default.

    Raises:
      ValueError: If the devices do not fill the mesh.
    """
    devices = jax.devices() if devices is None else list(devices)
    if data == -1:
        data = len(devices) // model
    if data < 1 or model < 1 or data * model != len(devices):
        raise ValueError(
            f"config.mesh.data={data} x config.mesh.model={model} is not the {len(devices)} devices there are; "
            "use config.mesh.data=-1 and a config.mesh.model that divides them"
        )
    return jax.make_mesh(
        (data, model), (DATA_AXIS, MODEL_AXIS), axis_types=(AxisType.Auto, AxisType.Auto), devices=devices
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows along `data`, whole along `model`."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def path_name(path: tuple) -> str:
    """A tree path as `params/text_tower/ln_final/scale`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def param_shardings(
    tree: PyTree, mesh: Mesh, rules: Sequence[tuple[str, PartitionSpec]] = PARAM_RULES
) -> PyTree[NamedSharding]:
    """The sharding of every leaf by its path.

    The optimizer's moments have their parameter's path as the end of their own, so the same rules serve them.

    Raises:
      ValueError: If no rule matches a leaf, or a dimension is not divisible by its mesh axis.
    """

    def sharding(path, leaf):
        name = path_name(path)
        spec = next((spec for pattern, spec in rules if re.search(pattern, name)), None)
        if spec is None:
            raise ValueError(f"no sharding rule matches parameter {name}; add one to PARAM_RULES")
        for dimension, axis in enumerate(spec):
            if axis is not None and leaf.shape[dimension] % mesh.shape[axis]:
                raise ValueError(
                    f"parameter {name}: dimension {dimension} of {leaf.shape} is not divisible by the "
                    f"{mesh.shape[axis]} devices of mesh axis {axis!r}; use a config.mesh.{axis} that divides it"
                )
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(sharding, tree)


def abstract_params(shapes: PyTree, mesh: Mesh) -> PyTree[jax.ShapeDtypeStruct]:
    """Shapes and dtypes with the shardings of `param_shardings`."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        param_shardings(shapes, mesh),
    )


def put_batch(batch: PyTree[np.ndarray], mesh: Mesh) -> PyTree[jax.Array]:
    """Makes the global batch of every process's rows, spread along `data`."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)
