"""Reading compiled programs whose answer is known: collectives with their bytes, and how often loops run."""

import functools
import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from hbi_jax.plan.hlo import Collective, Program

ROWS, WIDTH, LOCAL = 64, 32, 8
P = PartitionSpec


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))


def compiled(function, *shapes, shardings=None) -> str:
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    jitted = jax.jit(function) if shardings is None else jax.jit(function, in_shardings=shardings)
    return jitted.lower(*arguments).compile().as_text()


def collectives(mesh, per_device, *, loops=()) -> list[Collective]:
    """What `per_device`, which maps its rows to as many rows, has of collectives, in nested scans of some lengths."""

    def repeated(x, lengths):
        if not lengths:
            return per_device(x)
        return jax.lax.scan(lambda x, _: (jnp.sin(repeated(x, lengths[1:])), None), x, None, lengths[0])[0]

    function = jax.shard_map(
        functools.partial(repeated, lengths=loops), mesh=mesh, in_specs=P("data"), out_specs=P("data"), check_vma=False
    )
    return Program(compiled(function, (ROWS, WIDTH), shardings=NamedSharding(mesh, P("data")))).collectives()


def gather_and_cut(x):
    whole = jax.lax.all_gather(x, "data", tiled=True)
    return jnp.cos(whole).reshape(8, LOCAL, WIDTH).sum(0)


@pytest.mark.parametrize(("loops", "times"), [((), 1), ((5,), 5), ((3, 4), 12)])
def test_a_gather_outside_of_loops_and_in_them(mesh, loops, times):
    assert collectives(mesh, gather_and_cut, loops=loops) == [
        Collective("all-gather", size=ROWS * WIDTH * 4, group=8, times=times, in_loop=bool(loops))
    ]


def test_bytes_sent_round_a_ring():
    size = 8000
    sent = {kind: Collective(kind, size, 8, 1, False).sent for kind in ("all-gather", "reduce-scatter", "all-to-all")}
    assert sent == dict.fromkeys(sent, 7000)
    assert Collective("all-reduce", size, 8, 1, False).sent == 14000
    assert Collective("collective-permute", size, 2, 1, False).sent == size
    assert Collective("all-reduce", size, 1, 1, False).sent == 0


@pytest.mark.parametrize(
    ("kind", "per_device"),
    [
        ("all-reduce", lambda x: jax.lax.psum(x, "data")),
        ("all-to-all", lambda x: jax.lax.all_to_all(x, "data", 0, 0, tiled=True)),
        ("collective-permute", lambda x: jax.lax.ppermute(x, "data", [(i, (i + 1) % 8) for i in range(8)])),
    ],
)
def test_the_other_collectives_have_the_bytes_of_what_they_are_given(mesh, kind, per_device):
    (found,) = collectives(mesh, per_device)
    assert (found.kind, found.size, found.times, found.in_loop) == (kind, LOCAL * WIDTH * 4, 1, False)


def test_a_reduce_scatter_has_the_bytes_before_it(mesh):
    def per_device(x):
        return jax.lax.psum_scatter(jnp.tile(jnp.sin(x), (8, 1)), "data", tiled=True)

    (found,) = collectives(mesh, per_device)
    assert (found.kind, found.size, found.group) == ("reduce-scatter", ROWS * WIDTH * 4, 8)


def test_the_group_is_that_of_the_axis():
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)

    def total(axis):
        function = jax.shard_map(
            lambda x: jax.lax.psum(x, axis), mesh=mesh, in_specs=P("data", "model"), out_specs=P(), check_vma=False
        )
        sharding = NamedSharding(mesh, P("data", "model"))
        (found,) = Program(compiled(function, (ROWS, WIDTH), shardings=sharding)).collectives()
        return found.group

    assert [total("data"), total("model"), total(("data", "model"))] == [4, 2, 8]


@pytest.mark.parametrize(
    ("groups", "group"),
    [
        ("{{0,1},{2,3},{4,5},{6,7}}", 2),
        ("{}", 8),
        ("[2,4]<=[8]", 4),
        ("[4,2]<=[2,4]T(1,0)", 2),
        ("mesh['a'=4,'b'=2,'c'=1] {'a'}", 4),
        ("mesh['a'=4,'b'=2], device_ids=([4,2]T(1,0)) {'a','b'}", 8),
        ("mesh['a'=8] {'a':(2)4}", 4),
    ],
)
def test_every_way_to_write_groups_is_read(groups, group):
    text = f"""HloModule m, num_partitions=8

ENTRY %main (p: f32[8]) -> f32[8] {{
  %p = f32[8]{{0}} parameter(0)
  ROOT %all-reduce = f32[8]{{0}} all-reduce(%p), channel_id=1, replica_groups={groups}, to_apply=%add
}}
"""
    assert Program(text).collectives() == [Collective("all-reduce", 32, group, 1, False)]


def scanned(x, length):
    return jax.lax.scan(lambda x, _: (jnp.sin(x @ x), None), x, None, length)[0]


