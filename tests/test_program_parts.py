"""Which parts of the model a compiled program's traffic belongs to."""

import textwrap

import pytest

from blip_jax.train.aot import hlo, memory_traffic


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("jit(step)/jvp(Blip.encode_image)/vit/while/body/closed_call/blocks/mlp_in/dot_general",
         "forward: Blip.encode_image/vit/blocks/mlp_in"),
        ("jit(step)/transpose(jvp(Blip.lm_logits))/med.decode/layers/while/body/checkpoint/"
         "rematted_computation/layer/attention/bthk,bnhk->bhtn/dot_general",
         "backward, recomputed: Blip.lm_logits/med.decode/layers/layer/attention"),
        ("jit(step)/add", "outside of modules (optimizer, moving averages, casts)"),
        ("", "copies without a name"),
    ],
)  # fmt: skip
def test_parts_of_the_traffic_are_passes_and_modules(name, part):
    metadata = f', metadata={{op_name="{name}"}}' if name else ""
    text = textwrap.dedent(f"""\
        HloModule m

        ENTRY %main (a: f32[8]) -> f32[8] {{
          %a = f32[8]{{0}} parameter(0)
          ROOT %b = f32[8]{{0}} exponential(%a){metadata}
        }}
        """)
    assert memory_traffic.hbm_bytes_by_part(hlo.HloModule(text)) == {part: 2 * 8 * 4}


def test_what_is_fetched_before_its_use_belongs_to_what_uses_it():
    """Copies into the chip's memory, in two pieces by a computation of their own, and whole."""
    text = textwrap.dedent("""\
        HloModule m

        %piece (p: f32[8]) -> f32[4] {
          %p = f32[8]{0} parameter(0)
          ROOT %q = f32[4]{0:S(1)} slice(%p), slice={[0:4]}
        }

        ENTRY %main (a: f32[8], b: f32[4]) -> f32[4] {
          %a = f32[8]{0} parameter(0)
          %b = f32[4]{0} parameter(1)
          %c = ((f32[8]{0}), f32[4]{0:S(1)}, u32[]) async-start(%a), calls=%piece
          %d = f32[4]{0:S(1)} async-done(%c)
          %e = (f32[4]{0:S(1)}, f32[4]{0}, u32[]{:S(2)}) copy-start(%b)
          %f = f32[4]{0:S(1)} copy-done(%e)
          %g = f32[4]{0:S(1)} bitcast(%d)
          ROOT %h = f32[4]{0:S(1)} add(%g, %f), metadata={op_name="jit(step)/jvp(Blip.loss)/add"}
        }
        """)
    module = hlo.HloModule(text)
    assert memory_traffic.hbm_bytes_by_part(module) == {"forward: Blip.loss": 2 * 4 * 4}
