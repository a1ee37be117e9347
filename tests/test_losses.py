"""The losses by hand and in numpy, and that what is masked takes no part."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hbi_jax import banzhaf
from hbi_jax.losses import (
    answer_cross_entropy,
    answer_distillation_loss,
    caption_cross_entropy,
    concentration_loss,
    contrastive_loss,
    denoised_positives,
    distillation_loss,
    interaction_loss,
    kl_divergence,
    margin_loss,
    masked_log_softmax,
    masked_mean,
    negatives_mask,
    published_divergence,
)

# Compiled once for each shape: called operation by operation, these tests would take ten times as long.
contrastive = jax.jit(contrastive_loss)
interaction = jax.jit(interaction_loss, static_argnames="divergence")
concentration = jax.jit(concentration_loss)
distillation = jax.jit(distillation_loss, static_argnames=("temperature", "divergence"))
divergence = jax.jit(kl_divergence)
denoise = jax.jit(denoised_positives)
margin = jax.jit(margin_loss, static_argnames="margin")

ROWS = 5
LOGITS = np.random.default_rng(0).normal(size=(ROWS, ROWS)).astype(np.float32)
TEACHER = np.random.default_rng(1).normal(size=(ROWS, ROWS)).astype(np.float32)
ALL = np.ones(ROWS, bool)
EVERY = np.ones((ROWS, ROWS), bool)


def softmax(x):
    exp = np.exp(np.asarray(x, np.float64))
    return exp / exp.sum(-1, keepdims=True)


def kl(student, teacher):
    """KL(student || teacher), one row after the other."""
    p, q = softmax(student), softmax(teacher)
    return (p * np.log(p / q)).sum(-1)


def test_masked_log_softmax_by_hand():
    got = masked_log_softmax(jnp.log(jnp.array([[1.0, 3.0, 100.0]])), jnp.array([[True, True, False]]))
    np.testing.assert_allclose(got[0, :2], np.log([0.25, 0.75]), rtol=1e-6)


def test_masked_mean_by_hand():
    assert masked_mean(jnp.array([1.0, 2.0, 90.0]), jnp.array([True, True, False])) == 1.5
    assert masked_mean(jnp.array([jnp.nan]), jnp.array([False])) == 0


def test_kl_by_hand():
    """Student (3/4, 1/4), teacher (1/2, 1/2): ln 2 less the student's entropy; the other way round it is more."""
    student, teacher, both = jnp.log(jnp.array([[3.0, 1.0]])), jnp.zeros((1, 2)), jnp.ones((1, 2), bool)
    forward = 0.75 * np.log(0.75 / 0.5) + 0.25 * np.log(0.25 / 0.5)
    backward = 0.5 * np.log(0.5 / 0.75) + 0.5 * np.log(0.5 / 0.25)
    np.testing.assert_allclose(divergence(student, teacher, both), [forward], rtol=1e-5)
    np.testing.assert_allclose(divergence(teacher, student, both), [backward], rtol=1e-5)
    assert abs(forward - backward) > 0.01


def test_kl_of_equal_distributions_is_zero():
    """Logits that differ by a constant are the same distribution."""
    np.testing.assert_allclose(divergence(LOGITS, LOGITS, EVERY), 0, atol=1e-7)
    np.testing.assert_allclose(divergence(LOGITS, LOGITS + 3, EVERY), 0, atol=1e-6)


def test_kl_takes_real_classes_only():
    """Masked logits may be anything; a row without classes gives 0."""
    mask = np.array([[1, 1, 0, 1, 0]] * 4 + [[0] * 5], bool)
    got = divergence(np.where(mask, LOGITS, 1e4), np.where(mask, TEACHER, -1e4), mask)
    kept = mask[0]
    np.testing.assert_allclose(got[:4], kl(LOGITS[:4, kept], TEACHER[:4, kept]), rtol=1e-5)
    assert got[4] == 0


def test_negatives_mask_by_hand():
    """Rows 0 and 2 are captions of one video, row 3 stands for nothing."""
    index, rows = jnp.array([7, 8, 7, 9]), jnp.array([True, True, True, False])
    got = negatives_mask(index, rows).astype(int).tolist()
    assert got == [[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 0], [1, 1, 1, 1]]
    published = negatives_mask(index, rows, mask_same_video=False).astype(int).tolist()
    assert published == [[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1]]


