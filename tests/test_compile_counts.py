"""What is counted in a compiled program's text, against counts by hand."""

import re
import textwrap

import jax
import pytest

from blip_jax.train.aot import hlo, memory_traffic
from blip_jax.train.aot.roofline import roofline, update_bytes
from blip_jax.train.chips import CHIPS
from blip_jax.train.mesh import make_mesh
from blip_jax.train.sharding import shardings
from blip_jax.train.state import TrainState


def test_the_roofline_is_the_longest_of_three():
    chip = CHIPS["v5e"]  # 197 TFLOP/s, 819 GB/s, 200 GB/s
    found = roofline(chip, flops=197e12, hbm_bytes=819e9 / 2, ici_bytes=200e9 / 4)
    assert found == pytest.approx((1.0, 0.5, 0.25))
    assert (found.seconds, found.limit) == (1.0, "compute")
    assert roofline(chip, 1e12, 819e9, 0).limit == "HBM"
    assert roofline(chip, 1e12, 819e9, 400e9).limit == "ICI"
    assert roofline(chip, 1e12, 819e9, 400e9).seconds == pytest.approx(2.0)


# The text of a program: a loop of 12 turns with an all-reduce, others before it, a fusion in both.

TEXT = textwrap.dedent("""\
    HloModule jit_step, is_scheduled=true, num_partitions=8

    %sum (a: f32[], b: f32[]) -> f32[] {
      %a = f32[]{:T(128)} parameter(0)
      %b = f32[]{:T(128)} parameter(1)
      ROOT %add.1 = f32[]{:T(128)} add(%a, %b)
    }

    %picking (p0: bf16[12,64,32], p1: s32[], p2: f32[16,64]) -> f32[16,32] {
      %p0 = bf16[12,64,32]{2,1,0:T(8,128)(2,1)} parameter(0)
      %p1 = s32[]{:T(128)S(6)} parameter(1)
      %p2 = f32[16,64]{1,0:T(8,128)S(1)} parameter(2)
      %slice = bf16[1,64,32]{2,1,0:T(8,128)(2,1)} dynamic-slice(%p0, %p1, %p1, %p1), dynamic_slice_sizes={1,64,32}
      %one = bf16[64,32]{1,0:T(8,128)(2,1)} bitcast(%slice)
      ROOT %product = f32[16,32]{1,0:T(8,128)} convolution(%p2, %one), dim_labels=bf_io->bf
    }

    %turn (state: (s32[], f32[16,64], bf16[12,64,32])) -> (s32[], f32[16,64], bf16[12,64,32]) {
      %state = (s32[]{:T(128)}, f32[16,64]{1,0:T(8,128)}, bf16[12,64,32]{2,1,0:T(8,128)(2,1)}) parameter(0)
      %i = s32[]{:T(128)} get-tuple-element(%state), index=0
      %x = f32[16,64]{1,0:T(8,128)} get-tuple-element(%state), index=1
      %w = bf16[12,64,32]{2,1,0:T(8,128)(2,1)} get-tuple-element(%state), index=2
      %near = (f32[16,64]{1,0:T(8,128)S(1)}, f32[16,64]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%x)
      %here = f32[16,64]{1,0:T(8,128)S(1)} copy-done(%near)
      %y = f32[16,32]{1,0:T(8,128)} fusion(%w, %i, /*index=2*/%here), kind=kOutput, calls=%picking
      %all-reduce.3 = f32[16,64]{1,0:T(8,128)} all-reduce(%x), channel_id=1, replica_groups=mesh['data'=4,'fsdp'=2,'tensor'=1] {'data'}, to_apply=%sum
      ROOT %next = (s32[]{:T(128)}, f32[16,64]{1,0:T(8,128)}, bf16[12,64,32]{2,1,0:T(8,128)(2,1)}) tuple(%i, %all-reduce.3, %w)
    }

    %condition (state.1: (s32[], f32[16,64], bf16[12,64,32])) -> pred[] {
      %twelve = s32[]{:T(128)} constant(12)
      %state.1 = (s32[]{:T(128)}, f32[16,64]{1,0:T(8,128)}, bf16[12,64,32]{2,1,0:T(8,128)(2,1)}) parameter(0)
      %i.1 = s32[]{:T(128)} get-tuple-element(%state.1), index=0
      ROOT %less = pred[]{:T(512)} compare(%i.1, %twelve), direction=LT
    }

    ENTRY %main (x0: f32[16,64], w0: bf16[12,64,32]) -> f32[16,64] {
      %x0 = f32[16,64]{1,0:T(8,128)} parameter(0), metadata={op_name="x"}
      %w0 = bf16[12,64,32]{2,1,0:T(8,128)(2,1)} parameter(1)
      %zero = s32[]{:T(128)} constant(0)
      %parts = (f32[16,64]{1,0:T(8,128)}, f32[64,64]{1,0:T(8,128)}) all-gather-start(%x0), replica_groups=[2,4]<=[8], dimensions={0}
      %whole = f32[64,64]{1,0:T(8,128)} all-gather-done(%parts)
      %swapped = f32[16,64]{1,0:T(8,128)} all-to-all(%x0), replica_groups={{0,1},{2,3},{4,5},{6,7}}
      %moved = f32[16,64]{1,0:T(8,128)} collective-permute(%x0), source_target_pairs={{0,1},{1,0}}
      %start = (s32[]{:T(128)}, f32[16,64]{1,0:T(8,128)}, bf16[12,64,32]{2,1,0:T(8,128)(2,1)}) tuple(%zero, %x0, %w0)
      %loop = (s32[]{:T(128)}, f32[16,64]{1,0:T(8,128)}, bf16[12,64,32]{2,1,0:T(8,128)(2,1)}) while(%start), condition=%condition, body=%turn
      ROOT %end = f32[16,64]{1,0:T(8,128)} get-tuple-element(%loop), index=1
    }
    """)  # noqa: E501
