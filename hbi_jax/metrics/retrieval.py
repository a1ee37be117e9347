"""Retrieval metrics from a similarity matrix: recall at K, median and mean rank, in both directions.

Plain numpy on the host. All recalls are percent. Ties are counted against the method everywhere: a model that
gives every candidate the same score gets the last rank, not the first.
"""

import numpy as np
from jaxtyping import Float, Int

RECALL_AT = (1, 5, 10, 50)
# The recalls that Rsum adds up.
RSUM_RECALLS = ("R@1", "R@5", "R@10")


def ranks(similarity: Float[np.ndarray, "q g"], target: Int[np.ndarray, " q"]) -> Int[np.ndarray, " q"]:
    """Rank of each query's target among all candidates, 1 being the best.

    rank = 1 + number of greater scores + number of equal scores elsewhere (pessimistic ties).

    Args:
      similarity: Score of every query (row) with every candidate (column); greater is better.
      target: Column of each query's right answer.

    Returns:
      Ranks in 1..g.

    Raises:
      ValueError: A score is NaN, or a target is no column.
    """
    _check_scores(similarity)
    _check_columns("target", target, similarity.shape[1])
    own = np.take_along_axis(similarity, target[:, None], axis=1)
    # The target equals itself, so counting "greater or equal" over all candidates includes the 1.
    return (similarity >= own).sum(axis=1)


def summarize(ranks: Int[np.ndarray, " q"]) -> dict[str, float]:
    """Recalls at 1, 5, 10 and 50 in percent, median rank and mean rank.

    Args:
      ranks: One rank a query, 1 being the best.

    Returns:
      Keys `R@1`, `R@5`, `R@10`, `R@50`, `MdR`, `MnR`.

    Raises:
      ValueError: There are no ranks.
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
    """Metrics of text-to-video and video-to-text retrieval over one gallery.

    Text to video: every text is a query, the videos are the candidates. Video to text: every video is a
    query, the texts are the candidates, and of a video's own captions the best-scoring one counts; its other
    captions are right answers too and never push it down.

    Args:
      similarity: Score of every text (row) with every video (column).
      text_to_video: Column of each text's video. Every video needs at least one text.
      group_captions: Video to text only. True: the captions of one foreign video cost one rank together, as
        published multi-caption evaluation (MSVD) counts, so that the candidates are as many as the videos. False:
        every foreign caption above the best own one costs a rank. R@1 is the same either way, and with one
        caption a video everything is.

    Returns:
      `t2v` and `v2t`, each as `summarize` gives it, and `Rsum` = the sum of R@1, R@5 and R@10 of both
      directions (at most 600).

    Raises:
      ValueError: A score is NaN, an entry of `text_to_video` is no column, or a video has no text.
    """
    num_videos = similarity.shape[1]
    text_ranks = ranks(similarity, text_to_video)
    missing = np.setdiff1d(np.arange(num_videos), text_to_video)
    if missing.size:
        raise ValueError(
            f"text_to_video names no text for {missing.size} of {num_videos} videos (the first is column "
            f"{missing[0]}), wanted at least one text a video; drop those columns of similarity."
        )
    own = text_to_video[:, None] == np.arange(num_videos)  # [a, b]
    best_own = np.where(own, similarity, -np.inf).max(axis=0)
    if group_captions:
        best_of_video = np.full((num_videos, num_videos), -np.inf, similarity.dtype)
        np.maximum.at(best_of_video, text_to_video, similarity)
        video_ranks = ranks(best_of_video.T, np.arange(num_videos))
    else:
        video_ranks = 1 + ((similarity >= best_own) & ~own).sum(axis=0)
    t2v, v2t = summarize(text_ranks), summarize(video_ranks)
    return {"t2v": t2v, "v2t": v2t, "Rsum": _rsum(t2v, v2t)}


def chance_metrics(num_candidates: int) -> dict[str, dict[str, float] | float]:
    """What a random order of the candidates gives on average, where one candidate is right.

    Args:
      num_candidates: Size of the gallery, texts as well as videos.

    Returns:
      The layout of `retrieval_metrics`: R@k = 100 k / n, MdR = MnR = (n + 1) / 2.

    Raises:
      ValueError: The gallery is empty.
    """
    # A random order puts the right one at every rank equally often.
    direction = summarize(np.arange(1, num_candidates + 1))
    return {"t2v": direction, "v2t": dict(direction), "Rsum": _rsum(direction, direction)}


def group_accuracy(
    similarity: Float[np.ndarray, "a b"], text_to_video: Int[np.ndarray, " a"], groups: Int[np.ndarray, " a"]
) -> float:
    """Share of texts that score their own video above all other videos of their group, in percent.

    Made for groups of near-twins: videos that share their entities and differ in action or order. Ties count
    as wrong. A group of one video is right by definition; `group_chance` allows for it.

    Args:
      similarity: Score of every text (row) with every video (column).
      text_to_video: The column that belongs to each row.
      groups: Group of each row's video.

    Returns:
      Percent of rows.

    Raises:
      ValueError: A score is NaN, or there are no rows.
    """
    _check_scores(similarity)
    _check_rows(groups)
    scores = similarity[:, text_to_video]  # of every text with the video of every text
    rival = (groups[:, None] == groups) & (text_to_video[:, None] != text_to_video)
    beaten = (scores >= np.diag(scores)[:, None]) & rival
    return 100.0 * float(np.mean(~beaten.any(axis=1)))


def group_chance(text_to_video: Int[np.ndarray, " a"], groups: Int[np.ndarray, " a"]) -> float:
    """What guessing within the group gives on average: the mean over texts of 1 / videos of the group, in percent.

    Args:
      text_to_video: The video of each text.
      groups: Group of each text's video; sizes may differ (an unreadable video leaves its group smaller).

    Returns:
      Percent; 25 for groups of four.

    Raises:
      ValueError: There are no rows.
    """
    _check_rows(groups)
    sizes = [len(np.unique(text_to_video[groups == group])) for group in groups]
    return 100.0 * float(np.mean(1.0 / np.asarray(sizes)))


def _rsum(t2v: dict[str, float], v2t: dict[str, float]) -> float:
    """Sum of the recalls of both directions that Rsum is made of."""
    return sum(direction[name] for direction in (t2v, v2t) for name in RSUM_RECALLS)


def _check_scores(similarity: np.ndarray) -> None:
    """Raises where a score is NaN: it compares as smaller than everything and would look like a good rank."""
    bad = np.isnan(similarity)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise ValueError(
            f"similarity has {bad.sum()} NaN of {bad.size} scores (the first at [{row}, {column}]), wanted "
            "numbers; check the checkpoint for non-finite weights and the inputs for rows of padding only."
        )


def _check_columns(name: str, columns: np.ndarray, size: int) -> None:
    """Raises where an index is outside 0..size-1: numpy would take a negative one from the end."""
    outside = (columns < 0) | (columns >= size)
    if outside.any():
        raise ValueError(
            f"{name}[{int(np.argmax(outside))}]={columns[outside][0]} is no column of a similarity with "
            f"{size} candidates, wanted 0..{size - 1}; number the candidates in the order of the columns."
        )


def _check_rows(groups: np.ndarray) -> None:
    """Raises where there is nothing to average."""
    if groups.size == 0:
        raise ValueError("groups has 0 rows, wanted at least 1; use a split that holds a readable video.")