def test_contrastive_by_hand():
    """Matches weigh 3 against 1 and 1 against 1 in rows, 3 against 2 and 1 against 1 in columns."""
    logits = np.log(np.array([[3.0, 1.0], [2.0, 2.0]])).astype(np.float32)
    rows = -(np.log(3 / 4) + np.log(2 / 4)) / 2
    columns = -(np.log(3 / 5) + np.log(2 / 3)) / 2
    got = contrastive(logits, np.ones((2, 2), bool), np.ones(2, bool))
    np.testing.assert_allclose(got, (rows + columns) / 2, rtol=1e-6)


def test_contrastive_of_indifference_is_the_log_of_the_rows():
    np.testing.assert_allclose(contrastive(np.zeros_like(LOGITS), EVERY, ALL), np.log(ROWS), rtol=1e-6)


def test_two_captions_of_one_video_are_no_negatives():
    """Their similarity with each other's row has no influence, in either direction; in the published way it has."""
    index = jnp.array([0, 1, 0, 2, 3])
    changed = LOGITS.copy()
    changed[0, 2], changed[2, 0] = 50, -50
    mask = negatives_mask(index, jnp.asarray(ALL))
    assert contrastive(LOGITS, mask, ALL) == contrastive(changed, mask, ALL)
    assert distillation(LOGITS, TEACHER, mask, ALL) == distillation(changed, TEACHER, mask, ALL)
    published = negatives_mask(index, jnp.asarray(ALL), mask_same_video=False)
    assert abs(contrastive(LOGITS, published, ALL) - contrastive(changed, published, ALL)) > 1


ROW_KEPT = np.array([True, False, True, True, False])


def masked_and_smaller(loss):
    """A loss with two rows masked and full of garbage, and the loss of the batch without them."""
    both = ROW_KEPT[:, None] & ROW_KEPT[None, :]
    index = jnp.arange(ROWS)
    few = int(ROW_KEPT.sum())
    masked = loss(
        np.where(both, LOGITS, 30.0).astype(np.float32),
        np.where(both, TEACHER, -30.0).astype(np.float32),
        negatives_mask(index, jnp.asarray(ROW_KEPT)),
        jnp.asarray(ROW_KEPT),
    )
    small = loss(
        LOGITS[ROW_KEPT][:, ROW_KEPT],
        TEACHER[ROW_KEPT][:, ROW_KEPT],
        np.ones((few, few), bool),
        np.ones(few, bool),
    )
    return masked, small


SIMILARITY_LOSSES = {
    "contrastive": lambda student, teacher, mask, rows: contrastive(student, mask, rows),
    "distillation": distillation,
}


@pytest.mark.parametrize("name", SIMILARITY_LOSSES)
def test_masked_rows_are_as_if_absent(name):
    masked, small = masked_and_smaller(SIMILARITY_LOSSES[name])
    np.testing.assert_allclose(masked, small, rtol=1e-6)


@pytest.mark.parametrize("name", SIMILARITY_LOSSES)
def test_masked_rows_get_no_gradient(name):
    mask = negatives_mask(jnp.arange(ROWS), jnp.asarray(ROW_KEPT))

    def loss(student):
        return SIMILARITY_LOSSES[name](student, TEACHER, mask, ROW_KEPT)

    gradient = jax.jit(jax.grad(loss))(LOGITS)
    both = ROW_KEPT[:, None] & ROW_KEPT[None, :]
    np.testing.assert_array_equal(gradient[~both], 0)
    assert np.abs(gradient[both]).min() > 1e-4


@pytest.mark.parametrize("name", SIMILARITY_LOSSES)
def test_a_batch_of_masked_rows_gives_zero(name):
    nothing = np.zeros(ROWS, bool)
    mask = negatives_mask(jnp.arange(ROWS), jnp.asarray(nothing))

    def loss(student):
        return SIMILARITY_LOSSES[name](student, TEACHER, mask, nothing)

    value, gradient = jax.jit(jax.value_and_grad(loss))(LOGITS)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_distillation_is_kl_of_student_and_teacher_in_both_directions(temperature):
    got = distillation(LOGITS, TEACHER, EVERY, ALL, temperature=temperature)
    student, teacher = LOGITS.astype(np.float64) / temperature, TEACHER.astype(np.float64) / temperature
    wanted = kl(student, teacher).mean() + kl(student.T, teacher.T).mean()
    np.testing.assert_allclose(got, wanted, rtol=1e-5)
    assert abs(wanted - kl(teacher, student).mean() - kl(teacher.T, student.T).mean()) > 1e-2


