"""Trains `shapes-clip`, the towers that the quickstarts start from, on single pictures and what they show.

    python -m hbi_jax.data.shapes.pretrain    # replaces the file in the package, after 17 minutes on one core
    python -m hbi_jax.data.shapes.pretrain --out=clip.safetensors --num_steps=500

The towers see stills (`stills.py`): no videos, no actions. Each batch has groups of stills that share their entities,
or all but the shapes, so that sizes, places and angles matter too, and shapes as much as colours. Three losses are
added:

- CLIP's contrastive loss, for the sentence;
- the same for the token-wise similarity of HBI (Eq. 12) without token weights, so that every word by itself resembles
  the pictures that show what it says;
- a linear layer, dropped at the end, reads from the embedding of a picture which colours and shapes it shows, where,
  how large and at which angle. Captions alone teach places too, in several times as many steps.
"""

import argparse
import contextlib
import functools
import math
import os
import pathlib
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt8

from hbi_jax import losses
from hbi_jax.commands.progress import Progress
from hbi_jax.data.images import resize_and_crop
from hbi_jax.data.shapes.entities import COLORS, SHAPES
from hbi_jax.data.shapes.stills import Still, draw_stills
from hbi_jax.data.text import Tokenizer
from hbi_jax.fields import LARGEST_SEED, plain
from hbi_jax.models.clip import CLIP
from hbi_jax.models.config import CLIPConfig
from hbi_jax.models.similarity import masked_max, normalize
from hbi_jax.pretrained.folder import Pretrained, write_shipped
from hbi_jax.pretrained.shipped import shipped_file
from hbi_jax.train.config import OptimizerConfig
from hbi_jax.train.optimizer import make_optimizer
from hbi_jax.types import ArrayLike

# The towers of the quickstarts.
TOWERS = CLIPConfig(
    image_size=48,
    patch_size=8,
    vision_width=64,
    vision_layers=3,
    text_width=64,
    text_layers=2,
    embed_features=128,
    head_features=32,
)
NAME = "shapes-clip"
# Side of the rendered pictures, that of the world's videos.
_RENDERED = 64
_NUM_WORDS = 24
# Stills that are alike, and the groups that one call renders.
_GROUP, _PORTION = 8, 250
# Captions from which the vocabulary is read.
_CAPTIONS = 20_000
# What a picture may show, and the weight of the loss of reading it.
_KINDS = (*COLORS, *SHAPES)
_FACTS_WEIGHT = 3.0


class Pool(NamedTuple):
    """Stills, group after group, and their pictures at the towers' size."""

    stills: list[Still]
    pictures: UInt8[np.ndarray, "n h w 3"]


class Facts(NamedTuple):
    """What pictures show, colour by colour and then shape by shape.

    Attributes:
      shown: Whether the picture shows an entity of this colour or shape.
      single: Whether it shows exactly one.
      poses: The pose of the single one: place, diameter, sine and cosine of the angle, each scaled to the order of 1.
    """

    shown: Bool[ArrayLike, "b c"]
    single: Bool[ArrayLike, "b c"]
    poses: Float[ArrayLike, "b c 5"]


class Examples(NamedTuple):
    """A batch: captions, as rows of the towers' own table of tokens, the pictures that they describe, and facts."""

    token_ids: Int[ArrayLike, "b t"]
    mask: Bool[ArrayLike, "b t"]
    pictures: UInt8[ArrayLike, "b h w 3"]
    facts: Facts


def render_pool(num_stills: int, seed: int, num_workers: int) -> Pool:
    """Renders stills, in processes if there are several workers; the result depends on `num_stills` and `seed`."""
    groups = num_stills // _GROUP
    sizes = [min(_PORTION, groups - done) for done in range(0, groups, _PORTION)]
    stills, pictures = [], []
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(Progress(groups * _GROUP, "render stills"))
        compute = map
        if num_workers > 1:
            compute = stack.enter_context(ProcessPoolExecutor(num_workers, get_context("spawn"))).map
        for part in compute(functools.partial(_render_portion, seed), range(len(sizes)), sizes):
            stills += part.stills
            pictures.append(part.pictures)
            progress.update(len(part.stills))
    return Pool(stills, np.concatenate(pictures))


def _render_portion(seed: int, number: int, groups: int) -> Pool:
    rng = random.Random(f"{seed}/stills/{number}")
    stills = [still for _ in range(groups) for still in draw_stills(rng, _GROUP)]
    pictures = [resize_and_crop(still.picture(_RENDERED), TOWERS.image_size) for still in stills]
    return Pool(stills, np.stack(pictures))


