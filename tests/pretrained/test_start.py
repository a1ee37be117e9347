"""Parameters that start from weights: which leaves come from where, and weights that do not fit."""

import copy
import logging

import jax
import numpy as np
import pytest

from hbi_jax.pretrained import Pretrained, PretrainedError, initialize
from hbi_jax.pretrained.start import stretch
from tests.logs import told
from tests.pretrained.foreign import CLIP, ESTIMATOR, HBI, HCMI, weights


@pytest.fixture(scope="module")
def clip():
    return weights("clip", CLIP)


@pytest.fixture(scope="module")
def hbi():
    return weights("hbi", HBI)


def shifted(tree):
    """Parameters whose every number differs."""
    return jax.tree.map(lambda x: np.asarray(x + 1), tree)


def assert_same(got, wanted):
    jax.tree.map(np.testing.assert_array_equal, got, wanted)


def test_from_clip_as_published(clip, hbi):
    fresh = shifted(hbi.params)
    before = copy.deepcopy(fresh)
    got, given = initialize(fresh, clip)["params"], clip.params["params"]
    for name in ("text_tower", "vision_tower", "logit_scale"):
        assert_same(got[name], given[name])
    frames, text = got["frame_transformer"], given["text_tower"]
    assert_same(frames["transformer"], {"resblocks_0": text["transformer"]["resblocks_0"]})
    assert_same(frames["positional_embedding"], text["positional_embedding"])
    rest = set(got) - {"text_tower", "vision_tower", "logit_scale", "frame_transformer"}
    assert len(rest) == 2 * 2 + 2 * 3 + 3
    assert_same({name: got[name] for name in rest}, {name: fresh["params"][name] for name in rest})
    assert_same(fresh, before)


def test_relative_positions_stay_as_initialised(clip):
    model = weights("hbi", {**HBI, "frame_positions": "relative"})
    fresh = shifted(model.params)
    frames = initialize(fresh, clip)["params"]["frame_transformer"]
    assert_same(
        frames["transformer"], {"resblocks_0": clip.params["params"]["text_tower"]["transformer"]["resblocks_0"]}
    )
    assert_same(frames["relative_bias"], fresh["params"]["frame_transformer"]["relative_bias"])
    # What was trained with one kind of positions does not start the other.
    with pytest.raises(PretrainedError, match="frame_transformer/relative_bias is missing"):
        initialize(fresh, weights("hbi", HBI), {**HBI, "frame_positions": "relative"})


def test_an_answer_model_and_more_frame_layers_than_the_text_has(clip):
    config = {**HBI, "num_answers": 3, "frame_layers": 3}
    fresh = weights("answer", config).params
    got, given = initialize(fresh, clip)["params"], clip.params["params"]["text_tower"]["transformer"]
    layers = got["frame_transformer"]["transformer"]
    assert_same(layers, {**given, "resblocks_2": fresh["params"]["frame_transformer"]["transformer"]["resblocks_2"]})
    assert_same(got["answer_entity"], fresh["params"]["answer_entity"])


@pytest.mark.parametrize(("count", "says"), [(5, ""), (12, ""), (23, "23 frame positions are interpolated from 12")])
def test_frame_positions(clip, caplog, count, says):
    fresh = weights("hbi", {**HBI, "max_frames": count}).params
    with caplog.at_level(logging.INFO, "hbi_jax"):
        got = initialize(fresh, clip)["params"]["frame_transformer"]["positional_embedding"]
    text = clip.params["params"]["text_tower"]["positional_embedding"]
    if count <= 12:
        assert_same(got, text[:count])
    else:
        # 12 rows become 23: every other one is a text position, the others lie half-way.
        assert_same(got[::2], text)
        np.testing.assert_allclose(got[1::2], (text[1:] + text[:-1]) / 2, rtol=1e-6, atol=1e-6)
    assert caplog.text.count("frame positions") == bool(says)
    assert says in caplog.text


def test_stretch_by_hand():
    np.testing.assert_allclose(stretch(np.array([[0.0], [2.0], [6.0]]), 5), [[0], [1], [2], [4], [6]])
    np.testing.assert_array_equal(stretch(np.array([[3.0]]), 4), 4 * [[3.0]])


def test_a_text_tower_of_another_width_leaves_the_frames_alone(caplog):
    sizes = {**CLIP, "text_width": 128}
    fresh = weights("hbi", {**HBI, "clip": sizes}).params
    with caplog.at_level(logging.WARNING, "hbi_jax"):
        got = initialize(fresh, weights("clip", sizes))
    assert_same(got["params"]["frame_transformer"], fresh["params"]["frame_transformer"])
    assert "stays as initialised: the text tower's layers are 128 wide" in caplog.text


def test_from_the_same_model(clip, hbi):
    for given in (clip, hbi, weights("estimator", ESTIMATOR)):
        assert_same(initialize(shifted(given.params), given), given.params)