def test_a_teacher_learns_nothing():
    tokens = np.ones((1, ROWS), bool)

    def losses(student, teacher):
        of_similarities = distillation(student, teacher, EVERY, ALL)
        return of_similarities + interaction(student[None], teacher[None], tokens, tokens)

    of_student, of_teacher = jax.jit(jax.grad(losses, argnums=(0, 1)))(LOGITS, TEACHER)
    np.testing.assert_array_equal(of_teacher, 0)
    assert np.abs(of_student).min() > 1e-4


# Two games of three words and four frames; of the second, two words and three frames are real.
PREDICTION = np.random.default_rng(2).normal(size=(2, 3, 4)).astype(np.float32)
INTERACTION = np.random.default_rng(3).normal(size=(2, 3, 4)).astype(np.float32)
TEXT_MASK = np.array([[1, 1, 1], [1, 1, 0]], bool)
VIDEO_MASK = np.array([[1, 1, 1, 1], [1, 1, 1, 0]], bool)


def test_interaction_is_the_sum_of_two_means():
    """Over frames for each of the 3 + 2 real words, and over words for each of the 4 + 3 real frames."""
    games = [(PREDICTION[0], INTERACTION[0]), (PREDICTION[1, :2, :3], INTERACTION[1, :2, :3])]
    over_frames = np.concatenate([kl(student, teacher) for student, teacher in games])
    over_words = np.concatenate([kl(student.T, teacher.T) for student, teacher in games])
    assert (len(over_frames), len(over_words)) == (5, 7)
    got = interaction(PREDICTION, INTERACTION, TEXT_MASK, VIDEO_MASK)
    np.testing.assert_allclose(got, over_frames.mean() + over_words.mean(), rtol=1e-5)


def test_interaction_of_a_perfect_prediction_is_zero():
    got = interaction(PREDICTION, PREDICTION + 1, TEXT_MASK, VIDEO_MASK)
    np.testing.assert_allclose(got, 0, atol=1e-6)


def test_interaction_of_masked_games_is_that_of_the_others():
    text_mask, video_mask = TEXT_MASK.copy(), VIDEO_MASK.copy()
    text_mask[1] = video_mask[1] = False
    got = interaction(PREDICTION, INTERACTION, text_mask, video_mask)
    first = interaction(*(x[:1] for x in (PREDICTION, INTERACTION, TEXT_MASK, VIDEO_MASK)))
    np.testing.assert_allclose(got, first, rtol=1e-6)


def test_interaction_of_nothing_is_zero():
    nothing = (np.zeros_like(TEXT_MASK), np.zeros_like(VIDEO_MASK))
    value, gradient = jax.jit(jax.value_and_grad(interaction_loss))(PREDICTION, INTERACTION, *nothing)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


def test_huge_logits_stay_finite():
    """Teacher logits are the interaction times 1000."""
    teacher = 1e4 * INTERACTION
    value, gradient = jax.jit(jax.value_and_grad(interaction_loss))(PREDICTION, teacher, TEXT_MASK, VIDEO_MASK)
    assert np.isfinite(value)
    assert value > 1e3
    assert np.all(np.isfinite(gradient))
    padding = ~(TEXT_MASK[:, :, None] & VIDEO_MASK[:, None, :])
    np.testing.assert_array_equal(gradient[padding], 0)


def test_published_divergence_is_a_mean_over_elements():
    """KL(teacher || student), once more divided by the number of classes."""
    wanted = kl(TEACHER, LOGITS).mean() / ROWS
    np.testing.assert_allclose(jax.jit(published_divergence)(LOGITS, TEACHER, EVERY), wanted, rtol=1e-5)


def test_published_distillation_is_both_directions_and_teaches_its_teacher():
    got = distillation(LOGITS, TEACHER, EVERY, ALL, divergence="published")
    wanted = (kl(TEACHER, LOGITS).mean() + kl(TEACHER.T, LOGITS.T).mean()) / ROWS
    np.testing.assert_allclose(got, wanted, rtol=1e-5)
    gradient = jax.jit(jax.grad(lambda x: distillation(LOGITS, x, EVERY, ALL, divergence="published")))(TEACHER)
    assert np.abs(gradient).max() > 1e-3


def test_published_interaction_runs_over_frames_and_over_the_batch():
    """Padded cells are classes of logit 0, in teacher and prediction."""
    cells = TEXT_MASK[:, :, None] & VIDEO_MASK[:, None, :]
    student, teacher = (np.where(cells, x, 0) for x in (PREDICTION, INTERACTION))
    got = interaction(PREDICTION, INTERACTION, TEXT_MASK, VIDEO_MASK, divergence="published")
    wanted = kl(teacher, student).mean() / 4 + kl(teacher.T, student.T).mean() / 2
    np.testing.assert_allclose(got, wanted, rtol=1e-5)