X = 16 * 64 * 4  # bytes of x


def with_elements_by_number(text):
    """The text as compilers since JAX 0.12 write it: `%state#1` in place of a get-tuple-element."""
    element = re.compile(r"^ +%([\w.]+) = \S+ get-tuple-element\((%[\w.]+)\), index=(\d)\n", re.M)
    found = element.findall(text)
    assert len(found) == 4
    text = element.sub("", text)
    for name, of, index in found:
        text = re.sub(rf"%{re.escape(name)}(?![\w.])", f"{of}#{index}", text)
    return text


@pytest.fixture(params=[lambda text: text, with_elements_by_number])
def program(request):
    return hlo.HloModule(request.param(TEXT))


def test_what_is_in_a_loop_counts_as_often_as_it_turns(program):
    assert (program.entry, program.partitions) == ("main", 8)
    assert program.execution_counts() == {"main": 1, "turn": 12, "picking": 12}
    assert program.execution_counts(fusions=False) == {"main": 1, "turn": 12}


def test_bytes_of_collectives(program):
    assert program.collectives() == {
        "all-reduce": 12 * 2 * X * 3 // 4,  # 4 along `data`
        "all-gather": 3 * X,  # the pieces of 3 others
        "all-to-all": X // 2,  # half of it stays
        "collective-permute": X,
    }


def test_a_loop_that_ends_by_what_it_finds_turns_as_often_as_said():
    text = TEXT.replace("compare(%i.1, %twelve), direction=LT", "not(%found)")
    program = hlo.HloModule(text)
    assert program.execution_counts(default_trip_count=5)["turn"] == 5
    known = text.replace("body=%turn", 'body=%turn, backend_config={"known_trip_count":{"n":"7"}}')
    assert hlo.HloModule(known).execution_counts(default_trip_count=5)["turn"] == 7


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("{{0,1,2},{3,4,5}}, x", 3),
        ("[2,4]<=[4,2]T(1,0), x", 4),
        ("mesh['a'=4,'b'=2] {'a','b'}, x", 8),
        ("mesh['a'=8] {'a':(2)4}, x", 4),  # a part of an axis
        ("{}, x", None),
    ],
)
def test_groups_of_devices(groups, size):
    assert hlo.group_size(f", channel_id=1, replica_groups={groups}") == size


def hbm_bytes(module) -> int:
    return sum(memory_traffic.hbm_bytes_by_part(module).values())


def test_bytes_of_hbm(program):
    """A turn: x to the chip; one layer's weights and its number read, y written; the all-reduce.

    Neither the chip's own memory nor the other eleven layers are touched.
    """
    turn = X + (64 * 32 * 2 + 4 + 16 * 32 * 4) + 2 * X
    before = (X + 4 * X) + 2 * X + 2 * X  # all-gather, all-to-all, collective-permute
    assert hbm_bytes(program) == before + 12 * turn