def test_an_hbi_gives_an_answer_model_all_but_its_heads(hbi):
    fresh = shifted(weights("answer", {**HBI, "num_answers": 3}).params)
    got = initialize(fresh, hbi)["params"]
    heads = {name: got.pop(name) for name in sorted(got) if name.startswith("answer_")}
    assert_same(got, hbi.params["params"])
    assert_same(heads, {name: fresh["params"][name] for name in heads})
    assert list(heads) == ["answer_action", "answer_entity", "answer_event"]


def test_a_caption_model_starts_from_a_retrieval_model_a_clip_or_its_own_kind(clip, hbi):
    """Its decoder stays fresh but for its own kind, whose layers have to be as many."""
    caption = weights("caption", {**HBI, "decoder_layers": 2})
    fresh = shifted(caption.params)
    for source in (clip, hbi):
        got, shared = initialize(fresh, source, HBI)["params"], source.params["params"]
        assert_same({name: got[name] for name in shared}, shared)
        assert_same(got["caption"], fresh["params"]["caption"])
    assert_same(initialize(fresh, caption, HBI), caption.params)
    with pytest.raises(PretrainedError, match="decoder_layers is 1, wanted 2"):
        initialize(fresh, weights("caption", {**HBI, "decoder_layers": 1}))
    with pytest.raises(PretrainedError, match="of kind 'caption' \\(HBI with a caption decoder\\), wanted 'hbi'"):
        initialize(hbi.params, caption)


def test_hcmi_starts_from_a_clip_or_its_own_kind(clip, hbi):
    """Not from an HBI; and of another number of clips only in its own size."""
    hcmi = weights("hcmi", HCMI)
    fresh = shifted(hcmi.params)
    got, given = initialize(fresh, clip, HCMI)["params"], clip.params["params"]
    assert_same({name: got[name] for name in given}, given)
    assert_same(got["frame_transformer"]["positional_embedding"], given["text_tower"]["positional_embedding"])
    assert_same(got["text_merge_clip"], fresh["params"]["text_merge_clip"])
    assert_same(initialize(fresh, hcmi, HCMI), hcmi.params)
    with pytest.raises(PretrainedError, match=r"kind 'hbi' \(HBI \(retrieval\)\), wanted 'hcmi' .* or a CLIP for"):
        initialize(fresh, hbi, HCMI)
    with pytest.raises(PretrainedError, match=r"kind 'hcmi' \(HCMI \(retrieval\)\), wanted 'hbi'"):
        initialize(hbi.params, hcmi, HBI)
    other = weights("hcmi", {**HCMI, "levels": [["frame", 0, 0], ["clip", 4, 2], ["video", 1, 1]]})
    with pytest.raises(PretrainedError, match=r"text_merge_clip/queries has shape \(4, 64\), wanted \(3, 64\)"):
        initialize(fresh, other, HCMI)


def test_hcmi_of_one_level(clip):
    """It has the parameters of an HBI of that level, and is told apart by the configuration."""
    config = {**HCMI, "levels": [["frame", 0, 0]]}
    hcmi = weights("hcmi", config)
    fresh = shifted(hcmi.params)
    assert_same(initialize(fresh, hcmi, config), hcmi.params)
    assert_same(initialize(fresh, clip, config)["params"]["text_tower"], clip.params["params"]["text_tower"])


NARROW = {**CLIP, "head_features": 16}


def test_numbers_of_heads_that_no_shape_tells(clip, hbi):
    """Of all kinds, in the fields of `config.model`: the same parameters would compute other numbers."""
    answer = weights("answer", {**HBI, "num_answers": 3})
    for params, source in ((clip, clip), (hbi, clip), (hbi, hbi), (answer, hbi), (answer, answer)):
        with pytest.raises(PretrainedError, match=r"clip\.head_features is 64, wanted 16; set config\.model"):
            initialize(params.params, source, {**HBI, "clip": NARROW})
        theirs = NARROW if source is clip else {**source.config, "clip": NARROW}
        with pytest.raises(PretrainedError, match=r"clip\.head_features is 16, wanted 64"):
            initialize(params.params, Pretrained(source.kind, theirs, source.params), HBI)
        if source is not clip:
            with pytest.raises(PretrainedError, match="heads: merge_heads is 8, wanted 4; "):
                initialize(params.params, source, {**HBI, "merge_heads": 4})
    initialize(hbi.params, clip, {**HBI, "merge_heads": 4})


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"vision_head_features": 32}, r"clip\.vision_head_features is 64, wanted 32; set config\.model"),
        ({"text_head_features": 16}, r"clip\.text_head_features is 64, wanted 16; "),
        ({"activation": "gelu"}, r"computes something else: clip\.activation is 'quick_gelu', wanted 'gelu'; "),
        ({"pixels": "half"}, r"clip\.pixels is 'clip', wanted 'half'; "),
    ],
)
def test_what_no_shape_tells_of_the_towers(clip, hbi, fields, says):
    """Both ways round where the weights are of the other kind."""
    other = {**CLIP, **fields}
    for source in (clip, hbi):
        with pytest.raises(PretrainedError, match=says):
            initialize(hbi.params, source, {**HBI, "clip": other})
        theirs = other if source is clip else {**source.config, "clip": other}
        given = Pretrained(source.kind, theirs, source.params)
        with pytest.raises(PretrainedError, match=r"set config\.model as theirs is"):
            initialize(hbi.params, given, HBI)
        assert_same(initialize(shifted(source.params), given, {**HBI, "clip": other}), source.params)
    # The same widths, written otherwise.
    initialize(hbi.params, hbi, {**HBI, "clip": {**CLIP, "vision_head_features": 64, "text_head_features": 64}})


