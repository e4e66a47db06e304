"""Visual question answering: a decoder reads the hidden states of an image-grounded question.

C images and questions, B answers, S pixels a side, N image tokens, Q question tokens, T answer
tokens, V vocabulary.
"""

import flax.linen as nn
import jax

from blip_jax.nn.attention import CrossAttentionContext, KVCache
from blip_jax.nn.blip import set_first_token, with_enc_token
from blip_jax.nn.configs import BlipConfig
from blip_jax.nn.med import Med
from blip_jax.nn.vit import ViT


class Vqa(nn.Module):
    """`BLIP_VQA` of the original's models/blip_vqa.py.

    Question encoder and answer decoder share nothing (`med.sharing` is "none"), and the decoder's
    cross-attention reads states of the text width.
    """

    config: BlipConfig

    def setup(self):
        self.vit = ViT(self.config)
        self.med = Med(self.config)

    def encode_image(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps normalised images float [C, S, S, 3] to image tokens [C, N, D], [CLS] first."""
        return self.vit(images, train)

    def question_hidden_states(
        self,
        tokens: jax.Array,
        ids: jax.Array,
        mask: jax.Array,
        train: bool = False,
        gate: jax.Array | None = None,
    ) -> jax.Array:
        """Maps image tokens, ids int [C, Q] and mask bool [C, Q] to hidden states [C, Q, D].

        `gate` is of attention to the image; see `attention.CrossAttentionContext`.
        """
        context = self.med.project_context(tokens, "encoder")._replace(gate=gate)
        return self.med.encode(with_enc_token(ids, self.config), mask, (context,), train=train)

    def question_context(self, hidden_states: jax.Array, mask: jax.Array) -> CrossAttentionContext:
        """Maps a question's hidden states [C, Q, D] and mask to what answers read."""
        return self.med.project_context(hidden_states, "decoder", mask)

    def decoding_contexts(
        self, hidden_states: jax.Array, mask: jax.Array
    ) -> tuple[CrossAttentionContext, ...]:
        """Maps a question's hidden states and mask to what `decode_step` reads, layer by layer."""
        return self.med.project_decoding_contexts(hidden_states, mask)

    def lm_logits(
        self,
        ids: jax.Array,
        mask: jax.Array,
        context: CrossAttentionContext,
        context_index: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """Returns float32 [B, T, V]: position t predicts token t + 1; [DEC] takes position 0.

        `context_index`: which answers read another question; see `attention.CrossAttention`.
        """
        ids = set_first_token(ids, self.config.med.dec_token)
        return self.med.decode(ids, mask, context, context_index, train=train)

    def decode_step(self, ids, contexts, cache, index) -> tuple[jax.Array, tuple[KVCache, ...]]:
        """Returns (logits float32 [B, t, V], cache); see `Med.decode_step`."""
        return self.med.decode_step(ids, contexts, cache, index)