def test_published_losses_leave_masked_rows_out():
    """As if absent: in the softmax over the batch as in the mean."""
    few = int(ROW_KEPT.sum())
    mask = negatives_mask(jnp.arange(ROWS), jnp.asarray(ROW_KEPT))
    got = distillation(LOGITS, TEACHER, mask, ROW_KEPT, divergence="published")
    small = (x[ROW_KEPT][:, ROW_KEPT] for x in (LOGITS, TEACHER))
    wanted = distillation(*small, np.ones((few, few), bool), np.ones(few, bool), divergence="published")
    np.testing.assert_allclose(got, wanted, rtol=1e-5)
    text_mask, video_mask = TEXT_MASK.copy(), VIDEO_MASK.copy()
    text_mask[1] = video_mask[1] = False
    got = interaction(PREDICTION, INTERACTION, text_mask, video_mask, divergence="published")
    first = (x[:1] for x in (PREDICTION, INTERACTION, TEXT_MASK, VIDEO_MASK))
    np.testing.assert_allclose(got, interaction(*first, divergence="published"), rtol=1e-5)


def test_answers_by_hand():
    """Weights 1, 1 and 2; the second row's answer is not in the vocabulary, the third row stands for nothing."""
    logits = np.log(np.array([[1, 1, 2], [9, 1, 1], [1, 9, 1], [1, 1, 2]], np.float32))
    got = jax.jit(answer_cross_entropy)(logits, np.array([2, -1, 0, 0]), np.array([True, True, False, True]))
    np.testing.assert_allclose(got, (np.log(2) + np.log(4)) / 2, rtol=1e-6)


@pytest.mark.parametrize("divergence", ["paper", "published"])
def test_answer_distillation(divergence):
    """One direction; as printed the teacher learns nothing, as published it does."""

    def loss(teacher, student, rows):
        return answer_distillation_loss(student, teacher, rows, divergence)

    value, gradient = jax.jit(jax.value_and_grad(loss))(TEACHER, LOGITS, ROW_KEPT)
    student, teacher = LOGITS[ROW_KEPT], TEACHER[ROW_KEPT]
    wanted = kl(student, teacher).mean() if divergence == "paper" else kl(teacher, student).mean() / ROWS
    np.testing.assert_allclose(value, wanted, rtol=1e-5)
    assert (np.abs(gradient[ROW_KEPT]).max() > 1e-3) == (divergence == "published")
    np.testing.assert_array_equal(gradient[~ROW_KEPT], 0)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_captions_are_a_mean_over_real_tokens(smoothing):
    """Of rows of 3 and 1 real tokens; the third row stands for nothing. What is masked gets no gradient."""
    rng = np.random.default_rng(4)
    logits = rng.normal(size=(3, 3, ROWS)).astype(np.float32)
    targets = rng.integers(0, ROWS, (3, 3)).astype(np.int32)
    mask, rows = np.array([[1, 1, 1], [1, 0, 0], [1, 1, 0]], bool), np.array([True, True, False])
    logits[~mask] = 1e4
    value, gradient = jax.jit(jax.value_and_grad(caption_cross_entropy), static_argnums=4)(
        logits, targets, mask, rows, smoothing
    )
    wanted = []
    for row, place in ((0, 0), (0, 1), (0, 2), (1, 0)):
        right = np.full(ROWS, smoothing / ROWS)
        right[targets[row, place]] += 1 - smoothing
        wanted.append(-(right * np.log(softmax(logits[row, place]))).sum())
        part = (softmax(logits[row, place]) - right) / 4
        np.testing.assert_allclose(gradient[row, place], part, atol=1e-6)
    np.testing.assert_allclose(value, np.mean(wanted), rtol=1e-5)
    np.testing.assert_array_equal(gradient[~(mask & rows[:, None])], 0)


def test_captions_of_nothing_are_zero():
    nothing, row = jnp.zeros((1, 2), bool), jnp.ones(1, bool)
    assert caption_cross_entropy(jnp.ones((1, 2, 3)), jnp.zeros((1, 2), int), nothing, row) == 0


def unit(degrees):
    """Vectors of length 1 in the plane."""
    radians = np.deg2rad(np.asarray(degrees, np.float64))
    return np.stack([np.cos(radians), np.sin(radians)], axis=-1).astype(np.float32)