@pytest.fixture(scope="module")
def nested():
    def function(x):
        for _ in range(3):
            x = jax.lax.fori_loop(2, 9, lambda _, x: scanned(x, 4) + 1, x)
        return x

    return compiled(function, (16, 16))


def counted(text):
    return sorted((loop.trips, times) for loop, times in Program(text).loops())


def test_loops_count_their_trips(nested):
    # The inner ones of 4 are entered 7 times each.
    assert counted(nested) == [(4, 7)] * 3 + [(7, 1)] * 3


def test_trips_are_read_from_the_condition_where_nothing_states_them(nested):
    """As in programs for TPUs."""
    bare = re.sub(r', backend_config=\{.*"known_trip_count".*\}$', "", nested, flags=re.MULTILINE)
    assert "known_trip_count" in nested
    assert "known_trip_count" not in bare
    assert counted(bare) == counted(nested)


def test_a_loop_that_ends_by_its_data_has_no_known_trips():
    text = compiled(lambda x: jax.lax.while_loop(lambda x: x[0, 0] < 10, lambda x: x @ x, x), (16, 16))
    ((loop, times),) = Program(text).loops()
    assert (loop.trips, times) == (None, 1)
    (product,) = (run for run in Program(text).walk() if run.instruction.opcode == "dot")
    assert product.times == 1
    assert product.loops == (loop,)


def test_both_branches_of_a_condition_are_walked():
    def function(x):
        return jax.lax.cond(x[0, 0] > 0, lambda x: jnp.sin(x @ x), lambda x: x @ x @ x, x)

    products = [run for run in Program(compiled(function, (16, 16))).walk() if run.instruction.opcode == "dot"]
    assert len(products) == 3


# Written as the compiler of TPUs writes: tiles, memory spaces, and an asynchronous collective as a chain of fusions.
SHARD, WHOLE = "bf16[8,6]{1,0:T(8,128)(2,1)}", "bf16[64,6]{1,0:T(8,128)(2,1)}"
OUTSIDE, INSIDE = "f32[3,200]{0,1:T(8,128)}", "f32[3,200]{1,0:T(4,128)S(1)}"
FLAG = "u32[]{:S(2)}"
GROUPS = 'channel_id=1, replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}, frontend_attributes={chain_id="0"}'
TPU = f"""HloModule jit_step, is_scheduled=true, num_partitions=8

%start (a: bf16[8,6]) -> (bf16[8,6], bf16[64,6], u32[]) {{
  %a = {SHARD} parameter(0)
  %all-gather.1 = {WHOLE} all-gather(%a), {GROUPS}
  ROOT %mark.1 = ({SHARD}, {WHOLE}, {FLAG}) custom-call(%all-gather.1), custom_call_target="AsyncCollectiveStart"
}}

%done (b: bf16[8,6], c: bf16[64,6]) -> bf16[64,6] {{
  %b = {SHARD} parameter(0)
  %c = {WHOLE} parameter(1)
  %all-gather.2 = {WHOLE} all-gather(%b), {GROUPS}
  ROOT %mark.2 = {WHOLE} custom-call(%b, %c, %all-gather.2), custom_call_target="AsyncCollectiveDone"
}}

ENTRY %main (x: bf16[8,6], /*index=1*/y: f32[3,200]) -> bf16[64,6] {{
  %x = {SHARD} parameter(0), metadata={{op_name="batch(x)"}}
  %y = {OUTSIDE} parameter(1)
  %copy-start = ({INSIDE}, {OUTSIDE}, {FLAG}) copy-start(%y)
  %copy-done = {INSIDE} copy-done(%copy-start)
  %go = ({SHARD}, {WHOLE}, {FLAG}) fusion(%x), kind=kCustom, calls=%start
  %g0 = {SHARD} get-tuple-element(%go), index=0
  %g1 = {WHOLE} get-tuple-element(%go), index=1
  ROOT %end = {WHOLE} fusion(%g0, %g1), kind=kCustom, calls=%done
}}
"""


def test_tiles_and_memory_spaces_are_read():
    instructions = Program(TPU).entry.instructions
    (rows,) = instructions["y"].arrays
    # Dimension 0 is the minor one: 3 become 128, and 200 stay a multiple of 8.
    assert rows == ("f32", (3, 200), 0, 3 * 200 * 4, 128 * 200 * 4)
    (kept,) = instructions["copy-done"].arrays
    assert kept == ("f32", (3, 200), 1, 3 * 200 * 4, 4 * 256 * 4)
    assert [array.space for array in instructions["copy-start"].arrays] == [1, 0, 2]
    assert instructions["end"].operands == ("g0", "g1")
    assert Program(TPU).entry.parameters == ("x", "y")


def test_an_asynchronous_collective_counts_once():
    assert Program(TPU).collectives() == [Collective("all-gather", 64 * 6 * 2, 8, 1, False)]


def test_what_is_no_program_is_told():
    with pytest.raises(ValueError, match="text: got no ENTRY computation, wanted the text of a compiled program"):
        Program("HloModule nothing\n")
