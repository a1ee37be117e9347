"""Retrieval metrics from a similarity matrix: recall at K, median and mean rank, in both directions.

Plain numpy on the host. Recalls are in percent. Ties always count against the model: if all candidates have the same
score, the target gets the last rank, not the first.
"""

import numpy as np
from jaxtyping import Float, Int

RECALL_AT = (1, 5, 10, 50)
# Rsum is the sum of these recalls in both directions.
RSUM_RECALLS = ("R@1", "R@5", "R@10")


def ranks(similarity: Float[np.ndarray, "q g"], target: Int[np.ndarray, " q"]) -> Int[np.ndarray, " q"]:
    """Returns the rank of each query's target among all candidates; 1 is the best.

    rank = 1 + number of greater scores + number of equal scores of other candidates (pessimistic ties).

    Args:
      similarity: Score of every query (row) with every candidate (column); greater is better.
      target: Column of each query's target.

    Returns:
      Ranks in 1..g.

    Raises:
      ValueError: If a score is NaN, or a target is not a column.
    """
    _check_scores(similarity)
    _check_columns("target", target, similarity.shape[1])
    own = np.take_along_axis(similarity, target[:, None], axis=1)
    # The target's own score counts as "greater or equal", which supplies the 1.
    return (similarity >= own).sum(axis=1)


def summarize(ranks: Int[np.ndarray, " q"]) -> dict[str, float]:
    """Returns the recalls at 1, 5, 10 and 50 in percent, the median rank and the mean rank.

    Args:
      ranks: One rank per query; 1 is the best.

    Returns:
      Keys `R@1`, `R@5`, `R@10`, `R@50`, `MdR`, `MnR`.

    Raises:
      ValueError: If there are no ranks.
    """
    if ranks.size == 0:
        raise ValueError("ranks has 0 queries, wanted at least 1; use a split that holds a readable video.")
    recalls = {f"R@{k}": 100.0 * float(np.mean(ranks <= k)) for k in RECALL_AT}
    return {**recalls, "MdR": float(np.median(ranks)), "MnR": float(np.mean(ranks))}


def retrieval_metrics(
    similarity: Float[np.ndarray, "a b"],
    text_to_video: Int[np.ndarray, " a"],
    *,
    group_captions: bool = True,
) -> dict[str, dict[str, float] | float]:
    """Returns the metrics of text-to-video and video-to-text retrieval over one gallery.

    For text-to-video, every text is a query and the videos are the candidates. For video-to-text, every video is a
    query and the texts are the candidates. A video is ranked by the best-scoring of its own captions; its other
    captions are correct too and never lower the rank.

    Args:
      similarity: Score of every text (row) with every video (column).
      text_to_video: Column of each text's video. Every video needs at least one text.
      group_captions: Affects video-to-text only. If True, the captions of another video cost at most one rank together,
        as in published multi-caption evaluation (MSVD), so there are as many candidates as videos. If False, every
        caption of another video that scores above the best own caption costs a rank. R@1 is the same in both cases;
        with one caption per video, all metrics are.

    Returns:
      `t2v` and `v2t`, each as returned by `summarize`, and `Rsum`, the sum of R@1, R@5 and R@10 in both directions (at
      most 600).

    Raises:
      ValueError: If a score is NaN, an entry of `text_to_video` is not a column, or a video has no text.
    """
    num_videos = similarity.shape[1]
    text_ranks = ranks(similarity, text_to_video)
    missing = np.setdiff1d(np.arange(num_videos), text_to_video)
    if missing.size:
        raise ValueError(
            f"text_to_video names no text for {missing.size} of {num_videos} videos (the first is column "
            f"{missing[0]}), wanted at least one text per video; drop those columns of similarity."
        )
    if group_captions:
        best_of_video = np.full((num_videos, num_videos), -np.inf, similarity.dtype)
        np.maximum.at(best_of_video, text_to_video, similarity)
        video_ranks = ranks(best_of_video.T, np.arange(num_videos))
    else:
        own = text_to_video[:, None] == np.arange(num_videos)  # [a, b]
        best_own = np.where(own, similarity, -np.inf).max(axis=0)
        video_ranks = 1 + ((similarity >= best_own) & ~own).sum(axis=0)
    t2v, v2t = summarize(text_ranks), summarize(video_ranks)
    return {"t2v": t2v, "v2t": v2t, "Rsum": rsum(t2v, v2t)}