# Views of four videos as directions in degrees. Video 0 varies by 40 degrees and video 1 lies between its views; the
# views of video 1 differ by 10 degrees, so that it finds no other; video 2 is far away; video 3 is a copy of video 0.
VIEWS = unit([0, 10, 90, 0]), unit([40, 20, 95, 40])


def test_denoised_positives_by_hand():
    """The mean of the four cosines of videos i and j against the cosine of the views of i."""
    videos = list(zip(*VIEWS, strict=True))
    four = np.array([[np.mean([a @ b for a in i for b in j]) for j in videos] for i in videos])
    np.testing.assert_allclose(four[0, 1], np.cos(np.deg2rad([10, 20, 30, 20])).mean(), atol=1e-6)
    own = np.cos(np.deg2rad([40, 10, 5, 40]))
    assert ((four >= own[:, None]) | np.eye(4, dtype=bool)).tolist() == [
        [True, True, False, True],
        [False, True, False, False],
        [False, False, True, False],
        [True, True, False, True],
    ]
    got = denoise(*VIEWS, np.ones((4, 4), bool))
    np.testing.assert_array_equal(got, (four >= own[:, None]) | np.eye(4, dtype=bool))


def test_denoising_finds_no_masked_rows():
    rows = jnp.array([True, True, True, False])
    mask = negatives_mask(jnp.array([0, 1, 2, 3]), rows)
    got = denoise(*VIEWS, mask)
    assert got[0].tolist() == [True, True, False, False]
    # Nor another caption of the same video, which is left out of the softmax.
    mask = negatives_mask(jnp.array([0, 1, 2, 0]), jnp.ones(4, bool))
    assert denoise(*VIEWS, mask)[0].tolist() == [True, True, False, False]


def test_the_gradient_takes_what_is_found_as_given():
    """Denoising changes the gradient by its positives alone, which are constants to it: found or written down."""
    all_pairs, all_rows = jnp.ones((4, 4), bool), jnp.ones(4, bool)

    def gradient(positives_of):
        def loss(first, second):
            return contrastive_loss(first @ second.T, all_pairs, all_rows, positives_of(first, second))

        return jax.jit(jax.grad(loss, (0, 1)))(*VIEWS)

    found = gradient(lambda first, second: denoised_positives(first, second, all_pairs))
    given = np.eye(4, dtype=bool)
    given[0, [1, 3]] = given[3, [0, 1]] = True
    jax.tree.map(np.testing.assert_array_equal, found, gradient(lambda first, second: jnp.asarray(given)))
    for got, matched_alone in zip(found, gradient(lambda first, second: None), strict=True):
        assert np.abs(got - matched_alone).max() > 0.01


def test_contrastive_with_two_positives_by_hand():
    """Text 0 also describes video 1: its targets are 1/2, 1/2, and so are those of video 1."""
    logits = np.log(np.array([[3.0, 1.0], [2.0, 2.0]])).astype(np.float32)
    positives = np.array([[True, True], [False, True]])
    rows = -(0.5 * np.log(3 / 4) + 0.5 * np.log(1 / 4) + np.log(2 / 4)) / 2
    columns = -(np.log(3 / 5) + 0.5 * np.log(1 / 3) + 0.5 * np.log(2 / 3)) / 2
    got = contrastive(logits, np.ones((2, 2), bool), np.ones(2, bool), positives)
    np.testing.assert_allclose(got, (rows + columns) / 2, rtol=1e-6)


def test_matched_pairs_alone_give_the_same_loss():
    mask = negatives_mask(jnp.array([0, 1, 0, 2, 3]), jnp.asarray(ROW_KEPT))
    got = contrastive(LOGITS, mask, ROW_KEPT, np.eye(ROWS, dtype=bool))
    np.testing.assert_allclose(got, contrastive(LOGITS, mask, ROW_KEPT), rtol=1e-6)


# The hardest negatives of the texts are videos 1, 0 and 0, those of the videos texts 1, 0 and 0.
COSINES = np.array([[0.9, 0.8, 0.1], [0.6, 0.5, 0.2], [0.0, -0.2, 0.7]], np.float32)


def test_margin_by_hand():
    """theta 0.2. Texts: 0.8 - 0.9, 0.6 - 0.5, 0.0 - 0.7; videos: 0.6 - 0.9, 0.8 - 0.5, 0.2 - 0.7."""
    texts, videos = (0.1 + 0.3 + 0) / 3, (0 + 0.5 + 0) / 3
    got = margin(COSINES, np.ones((3, 3), bool), np.ones(3, bool), margin=0.2)
    np.testing.assert_allclose(got, (texts + videos) / 2, rtol=1e-5)