def test_updates_in_place_cost_what_they_write():
    text = textwrap.dedent("""\
        HloModule m

        %inner (q0: f32[12,8], q1: f32[1,8], q2: s32[]) -> f32[12,8] {
          %q0 = f32[12,8]{1,0} parameter(0)
          %q1 = f32[1,8]{1,0} parameter(1)
          %q2 = s32[] parameter(2)
          ROOT %put = f32[12,8]{1,0} dynamic-update-slice(%q0, %q1, %q2, %q2)
        }

        %outer (r0: f32[12,8], r1: f32[1,8], r2: s32[]) -> (f32[12,8], f32[1,8]) {
          %r0 = f32[12,8]{1,0} parameter(0)
          %r1 = f32[1,8]{1,0} parameter(1)
          %r2 = s32[] parameter(2)
          %more = f32[1,8]{1,0} exponential(%r1)
          %done = f32[12,8]{1,0} fusion(%r0, %more, %r2), kind=kLoop, calls=%inner
          ROOT %both = (f32[12,8]{1,0}, f32[1,8]{1,0}) tuple(%done, %more)
        }

        ENTRY %main (a: f32[12,8], b: f32[1,8], i: s32[]) -> (f32[12,8], f32[1,8]) {
          %a = f32[12,8]{1,0} parameter(0)
          %b = f32[1,8]{1,0} parameter(1)
          %i = s32[] parameter(2)
          ROOT %f = (f32[12,8]{1,0}, f32[1,8]{1,0}) fusion(%a, %b, %i), kind=kLoop, calls=%outer
        }
        """)
    row = 8 * 4
    assert hbm_bytes(hlo.HloModule(text)) == row + 4 + row + row  # read b and i, write both


def test_a_slice_that_is_copied_to_the_chip_costs_what_is_copied():
    text = textwrap.dedent("""\
        HloModule m

        ENTRY %main (a: bf16[45,8]) -> bf16[12,8] {
          %a = bf16[45,8]{1,0} parameter(0)
          %some = ((bf16[45,8]{1,0}), bf16[12,8]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%a), slice={[0:12], [0:8]}
          ROOT %here = bf16[12,8]{1,0:S(1)} slice-done(%some)
        }
        """)  # noqa: E501
    assert hbm_bytes(hlo.HloModule(text)) == 12 * 8 * 2
    stays = text.replace("bf16[45,8]{1,0}", "bf16[45,8]{1,0:S(1)}")
    assert hbm_bytes(hlo.HloModule(stays)) == 0


def test_a_slice_costs_what_of_it_is_in_hbm():
    """In the form that the compiler writes before it makes machine code."""
    text = textwrap.dedent("""\
        HloModule m

        %async_computation (p: bf16[45,8]) -> bf16[12,8] {
          %p = bf16[45,8]{1,0} parameter(0)
          ROOT %slice = bf16[12,8]{1,0:S(1)} slice(%p), slice={[0:12], [0:8]}
        }

        ENTRY %main (a: bf16[45,8]) -> bf16[12,8] {
          %a = bf16[45,8]{1,0} parameter(0)
          %some = ((bf16[45,8]{1,0}), bf16[12,8]{1,0:S(1)}, s32[]{:S(2)}) async-start(%a), calls=%async_computation
          ROOT %here = bf16[12,8]{1,0:S(1)} async-done(%some)
        }
        """)  # noqa: E501
    assert hbm_bytes(hlo.HloModule(text)) == 12 * 8 * 2
    both = text.replace("bf16[12,8]{1,0:S(1)} slice(", "bf16[12,8]{1,0} slice(")
    assert hbm_bytes(hlo.HloModule(both)) == 2 * 12 * 8 * 2


def test_flops_of_matrix_products(program):
    assert memory_traffic.matrix_flops(program) == 12 * 2 * 16 * 64 * 32


def kernel(estimate: str, space: str = "") -> hlo.HloModule:
    """A program of one kernel with an operand of 800 bytes, in HBM or `space`; it writes 32."""
    text = """\
        HloModule m

        ENTRY %main (a: f32[200]) -> f32[8] {
          %a = f32[200]{0SPACE} parameter(0)
          ROOT %b = f32[8]{0} custom-call(%a), custom_call_target="tpu_custom_call", \
        backend_config={"custom_call_config":{"body":"TUzv"ESTIMATE}}
        }
        """
    text = textwrap.dedent(text).replace("ESTIMATE", estimate).replace("SPACE", space)
    return hlo.HloModule(text)