def test_a_frame_transformer_of_other_layers_than_the_text_towers_stays_as_it_is(clip, caplog):
    """Heads of the joint space, or MLPs of the text tower, of another width."""
    heads = {**CLIP, "head_features": 16, "vision_head_features": 64, "text_head_features": 64}
    for sizes, says in (
        (heads, "it has 4 heads, the text tower's layers have 1"),
        ({**CLIP, "text_mlp_features": 96}, ""),
    ):
        fresh = weights("hbi", {**HBI, "clip": sizes})
        caplog.clear()
        with caplog.at_level(logging.WARNING, "hbi_jax"):
            got = initialize(shifted(fresh.params), weights("clip", sizes), {**HBI, "clip": sizes})["params"]
        assert_same(got["frame_transformer"], shifted(fresh.params)["params"]["frame_transformer"])
        assert f"the frame transformer stays as initialised: {says}" in caplog.text


def test_settings_that_a_configuration_may_override(clip, hbi, caplog):
    same = {**HBI, "levels": tuple(tuple(level) for level in HBI["levels"]), "pooled": False}
    other = {**HBI, "padding": "masked", "levels": [["entity", 0, 0], ["action", 6, 4], ["event", 3, 2]]}
    other |= {"frame_window": 1, "frame_past": 2}
    with caplog.at_level(logging.WARNING, "hbi_jax"):
        for source, config in ((hbi, same), (clip, other)):
            initialize(hbi.params, source, config)
        assert not told(caplog)
        assert_same(initialize(shifted(hbi.params), hbi, other), hbi.params)
    first, second, third, fourth = (record.getMessage() for record in told(caplog))
    assert "padding is 'published', wanted 'masked' by config.model" in first
    assert "('action', 6, 3), ('event', 3, 2)), wanted (('entity', 0, 0), ('action', 6, 4)" in second
    assert "frame_window is 0, wanted 1 by config.model" in third
    assert "frame_past is 0, wanted 2 by config.model" in fourth


def test_an_estimator_has_no_settings_of_a_model():
    estimator = weights("estimator", ESTIMATOR)
    assert_same(initialize(shifted(estimator.params), estimator, HBI), estimator.params)


def test_weights_of_another_task(clip, hbi):
    estimator = weights("estimator", ESTIMATOR)
    answer = weights("answer", {**HBI, "num_answers": 3})
    for params, source, wanted in (
        (hbi, answer, r"of kind 'answer' \(.*\), wanted 'hbi' \(HBI \(retrieval\)\) or a CLIP for its towers; "),
        (hbi, estimator, r"of kind 'estimator' .*, wanted 'hbi'"),
        (clip, hbi, r"of kind 'hbi' .*, wanted 'clip' \(CLIP\); "),
        (
            answer,
            estimator,
            r"kind 'estimator' .*, wanted 'answer' \(.*\) or an HBI for all but its heads or a CLIP for its towers; ",
        ),
        (estimator, clip, r"of kind 'clip' .*, wanted 'estimator' \(estimator of the interaction\); "),
    ):
        with pytest.raises(PretrainedError, match=wanted):
            initialize(params.params, source)


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("clip", {**CLIP, "patch_size": 2}, r"clip\.patch_size is 2, wanted 4"),
        ("clip", {**CLIP, "vision_layers": 1}, r"clip\.vision_layers is 1, wanted 2"),
        ("clip", {**CLIP, "text_width": 128}, r"clip\.text_width is 128, wanted 64"),
        ("levels", HBI["levels"][:2], "levels are action, entity, wanted action, entity, event"),
        ("levels", [*HBI["levels"][:2], ["event", 3, 0]], "video_merge_event/attention/kv/bias is missing"),
        ("frame_layers", 2, "frame_layers is 2, wanted 1"),
        ("weight_features", 8, "weight_features is 8, wanted 16"),
        ("header", "cnn", "header is 'cnn', wanted 'cnn_sa'"),
        ("max_frames", 20, "max_frames is 20, wanted 12"),
    ],
)
def test_fields_that_differ_are_named(hbi, field, value, complaint):
    with pytest.raises(PretrainedError, match=complaint):
        initialize(hbi.params, weights("hbi", {**HBI, field: value}))
    if field == "clip":
        with pytest.raises(PretrainedError, match=complaint.replace(r"clip\.", "")):
            initialize(hbi.params, weights("clip", value))


def test_parameters_of_no_model(clip):
    with pytest.raises(PretrainedError, match="parameters dense are of no model of this library"):
        initialize({"params": {"dense": {"kernel": np.zeros((2, 2))}}}, clip)
    with pytest.raises(PretrainedError, match=r"got keys dense, wanted {'params': \.\.\.}"):
        initialize({"dense": {"kernel": np.zeros((2, 2))}}, clip)
    assert isinstance(clip, Pretrained)