def test_found_positives_are_no_negatives():
    """Text 0 also describes video 1: it is left with video 2, and video 1 with text 2."""
    positives = np.eye(3, dtype=bool)
    positives[0, 1] = True
    got = margin(COSINES, np.ones((3, 3), bool), np.ones(3, bool), 0.2, positives)
    np.testing.assert_allclose(got, ((0 + 0.3 + 0) / 3 + 0) / 2, rtol=1e-5)


def test_margin_of_masked_rows():
    """They are neither rows nor negatives; a row without negatives costs nothing."""
    rows = np.array([True, True, False])
    mask = negatives_mask(jnp.arange(3), jnp.asarray(rows))
    garbage = np.where(rows[:, None] & rows[None, :], COSINES, 50).astype(np.float32)
    got = margin(garbage, mask, rows, margin=0.2)
    wanted = margin(COSINES[:2, :2], np.ones((2, 2), bool), np.ones(2, bool), margin=0.2)
    np.testing.assert_allclose(got, wanted, rtol=1e-6)
    gradients = jax.jit(jax.value_and_grad(functools.partial(margin_loss, margin=0.2)))
    value, gradient = gradients(garbage, np.eye(3, dtype=bool), rows)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)
    _, gradient = gradients(garbage, mask, rows)
    assert not np.any(gradient[2])
    assert not np.any(gradient[:, 2])
    assert np.any(gradient)


def test_hcmi_compiled_is_eager():
    first, second = (jnp.asarray(view) for view in VIEWS)
    mask, rows = jnp.ones((4, 4), bool), jnp.ones(4, bool)
    positives = denoised_positives(first, second, mask)
    np.testing.assert_array_equal(denoise(first, second, mask), positives)
    cosines = first @ second.T
    eager = contrastive_loss(cosines, mask, rows, positives), margin_loss(cosines, mask, rows, 0.2, positives)
    compiled = contrastive(cosines, mask, rows, positives), margin(cosines, mask, rows, 0.2, positives)
    np.testing.assert_allclose(compiled, eager, rtol=1e-6)


def test_concentration_is_the_entropy_over_real_frames():
    rng = np.random.default_rng(0)
    grid = jnp.asarray(rng.normal(size=(3, 4, 5)), jnp.float32)
    text_mask = jnp.asarray(np.arange(4) < np.array([[4], [2], [0]]))
    video_mask = jnp.asarray(np.arange(5) < np.array([[5], [3], [0]]))
    shares = []
    for pair, (words, frames) in enumerate([(4, 5), (2, 3)]):
        values = np.asarray(grid)[pair, :words, :frames]
        values = (values - values.mean()) / values.std()
        share = np.exp(values) / np.exp(values).sum(1, keepdims=True)
        shares += list(-(share * np.log(share)).sum(1) / np.log(frames))
    found = concentration(grid, text_mask, video_mask)
    assert found == pytest.approx(np.mean(shares), abs=1e-6)
    # The scale and padding do not matter; equal interactions are spread evenly; one frame has nothing to spread over.
    padded = jnp.where(text_mask[:, :, None] & video_mask[:, None, :], 50 * grid, 7.0)
    assert concentration(padded, text_mask, video_mask) == pytest.approx(float(found), abs=1e-5)
    assert concentration(jnp.ones((3, 4, 5)), text_mask, video_mask) == pytest.approx(1, abs=1e-6)
    one_frame = jnp.asarray(np.arange(5) < np.array([[1], [1], [0]]))
    assert concentration(grid, text_mask, one_frame) == 0
    gradient = jax.grad(concentration)(grid, text_mask, video_mask)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient[:2]).max() > 0


def test_a_word_with_equal_frames_is_spread_evenly_and_teaches_nothing():
    """Its exact interactions differ by rounding alone."""
    masks = jnp.ones((1, 1), bool), jnp.ones((1, 8), bool)

    @jax.jit
    @jax.value_and_grad
    def loss(similarity):
        played = banzhaf.interaction(similarity, jnp.zeros((1, 1)), jnp.zeros((1, 8)), *masks)
        return concentration_loss(played, *masks)

    value, gradient = loss(jnp.full((1, 1, 8), 0.31))
    assert value == pytest.approx(1, abs=1e-6)
    np.testing.assert_array_equal(gradient, 0)