def chance_metrics(num_candidates: int) -> dict[str, dict[str, float] | float]:
    """Returns the expected metrics of a random ranking with one right candidate per query.

    Args:
      num_candidates: Size of the gallery: the number of texts and of videos.

    Returns:
      The layout of `retrieval_metrics`: R@k = 100 min(k, n) / n, MdR = MnR = (n + 1) / 2.

    Raises:
      ValueError: If the gallery is empty.
    """
    # In a random ranking, every rank of the right candidate is equally likely.
    direction = summarize(np.arange(1, num_candidates + 1))
    return {"t2v": direction, "v2t": dict(direction), "Rsum": rsum(direction, direction)}


def group_accuracy(
    similarity: Float[np.ndarray, "a b"], text_to_video: Int[np.ndarray, " a"], groups: Int[np.ndarray, " a"]
) -> float:
    """Returns the share of texts that score their own video above all other videos of its group, in percent.

    The metric is meant for groups of near-twins: videos with the same entities but a different action or order. Ties
    count as wrong. In a group of one video the text is always right; `group_chance` accounts for this.

    Args:
      similarity: Score of every text (row) with every video (column).
      text_to_video: Column of each text's video.
      groups: Group of each text's video.

    Returns:
      Percent of the texts.

    Raises:
      ValueError: If a score is NaN, or there are no rows.
    """
    _check_scores(similarity)
    _check_rows(groups)
    scores = similarity[:, text_to_video]  # score of every text with the video of every text
    rival = (groups[:, None] == groups) & (text_to_video[:, None] != text_to_video)
    beaten = (scores >= np.diag(scores)[:, None]) & rival
    return 100.0 * float(np.mean(~beaten.any(axis=1)))


def group_chance(text_to_video: Int[np.ndarray, " a"], groups: Int[np.ndarray, " a"]) -> float:
    """Returns the expected `group_accuracy` of guessing: the mean over texts of 1 / (videos in the group), in percent.

    Args:
      text_to_video: The video of each text.
      groups: Group of each text's video; sizes may differ (an unreadable video makes its group smaller).

    Returns:
      Percent; 25 for groups of four.

    Raises:
      ValueError: If there are no rows.
    """
    _check_rows(groups)
    sizes = [len(np.unique(text_to_video[groups == group])) for group in groups]
    return 100.0 * float(np.mean(1.0 / np.asarray(sizes)))


def rsum(t2v: dict[str, float], v2t: dict[str, float]) -> float:
    """Returns the sum of `RSUM_RECALLS` over both directions."""
    return sum(direction[name] for direction in (t2v, v2t) for name in RSUM_RECALLS)


def _check_scores(similarity: np.ndarray) -> None:
    """Raises ValueError if a score is NaN: all comparisons with NaN are false, so it would yield a good rank."""
    bad = np.isnan(similarity)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise ValueError(
            f"similarity has {bad.sum()} NaN of {bad.size} scores (the first at [{row}, {column}]), wanted "
            "numbers; check the checkpoint for non-finite weights and the inputs for rows that are all padding."
        )


def _check_columns(name: str, columns: np.ndarray, size: int) -> None:
    """Raises ValueError if an index is outside 0..size-1; numpy would count a negative index from the end."""
    outside = (columns < 0) | (columns >= size)
    if outside.any():
        raise ValueError(
            f"{name}[{int(np.argmax(outside))}]={columns[outside][0]} is not a column of a similarity with "
            f"{size} candidates, wanted 0..{size - 1}; number the candidates in the order of the columns."
        )


def _check_rows(groups: np.ndarray) -> None:
    """Raises ValueError if there are no rows to average."""
    if groups.size == 0:
        raise ValueError("groups has 0 rows, wanted at least 1; use a split that holds a readable video.")
