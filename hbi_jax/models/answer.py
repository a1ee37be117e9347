"""Video question answering with HBI: a classifier over a vocabulary of answers at every level (HBI, CVPR 2023)."""

from collections import OrderedDict
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from hbi_jax.choices import Padding
from hbi_jax.models.dense import dense
from hbi_jax.models.hbi import HBI, TokenWeight
from hbi_jax.models.similarity import token_weights
from hbi_jax.types import Alignment, Batch, Encoded, Frames, Tokens, WeightedTokens, texts_of


class AnswerHead(nn.Module):
    """A classifier over the answers, from the words and frames of one level.

    Each side is averaged with learnt weights and projected. A two-layer MLP classifies the concatenated projections.

    Attributes:
      num_answers: Size of the vocabulary.
      dropout_rate: Dropout rate on the two projections.
      padding: With `published`, padding gets weights too, but adds nothing to the mean.
    """

    num_answers: int
    dropout_rate: float = 0.1
    padding: Padding = "masked"
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, text: WeightedTokens, video: WeightedTokens, deterministic: bool = True) -> Float[Array, "b n"]:
        """Returns the logits of the answers, in float32; dropout uses the RNG `dropout` unless `deterministic`."""

        def summary(side: str, tokens: WeightedTokens) -> Float[Array, "b d4"]:
            x, mask = tokens.features, tokens.mask
            d = x.shape[-1]
            logits = TokenWeight(d, dtype=self.dtype, name=f"{side}_weight")(Tokens(x, mask)).logits
            weights = token_weights(logits, mask if self.padding == "masked" else jnp.ones_like(mask))
            x = jnp.where(mask[..., None], x, 0).astype(jnp.float32)
            mean = jnp.einsum("bn,bnd->bd", weights, x).astype(self.dtype)
            return dense(mean, 4 * d, dtype=self.dtype, name=f"{side}_proj")

        pair = jnp.concatenate([summary("video", video), summary("text", text)], axis=-1)
        pair = nn.Dropout(self.dropout_rate, name="dropout")(pair, deterministic=deterministic)
        h = nn.relu(dense(pair, 2 * pair.shape[-1], dtype=self.dtype, name="hidden"))
        return dense(h, self.num_answers, dtype=jnp.float32, name="logits")


class AnswerHBI(HBI):
    """HBI with an answer head at every level; all other parameters are named as in `HBI`.

    Attributes:
      num_answers: Size of the vocabulary of answers.
      dropout_rate: Dropout rate of the heads.
      question_only: Gives every frame the same features, for a baseline that sees only the questions.
    """

    num_answers: int = 1500
    dropout_rate: float = 0.1
    question_only: bool = False

    def setup(self):  # noqa: D102
        super().setup()
        config = self.config
        self.answer = {
            level.name: AnswerHead(self.num_answers, self.dropout_rate, config.padding, config.dtype)
            for level in config.levels
        }

    def frame_features(self, frames: Frames, mask: Bool[Array, "b f"]) -> Float[Array, "b f d"]:
        """Returns the features of every frame as `HBI` does, or the same ones for all frames if `question_only`."""
        features = super().frame_features(frames, mask)
        if not self.question_only:
            return features
        # Were they equal, such as zero, the gradients of layer normalisation would grow by orders of magnitude.
        same = jnp.where(jnp.arange(features.shape[-1]) % 2 == 0, 1, -1).astype(features.dtype)
        return jnp.broadcast_to(same, features.shape)

    def __call__(
        self,
        batch: Batch,
        deterministic: bool = True,
        token_ids: Int[Array, "b q t"] | None = None,
        text_mask: Bool[Array, "b q t"] | None = None,
    ) -> tuple[OrderedDict[str, Alignment], OrderedDict[str, Float[Array, "bq n"]]]:
        """Returns the alignments of the matched rows and each level's logits of the answers.

        Args:
          batch: The matched rows.
          deterministic: Turns dropout off.
          token_ids, text_mask: Several questions about each video, the row's own question first. If given, all of them
            are answered instead of the row's own question alone; each video is still encoded once.
        """
        token_ids, text_mask = texts_of(batch, token_ids, text_mask)
        b, q, t = token_ids.shape
        text = self.encode_text(token_ids.reshape(b * q, t), text_mask.reshape(b * q, t))
        video = self.encode_video(batch.frames, batch.frame_mask)
        alignments = self.align(jax.tree.map(lambda x: x[::q], text), video)
        repeated = jax.tree.map(lambda x: jnp.repeat(x, q, axis=0), video)
        answers = OrderedDict()
        for name in text.levels:
            pair = self.pair(text, repeated, name)
            answers[name] = self.answer[name](pair.text, pair.video, deterministic)
        return alignments, answers

    def answer_questions(self, text: Encoded, video: Encoded, level_rates: Mapping[str, float]) -> Float[Array, "b n"]:
        """Returns the logits of the answers to matched questions and videos, summed over levels with the given rates.

        Levels with rate 0 are skipped.
        """
        parts = []
        for name in text.levels:
            if level_rates[name]:
                pair = self.pair(text, video, name)
                parts.append(level_rates[name] * self.answer[name](pair.text, pair.video))
        return sum(parts[1:], parts[0])
