"""A model opened for search: encodes texts and clips, scores pairs, and plays their games."""

import functools
import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.core import FrozenDict
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt8

from hbi_jax import banzhaf, fields, pretrained
from hbi_jax.data.text import Tokenizer
from hbi_jax.models.hbi import HBI
from hbi_jax.models.mean_pooled import FRAMES, MEAN, MeanPooledCLIP
from hbi_jax.models.scorer import scored
from hbi_jax.models.similarity import pair_similarity
from hbi_jax.parallel.mesh import batch_sharding, make_mesh, param_shardings, path_name
from hbi_jax.pretrained.sizes import TOKENS
from hbi_jax.search import scan
from hbi_jax.search.clips import ClipSettings
from hbi_jax.search.config import SearchConfig, SearchError
from hbi_jax.tasks.gallery import compiled, equal_blocks, to_host
from hbi_jax.tasks.inference import check_texts, open_run
from hbi_jax.tasks.weights import is_converted
from hbi_jax.types import Encoded

# Clips or texts per batch of the model, rounded up to a multiple of the mesh's data axis.
BATCH = 16
# Videos per block of the exact similarity.
_VIDEO_BLOCK = 16


class Encoder:
    """A retrieval model with everything that its texts and clips need.

    Attributes:
      path: The checkpoint or folder of weights, as an absolute path.
      digest: What identifies the model: a checksum of its architecture and parameters.
      mesh: The devices.
      tokenizer: The tokenizer, with the model's number of words.
      level_rates: The weight of each level's similarity.
      clips: How files are cut into clips for this model.
      published: Whether padding counts as similarity 0 in maxima, see `hbi_jax.choices.Padding`.
      scans_exactly: Whether the scan gives this model's own similarity; otherwise it only finds candidates.
    """

    def __init__(
        self,
        path: str,
        model: nn.Module,
        params: PyTree,
        level_rates: Mapping[str, float],
        clips: ClipSettings,
        num_words: int,
        mesh: Mesh,
    ):
        """Prepares the compiled functions; `open_encoder` opens a checkpoint."""
        self.path, self.mesh, self.clips, self.level_rates = path, mesh, clips, dict(level_rates)
        self.tokenizer = Tokenizer(num_words)
        self.digest = _digest(model, params)
        self._model, self._params = model, params
        config = model.config
        self.published = getattr(config, "padding", "masked") == "published"
        # Models that score differently say so by a method of their own.
        known = type(model).level_similarity in (HBI.level_similarity, MeanPooledCLIP.level_similarity)
        self.scans_exactly = known and not getattr(config, "reconstruction", False)
        data = mesh.shape[mesh.axis_names[0]]
        self._batch = -(-BATCH // data) * data
        self._kept = [name for number, (name, rate) in enumerate(self.level_rates.items()) if rate or not number]

    @property
    def scored(self) -> tuple[str, ...]:
        """The names of the levels that score."""
        return scored(self.level_rates)

    def texts(self, texts: Sequence[str]) -> Encoded:
        """Returns the encoded texts, in numpy, without the levels that nothing needs.

        Raises:
          ValueError: If there is no text, or one is empty.
        """
        check_texts(self.tokenizer, texts)
        return self._encode("encode_text", *self.tokenizer.encode(texts))

    def encode_clips(self, frames: UInt8[np.ndarray, "n f h w 3"], mask: Bool[np.ndarray, "n f"]) -> Encoded:
        """Returns the encoded clips, in numpy, without the levels that nothing needs."""
        return self._encode("encode_video", frames, mask)

    def _encode(self, method: str, *inputs: np.ndarray) -> Encoded:
        encode, blocks = compiled(self._model, method, self.mesh), []
        for block in equal_blocks(len(inputs[0]), self._batch):
            placed = jax.device_put(jax.tree.map(itemgetter(block), inputs), batch_sharding(self.mesh))
            blocks.append(to_host(self._kept_of(encode(self._params, *placed))))
        return jax.tree.map(lambda *parts: np.concatenate(parts)[: len(inputs[0])], *blocks)

    def _kept_of(self, encoded: Encoded) -> Encoded:
        levels = OrderedDict((name, encoded.levels[name]) for name in self._kept)
        return encoded._replace(levels=levels, members=None)

    def rows(self, clips: Encoded) -> dict[str, np.ndarray]:
        """Returns what is stored of clips, by name: every array of their encoding, ready for the scan."""
        out = {}
        for name, tokens in clips.levels.items():
            ready = scan.side(tokens, self.published)
            clips = clips._replace(levels=clips.levels | {name: tokens._replace(features=ready.features)})
            out |= {f"{name}.{part}": getattr(ready, part) for part in (scan.SCALE, scan.WEIGHT)}
        return out | {_leaf_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(clips)}

    def encoded(self, rows: Mapping[str, np.ndarray]) -> Encoded:
        """Returns stored clips as the model encoded them; the inverse of `rows`."""
        return jax.tree_util.tree_map_with_path(lambda path, _: np.asarray(rows[_leaf_name(path)]), self._shapes)

    def blank_rows(self) -> dict[str, np.ndarray]:
        """Returns what is stored of any clip, by name: arrays of its type and shape, without meaning."""
        encoded = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), self._shapes)
        return self.rows(encoded)

    def row_shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns the shape of each stored array, for one clip."""
        return {name: array.shape[1:] for name, array in self.blank_rows().items()}

    @functools.cached_property
    def _shapes(self) -> Encoded:
        """The types and shapes of one encoded clip."""
        return jax.eval_shape(self._abstract_clips)

    def _abstract_clips(self) -> Encoded:
        f, side = self.clips.num_frames, self.clips.image_size
        frames, mask = jnp.zeros((1, f, side, side, 3), jnp.uint8), jnp.ones((1, f), bool)
        return self._kept_of(self._model.apply(self._params, frames, mask, method="encode_video"))

    def check_sizes(self) -> None:
        """Checks that the model takes as many words and frames as the settings say, without computing anything.

        Raises:
          SearchError: If it does not.
        """
        words = jnp.zeros((1, self.tokenizer.num_words), jnp.int32)
        texts = functools.partial(self._model.apply, self._params, words, words > 0, method="encode_text")
        sizes = ("num_frames", self.clips.num_frames, self._abstract_clips), ("num_words", words.shape[1], texts)
        for name, size, encode in sizes:
            try:
                jax.eval_shape(encode)
            except ValueError as error:
                raise SearchError(
                    f"search.{name}={size}: wanted a number that the model takes ({error}); leave it out for that of "
                    "its training"
                ) from error

    def query(self, encoded: Encoded) -> scan.Query:
        """Returns one encoded text, or one encoded clip, as a query of the scan."""
        return scan.query(encoded.levels, self.level_rates, self.published)

    def similarity(self, texts: Encoded, clips: Encoded) -> Float[np.ndarray, "a b"]:
        """Returns the model's own similarity of every text with every clip, as its evaluation computes it."""
        arguments = FrozenDict(self.level_rates), _VIDEO_BLOCK
        score, count = compiled(self._model, "gallery_similarity", self.mesh, *arguments), len(clips.pooled)
        blocks, num_texts, rows = [], len(texts.pooled), batch_sharding(self.mesh)
        data = self.mesh.shape[self.mesh.axis_names[0]]
        for text_block in equal_blocks(num_texts, -(-min(num_texts, BATCH) // data) * data):
            some = jax.device_put(jax.tree.map(itemgetter(text_block), texts), rows)
            columns = [
                to_host(score(self._params, some, jax.device_put(_rows_of(clips, block), rows)))
                for block in equal_blocks(count, -(-4 * BATCH // data) * data)
            ]
            blocks.append(np.concatenate(columns, axis=1)[:, :count])
        return np.concatenate(blocks)[:num_texts]

    def games(self, query: Encoded, clips: Encoded, is_text: bool = True) -> list[Float[np.ndarray, "t f"]]:
        """Returns the interaction of every token of a query with every token of each clip, at the finest level.

        Args:
          query: One encoded text, or one encoded clip.
          clips: The clips.
          is_text: Whether the query is a text. The tokens of two clips meet as they are: reconstruction needs a text.

        Returns:
          For each clip the interactions of the real tokens, in the units of the similarity.
        """
        level = next(iter(self.level_rates))
        play, count, blocks = _player(self._model, self.mesh, level, is_text), len(clips.pooled), []
        for block in equal_blocks(count, self._batch):
            asked = jax.tree.map(functools.partial(np.repeat, repeats=len(block), axis=0), query)
            sides = jax.device_put((asked, _rows_of(clips, block)), batch_sharding(self.mesh))
            blocks.append(to_host(play(self._params, *sides)))
        values, rows, columns = jax.tree.map(lambda *parts: np.concatenate(parts)[:count], *blocks)
        return [grid[real][:, seen] for grid, real, seen in zip(values, rows, columns, strict=True)]


@functools.lru_cache(maxsize=16)
def _player(model: nn.Module, mesh: Mesh, level: str, is_text: bool) -> Callable[..., PyTree]:
    """Returns a compiled function that plays the games of matched rows at a level."""

    def play(params: PyTree, query: Encoded, clips: Encoded) -> tuple[Array, Array, Array]:
        text, video = query.levels[level], clips.levels[level]
        if is_text:
            match = model.apply(params, query, clips, level, method="match")
            cosine, text, video = match.pair_similarity, match.text, match.video
        else:
            cosine = pair_similarity(text, video)
        values = banzhaf.interaction(cosine, text.logits, video.logits, text.mask, video.mask)
        return values, text.mask, video.mask

    return jax.jit(play, out_shardings=batch_sharding(mesh))


def _rows_of(encoded: Encoded, rows: Int[np.ndarray, " n"]) -> Encoded:
    return jax.tree.map(itemgetter(rows), encoded)


def _leaf_name(path: tuple) -> str:
    """Returns the name of an array of an encoding, such as `entity.features` or `pooled`."""
    return jax.tree_util.keystr(path, simple=True, separator=".").removeprefix("levels.")


def _digest(model: nn.Module, params: PyTree) -> str:
    """Returns a checksum of a model's architecture and parameters."""
    found = hashlib.sha256(json.dumps([type(model).__name__, fields.plain(model.config)]).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        found.update(path_name(path).encode())
        found.update(np.ascontiguousarray(jax.device_get(leaf)).data)
    return found.hexdigest()


def local_mesh() -> Mesh:
    """Returns the devices of this process: workers share files, not devices."""
    return make_mesh(devices=jax.local_devices())


def open_encoder(checkpoint: str | os.PathLike[str], settings: SearchConfig | None = None) -> Encoder:
    """Opens the model of a retrieval run, or converted weights of an HBI or a CLIP.

    Args:
      checkpoint: A work folder (its best checkpoint), one of its steps, or a folder of converted weights. A CLIP scores
        by the cosine of the sentence and the mean frame.
      settings: How videos are cut; None: as in training, see `SearchConfig`.

    Raises:
      CheckpointError, PretrainedError: If it cannot be opened.
      SearchError: If it holds weights that cannot retrieve, or cannot take the numbers of words and frames.
    """
    settings = settings or SearchConfig()
    fields.check(settings, "search")
    path, mesh = os.path.abspath(os.path.expanduser(os.fspath(checkpoint))), local_mesh()
    if is_converted(path):
        model, params, rates = _converted(path, mesh)
        words, frames = TOKENS["hbi"] if isinstance(model, HBI) else (32, 12)
        data, square = (words, frames, 1.0), True
        clip = model.config.clip if isinstance(model, HBI) else model.config
    else:
        config, task, params = open_run(path, "retrieval", mesh=mesh)
        model, rates, clip, square = task.model, config.level_rates, config.model.clip, config.data.square_pixels
        data = config.data.num_words, config.data.num_frames, config.data.frames_per_second
    given = settings.num_words, settings.num_frames, settings.frames_per_second
    num_words, num_frames, rate = (own or default for own, default in zip(given, data, strict=True))
    length = settings.clip_seconds or num_frames / rate
    stride = min(settings.stride_seconds or length / 2, length)
    clips = ClipSettings(length, stride, settings.cut, num_frames, rate, clip.image_size, square)
    encoder = Encoder(path, model, params, rates, clips, num_words, mesh)
    if settings.num_words or settings.num_frames:
        encoder.check_sizes()
    return encoder


def _converted(path: str, mesh: Mesh) -> tuple[nn.Module, PyTree, dict[str, float]]:
    """Returns the model, parameters and level rates of a folder of converted weights."""
    weights = pretrained.load(path, progress=False)
    if weights.kind == "clip":
        model, rates = MeanPooledCLIP(weights.model.config), {FRAMES: 0.0, MEAN: 1.0}
    elif weights.kind == "hbi":
        model = weights.model
        rates = {level.name: float(not number) for number, level in enumerate(model.config.levels)}
    else:
        raise SearchError(
            f"{path} holds weights of kind {weights.kind!r}: wanted 'hbi' or 'clip', which retrieve; give other weights"
        )
    shardings = param_shardings(weights.params, mesh)
    return model, jax.device_put(weights.params, shardings), rates
