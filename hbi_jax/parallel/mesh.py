"""The device mesh, the sharding of parameters, and the transfer of batches from the host."""

import re
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

DATA_AXIS, MODEL_AXIS = "data", "model"

# The first rule that matches the parameter's path applies. The towers' wide kernels are sharded along `model`; the
# other parameters, which are small or awkward to shard, are replicated.
PARAM_RULES: tuple[tuple[str, PartitionSpec], ...] = (
    (r"/(in_proj|mlp_fc)/kernel$", PartitionSpec(None, MODEL_AXIS)),
    (r"/(in_proj|mlp_fc)/bias$", PartitionSpec(MODEL_AXIS)),
    (r"/(out_proj|mlp_proj)/kernel$", PartitionSpec(MODEL_AXIS, None)),
    (r"/token_embedding/embedding$", PartitionSpec(MODEL_AXIS, None)),
    (r"", PartitionSpec()),
)


def make_mesh(data: int = -1, model: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a mesh of `data` x `model` devices.

    Args:
      data: Devices along the batch; -1 uses all devices that `model` leaves.
      model: Devices along the towers' widths.
      devices: The devices; by default those of all processes.

    Raises:
      ValueError: If the mesh does not use exactly these devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    if data == -1:
        data = len(devices) // model
    if data < 1 or model < 1 or data * model != len(devices):
        raise ValueError(
            f"config.mesh.data={data} x config.mesh.model={model} is not the {len(devices)} devices available; "
            "use config.mesh.data=-1 and a config.mesh.model that divides their number"
        )
    return jax.make_mesh(
        (data, model), (DATA_AXIS, MODEL_AXIS), axis_types=(AxisType.Auto, AxisType.Auto), devices=devices
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: rows along `data`, replicated along `model`."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that replicates an array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def path_name(path: tuple) -> str:
    """Returns a tree path in the form `params/text_tower/ln_final/scale`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def param_shardings(
    tree: PyTree, mesh: Mesh, rules: Sequence[tuple[str, PartitionSpec]] = PARAM_RULES
) -> PyTree[NamedSharding]:
    """Returns the sharding of every leaf by its path.

    The path of an optimizer moment ends with the path of its parameter, so the same rules apply to it.

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
    """Returns shapes and dtypes with the shardings of `param_shardings`."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        param_shardings(shapes, mesh),
    )


def put_batch(batch: PyTree[np.ndarray], mesh: Mesh) -> PyTree[jax.Array]:
    """Returns the global batch, sharded along `data`, from the rows of every process."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)
