"""The device mesh, the sharding of parameters, and the transfer of batches from the host."""

import functools
import math
import re
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int, PyTree

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


# A smaller parameter is not worth the communication of spreading it.
_FSDP_SIZE = 2**14


def make_mesh(data: int = -1, model: int = 1, devices: Sequence[jax.Device] | None = None, slices: int = 1) -> Mesh:
    """Returns a mesh of `data` x `model` devices.

    Args:
      data: Devices along the batch; -1 uses all devices that `model` leaves.
      model: Devices along the towers' widths.
      devices: The devices; by default those of all processes.
      slices: Groups of devices with a slower network between them, which become groups of neighbours along the batch.

    Raises:
      ValueError: If the mesh does not use exactly these devices, or they are not in as many groups of one size.
    """
    devices = jax.devices() if devices is None else list(devices)
    wanted = data
    if data == -1:
        data = len(devices) // max(1, model)
    if data < 1 or model < 1 or data * model != len(devices):
        raise ValueError(
            f"config.mesh.data={wanted} x config.mesh.model={model} is not the {len(devices)} devices available; "
            "use config.mesh.data=-1 and a config.mesh.model that divides their number"
        )
    axes = {"axis_names": (DATA_AXIS, MODEL_AXIS), "axis_types": (AxisType.Auto, AxisType.Auto)}
    if slices == 1:
        return jax.make_mesh((data, model), devices=devices, **axes)
    groups = _groups(devices, slices)
    if data % slices or len({len(group) for group in groups}) > 1 or len(groups) != slices:
        raise ValueError(
            f"config.mesh.slices={slices}: got {len(groups)} groups of {[*map(len, groups)]} devices "
            f"and config.mesh.data={data}; wanted as many groups of one size, and a config.mesh.data that they divide"
        )
    parts = [jax.make_mesh((data // slices, model), devices=group, **axes).devices for group in groups]
    return Mesh(np.concatenate(parts), **axes)


def _groups(devices: Sequence[jax.Device], slices: int) -> list[list[jax.Device]]:
    """Returns the devices of each slice; of devices that know of none, those of each process or an equal share."""
    names = [getattr(device, "slice_index", None) for device in devices]
    if len(set(names)) < slices:
        names = [device.process_index for device in devices]
    if len(set(names)) < slices:
        names = [number * slices // len(devices) for number in range(len(devices))]
    return [[device for device, name in zip(devices, names, strict=True) if name == one] for one in sorted(set(names))]


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
    tree: PyTree, mesh: Mesh, rules: Sequence[tuple[str, PartitionSpec]] = PARAM_RULES, fsdp: bool = False
) -> PyTree[NamedSharding]:
    """Returns the sharding of every leaf by its path.

    The path of an optimizer moment ends with the path of its parameter, so the same rules apply to it.

    Args:
      tree: Parameters or a state.
      mesh: The devices.
      rules: The first whose pattern is found in the path applies.
      fsdp: Whether the largest dimension that the rule leaves whole is spread over the data axis, if it divides it.

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
        return NamedSharding(mesh, _spread(spec, leaf.shape, mesh) if fsdp else spec)

    return jax.tree_util.tree_map_with_path(sharding, tree)


def _spread(spec: PartitionSpec, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """Returns the sharding with one more dimension along the data axis, if the array is large enough."""
    devices = mesh.shape[DATA_AXIS]
    axes = [*spec, *[None] * (len(shape) - len(spec))]
    free = [i for i, axis in enumerate(axes) if axis is None and not shape[i] % devices]
    if not free or math.prod(shape) < _FSDP_SIZE:
        return spec
    axes[max(free, key=lambda i: shape[i])] = DATA_AXIS
    return PartitionSpec(*axes)


def abstract_params(shapes: PyTree, mesh: Mesh, fsdp: bool = False) -> PyTree[jax.ShapeDtypeStruct]:
    """Returns shapes and dtypes with the shardings of `param_shardings`."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        param_shardings(shapes, mesh, fsdp=fsdp),
    )


def local_rows(mesh: Mesh, batch_size: int, process_index: int | None = None) -> Int[np.ndarray, " m"]:
    """Returns the rows of a global batch that the devices of a process hold, ascending.

    Processes whose devices differ only along `model` hold the same rows.

    Args:
      mesh: The mesh.
      batch_size: Rows of the global batch, a multiple of the mesh's data axis.
      process_index: The process; this one if None.

    Raises:
      ValueError: If the batch cannot be divided among the devices, or the process has no device in the mesh.
    """
    if batch_size % mesh.shape[DATA_AXIS]:
        raise ValueError(
            f"batch_size: got {batch_size}, wanted a multiple of the {mesh.shape[DATA_AXIS]} devices along the mesh's "
            "data axis."
        )
    places = np.array(_places(mesh, jax.process_index() if process_index is None else process_index))
    share = batch_size // mesh.shape[DATA_AXIS]
    return (places[:, None] * share + np.arange(share)).reshape(-1)


@functools.lru_cache(maxsize=32)
def _places(mesh: Mesh, process: int) -> tuple[int, ...]:
    """Returns the coordinates along `data` of the devices of a process, ascending."""
    owners = np.vectorize(lambda device: device.process_index, otypes=[int])(mesh.devices)
    places = np.flatnonzero((owners == process).any(axis=mesh.axis_names.index(MODEL_AXIS)))
    if not len(places):
        raise ValueError(f"mesh: got one without a device of process {process}, wanted devices of every process.")
    return tuple(places.tolist())


def put_batch(batch: PyTree[np.ndarray], mesh: Mesh) -> PyTree[jax.Array]:
    """Returns the global batch, sharded along `data`, from the `local_rows` of every process."""
    sharding, places = batch_sharding(mesh), _places(mesh, jax.process_index())

    def put(local: np.ndarray) -> jax.Array:
        local = np.asarray(local)
        share = len(local) // len(places)

        def shard(index: tuple[slice, ...]) -> np.ndarray:
            first = share * places.index((index[0].start or 0) // share)
            return local[first : first + share]

        return jax.make_array_from_callback((share * mesh.shape[DATA_AXIS], *local.shape[1:]), sharding, shard)

    return jax.tree.map(put, batch)


def put_everywhere(tree: PyTree[np.ndarray], sharding: NamedSharding) -> PyTree[jax.Array]:
    """Returns global arrays with a sharding, from arrays that are the same on every process, which is not checked."""
    return jax.tree.map(
        lambda x: jax.make_array_from_callback(np.shape(x), sharding, lambda index: np.asarray(x)[index]), tree
    )