def facts_of(stills: Sequence[Still]) -> Facts:
    """Returns what stills show."""
    count = np.zeros((len(stills), len(_KINDS)), int)
    poses = np.zeros((*count.shape, 5), np.float32)
    for row, still in enumerate(stills):
        for entity, pose in zip(still.entities, still.poses, strict=True):
            places = 4 * (pose.x - 0.5), 4 * (pose.y - 0.5), 10 * (pose.diameter - 0.25)
            for kind in (entity.color, entity.shape):
                count[row, _KINDS.index(kind)] += 1
                poses[row, _KINDS.index(kind)] = *places, math.sin(pose.angle), math.cos(pose.angle)
    return Facts(count > 0, count == 1, poses)


class Captioner:
    """Draws captions, and numbers their tokens by the rows of a table that has no others.

    Attributes:
      rows: CLIP's ids of the tokens of the captions, in order. The end of a text stays the largest.
    """

    def __init__(self, pool: Pool, seed: int):
        self._tokenizer, rng = Tokenizer(_NUM_WORDS), random.Random(f"{seed}/vocabulary")
        drawn = [still.caption(rng) for still in rng.choices(pool.stills, k=_CAPTIONS)]
        self.rows = np.unique(self._tokenizer.encode(drawn)[0])
        self._pool, self._facts = pool, facts_of(pool.stills)

    def batches(self, batch_size: int, rng: random.Random) -> Iterator[Examples]:
        """Yields batches of whole groups without end, with a new caption for every still each time."""
        groups: list[int] = []
        while True:
            if len(groups) < batch_size // _GROUP:
                groups = rng.sample(range(len(self._pool.stills) // _GROUP), len(self._pool.stills) // _GROUP)
            first = [_GROUP * groups.pop() for _ in range(batch_size // _GROUP)]
            index = np.add.outer(first, np.arange(_GROUP)).reshape(-1)
            token_ids, mask = self._tokenizer.encode([self._pool.stills[number].caption(rng) for number in index])
            rows = np.searchsorted(self.rows, token_ids).astype(np.int32)
            if not np.array_equal(np.take(self.rows, rows, mode="clip"), token_ids):
                unknown = sorted(set(token_ids.reshape(-1).tolist()) - set(self.rows.tolist()))
                raise ValueError(
                    f"captions have the tokens {unknown}, wanted those of {_CAPTIONS:,} other captions; draw more"
                )
            yield Examples(rows, mask, self._pool.pictures[index], Facts(*(x[index] for x in self._facts)))


def similarities(
    words: Float[Array, "a t d"], mask: Bool[Array, "a t"], sentences: Float[Array, "a d"], images: Float[Array, "b d"]
) -> tuple[Float[Array, "a b"], Float[Array, "a b"]]:
    """Returns the cosines of sentences with images, and the token-wise similarity (Eq. 12) with equal weights."""
    images = normalize(images)
    cosine = jnp.einsum("atd,bd->atb", normalize(words), images)
    share = mask / jnp.maximum(mask.sum(1, keepdims=True), 1)
    best_word = masked_max(cosine, mask[:, :, None], 1)
    # An image is one token, so each word's best match is that image.
    return normalize(sentences) @ images.T, 0.5 * (jnp.einsum("atb,at->ab", cosine, share) + best_word)


def facts_loss(read: Float[Array, "b c6"], facts: Facts) -> Float[Array, ""]:
    """Returns the cross-entropy of what is shown, in nats, plus the squared error of the poses, both as means.

    Args:
      read: For every colour and shape, the logit of being shown, and the pose.
      facts: What the pictures show.
    """
    logits, poses = jnp.split(read.reshape(len(read), len(_KINDS), 6), [1], axis=-1)
    shown = optax.sigmoid_binary_cross_entropy(logits[..., 0], facts.shown.astype(jnp.float32)).mean()
    return shown + losses.masked_mean(((poses - facts.poses) ** 2).mean(-1), facts.single)


def make_step(
    model: CLIP, reader: nn.Dense, tx: optax.GradientTransformation
) -> Callable[[PyTree, PyTree, Examples], tuple[PyTree, PyTree, Float[Array, " 3"]]]:
    """Returns the compiled step: from parameters, optimizer state and batch to new ones and the losses."""

    def loss(params: PyTree, batch: Examples) -> tuple[Float[Array, ""], Float[Array, " 3"]]:
        clip = params["clip"]
        tokens, sentences = model.apply(clip, batch.token_ids, batch.mask, method="encode_text")
        images = model.apply(clip, batch.pictures, method="encode_image")
        scale, rows = jnp.exp(clip["params"]["logit_scale"]), jnp.ones(len(images), bool)
        every = [
            losses.contrastive_loss(scale * similarity, jnp.ones_like(similarity, bool), rows)
            for similarity in similarities(*tokens, sentences, images)
        ]
        every.append(facts_loss(reader.apply(params["reader"], _unit_variance(images)), batch.facts))
        weighted = every[0] + every[1] + _FACTS_WEIGHT * every[2]
        return weighted, jnp.stack(every)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params: PyTree, state: PyTree, batch: Examples) -> tuple[PyTree, PyTree, Float[Array, " 3"]]:
        (_, every), gradients = jax.value_and_grad(loss, has_aux=True)(params, batch)
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, every

    return step


def _unit_variance(images: Float[Array, "b d"]) -> Float[Array, "b d"]:
    """Returns embeddings of one length, with values of the order of 1; only their direction matters elsewhere."""
    return normalize(images) * images.shape[-1] ** 0.5


def pretrain(out: pathlib.Path, num_steps: int, batch_size: int, num_stills: int, seed: int, num_workers: int) -> None:
    """Trains the towers and writes them as one small file; prints the losses on the way."""
    begun = time.monotonic()
    captioner = Captioner(render_pool(num_stills, seed, num_workers), seed)
    fields = {**plain(TOWERS), "vocab_size": len(captioner.rows)}
    model, reader = CLIP(CLIPConfig(**fields)), nn.Dense(6 * len(_KINDS))
    batches = captioner.batches(batch_size, random.Random(f"{seed}/captions"))
    *inputs, _ = jax.tree.map(jnp.asarray, next(batches))
    keys = jax.random.split(jax.random.key(seed))
    params = {
        "clip": model.init(keys[0], *inputs),
        "reader": reader.init(keys[1], jnp.zeros((1, TOWERS.embed_features))),
    }
    optimizer = OptimizerConfig(name="muon", learning_rate=4e-3, clip_learning_rate=4e-3, warmup_rate=0.05)
    tx = make_optimizer(optimizer, params, num_steps)
    step, state, told = make_step(model, reader, tx), tx.init(params), []
    with Progress(num_steps, "train") as progress:
        for number in range(1, num_steps + 1):
            params, state, every = step(params, state, next(batches))
            told.append(every)
            if number % 100 == 0 or number == num_steps:
                sentences, words, facts = np.mean(jax.device_get(told), 0)
                print(f"step {number}: sentences {sentences:.3f}, words {words:.3f}, facts {facts:.3f}", flush=True)
                told.clear()
            progress.update()
    origin = (
        f"python -m hbi_jax.data.shapes.pretrain --num_steps={num_steps} --batch_size={batch_size} "
        f"--num_stills={num_stills} --seed={seed}"
    )
    write_shipped(out, Pretrained("clip", fields, jax.device_get(params["clip"])), captioner.rows, origin)
    print(f"saved {out}, {out.stat().st_size / 1e6:.2f} MB, after {(time.monotonic() - begun) / 60:.1f} minutes")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m hbi_jax.data.shapes.pretrain",
        description="Trains shapes-clip, the towers that the quickstarts start from, on single rendered pictures.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--out", type=os.path.expanduser, default=shipped_file(NAME), help="the file to write or replace"
    )
    parser.add_argument("--num_steps", type=int, default=9600, help="steps of training")
    parser.add_argument("--batch_size", type=int, default=128, help=f"stills in a batch, a multiple of {_GROUP}")
    parser.add_argument("--num_stills", type=int, default=48000, help="stills that are rendered")
    parser.add_argument("--seed", type=int, default=0, help="seed of stills, captions and initialisation")
    parser.add_argument("--num_workers", type=int, default=2, help="rendering processes")
    options = parser.parse_args(arguments)
    if options.batch_size % _GROUP or not 0 < options.batch_size <= options.num_stills:
        parser.error(f"--batch_size={options.batch_size}: wanted a multiple of {_GROUP}, at most --num_stills")
    if not 0 <= options.seed <= LARGEST_SEED:
        parser.error(f"--seed={options.seed}: wanted 0 to {LARGEST_SEED}; JAX tells no other seeds apart")
    try:
        pretrain(**{**vars(options), "out": pathlib.Path(options.out)})
    except KeyboardInterrupt:
        print("\ninterrupted; nothing was written", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