@pytest.mark.parametrize("estimate", ['"flops":"5364","x":"1"', '"x":"1","flops":"5364"'])
def test_flops_that_a_kernel_states(estimate):
    program = kernel(f',"cost_estimate":{{{estimate}}}')
    assert memory_traffic.matrix_flops(program) == 5364


@pytest.mark.parametrize(
    ("space", "stated", "moved"),
    [
        ("", None, 832),
        ("", 64, 64),  # it reads a part of the operand
        ("", 1000, 832),
        (":S(1)", None, 32),
        (":S(1)", 832, 32),
        (":S(1)", 816, 16),  # it writes a part of the result
    ],
)
def test_bytes_that_a_kernel_states(space, stated, moved):
    """What a kernel states counts, less what it reads on the chip, up to the size of its arrays."""
    estimate = f',"cost_estimate":{{"bytes_accessed":"{stated}"}}' if stated else ""
    assert hbm_bytes(kernel(estimate, space)) == moved


def test_an_array_that_is_only_allocated_moves_nothing():
    text = """\
        HloModule m

        ENTRY %main () -> f32[200] {
          ROOT %a = f32[200]{0} custom-call(), custom_call_target="AllocateBuffer"
        }
        """
    assert hbm_bytes(hlo.HloModule(textwrap.dedent(text))) == 0


@pytest.mark.parametrize(
    ("line", "shapes", "flops"),
    [
        # Attention's scores of 90 images and 12 heads, 64 wide: the batch as dilated axes.
        (
            "f32[90,12,197,197]{2,3,1,0} convolution(%a, %b), window={size=90x12 stride=89x11 "
            "lhs_dilate=90x12}, dim_labels=0b1f_0o1i->01bf",
            ((90, 197, 12, 64), (90, 197, 12, 64)),
            2 * 90 * 12 * 197 * 197 * 64,
        ),
        # Queries, keys and values: the three and their heads as a padded, reversed axis.
        (
            "bf16[2,5,3,4,8]{4,3,2,1,0} convolution(%a, %b), window={size=1x3x4 "
            "pad=0_0x2_2x3_3 rhs_reversal=0x1x1}, dim_labels=0bf12_i12o0->0b12f",
            ((2, 5, 32, 1, 1), (32, 3, 4, 8, 1)),
            2 * (2 * 5) * 32 * (3 * 4 * 8),
        ),
        # The sum over heads as a window.
        (
            "bf16[2,5,32,1]{2,1,0,3} convolution(%a, %b), window={size=1x4}, "
            "dim_labels=0b1f_1io0->0bf1",
            ((2, 5, 4, 8), (4, 8, 32, 1)),
            2 * (2 * 5) * (4 * 8) * 32,
        ),
        (
            "f32[6,10]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}",
            ((6, 7), (7, 10)),
            2 * 6 * 7 * 10,
        ),
    ],
)
def test_products_however_they_are_written(line, shapes, flops):
    instruction = hlo.parse_instruction(f'  ROOT %x = {line}, metadata={{op_name="a(b"}}')
    assert instruction.root and instruction.operands == ("a", "b")
    count = memory_traffic.dot if instruction.opcode == "dot" else memory_traffic.convolution
    assert count(instruction, *shapes) == flops


def test_types_are_read_with_their_memory():
    first, second = hlo.arrays("(bf16[2,3]{1,0:T(8,128)(2,1)S(1)}, pred[]{:T(512)})")
    assert (first.shape, first.bytes, first.space) == ((2, 3), 12, 1)
    assert (second.shape, second.bytes, second.space) == ((), 1, 0)


def test_a_chip_moves_its_part_of_the_state_and_all_gradients():
    mesh = make_mesh({"data": 8})
    kernel = jax.ShapeDtypeStruct((2, 16, 8), "float32")  # 1,024 bytes
    params = {"mlp_in": {"kernel": kernel}}
    moments = {"mu": params, "nu": params}
    step = jax.ShapeDtypeStruct((), "int32")
    state = TrainState(step, params, {"momentum": params}, moments)
    placed = jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        state, shardings(state, mesh),
    )  # fmt: skip
    assert update_bytes(placed) == 2 * (4 * 1024 / 8 + 1024)
