"""Functions of rows, and of all pairs of rows, over a mesh, with their communication written down.

Left to itself, the compiler gathers whole batches: anew in every iteration of a loop over blocks, and for operations
that it cannot divide, such as `top_k`.
"""

import contextlib
from collections.abc import Callable, Mapping

import jax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, PyTree

from hbi_jax.parallel.mesh import DATA_AXIS, MODEL_AXIS


def on_mesh(mesh: Mesh) -> contextlib.AbstractContextManager:
    """Returns a context for tracing: functions of all pairs that are traced in it are divided among these devices."""
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def platform() -> str:
    """Returns the platform to trace for, such as `tpu`: that of the mesh or, outside `on_mesh`, of this machine."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def for_platform(values: Mapping[str, int]) -> int:
    """Returns the value for the platform to trace for, or that of `other`."""
    return values.get(platform(), values["other"])


def num_shards(rows: int) -> int:
    """Returns the number of devices that this many rows are divided among: 1 outside `on_mesh`."""
    devices = dict(jax.sharding.get_abstract_mesh().shape).get(DATA_AXIS, 1)
    return 1 if rows % devices else devices


def num_model_shards() -> int:
    """Returns the number of devices that the towers' widths are divided among: 1 outside `on_mesh`."""
    return dict(jax.sharding.get_abstract_mesh().shape).get(MODEL_AXIS, 1)


def split_along_model(x: Float[Array, "..."], dimension: int) -> Float[Array, "..."]:
    """Returns an array of which each device along the mesh's model axis holds its share of a dimension.

    Outside `on_mesh`, and if the devices do not divide the dimension, the array stays as it is.
    """
    if num_model_shards() == 1 or x.shape[dimension] % num_model_shards():
        return x
    axes = [PartitionSpec.UNCONSTRAINED] * x.ndim
    axes[dimension] = MODEL_AXIS
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*axes))


def each_row(function: Callable[..., PyTree], *batches: PyTree, shared: PyTree = ()) -> PyTree:
    """Returns `function(*batches, *shared)`, of which each device computes its own rows.

    Of `batches`, nothing is moved. Each device receives what it lacks of `shared` before `function` begins. The
    gradients of `shared` are added up over the devices after the backward pass of `function`, not in its loops.

    Args:
      function: Maps arrays of any number of rows to arrays of as many; a row of a result depends on no other row.
      *batches: Arrays of one number of rows.
      shared: A tuple of arrays that all rows share.
    """
    if num_shards(len(jax.tree.leaves(batches)[0])) == 1:
        return function(*batches, *shared)
    rows, everywhere = PartitionSpec(DATA_AXIS), PartitionSpec()

    def of_own_rows(batches: PyTree, shared: PyTree) -> PyTree:
        return function(*batches, *_own(shared))

    return jax.shard_map(of_own_rows, in_specs=(rows, everywhere), out_specs=rows)(batches, shared)


def all_pairs(
    function: Callable[..., Float[Array, "a b"]], first: PyTree, second: PyTree, *shared: PyTree
) -> Float[Array, "a b"]:
    """Returns `function(first, second, *shared)`, of which each device computes its own rows.

    A device holds some rows of both batches. It receives all rows of `second`, once, before `function` begins. In the
    backward pass each row's gradients are added up on the device that holds it, and those of `shared` on all. What is
    moved grows with the rows of `second` and not with the pairs, and nothing is moved within `function`.

    Args:
      function: Maps rows of `first` and all of `second` to one row of values for each row of `first`. A row of its
        result depends on no other row of `first`.
      first, second: Arrays of `a` and of `b` rows.
      *shared: Arrays that all rows share.
    """
    (a, *_), (b, *_) = ({len(leaf) for leaf in jax.tree.leaves(side)} for side in (first, second))
    if num_shards(a) == 1:
        return function(first, second, *shared)
    rows, everywhere = PartitionSpec(DATA_AXIS), PartitionSpec()
    divided = num_shards(b) > 1

    def of_own_rows(first: PyTree, second: PyTree, *shared: PyTree) -> Float[Array, "m b"]:
        if divided:
            second = jax.lax.all_gather(second, DATA_AXIS, tiled=True)
        return function(first, second, *_own(shared))

    specs = (rows, rows if divided else everywhere, *(everywhere for _ in shared))
    return jax.shard_map(of_own_rows, in_specs=specs, out_specs=rows)(first, second, *shared)


def _own(shared: PyTree) -> PyTree:
    """Returns arrays that all devices share as the device's own.

    Their gradients are added up over the devices where this happens, and not in a loop that uses the arrays.
    """
    return jax.tree.map(lambda x: jax.lax.pcast(x, DATA_AXIS, to="varying"), shared)
