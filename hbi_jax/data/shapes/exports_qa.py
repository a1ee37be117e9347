"""Exports a finished world in the layouts of other question-answering data sets, to test and try their loaders."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hbi_jax.data.shapes.encode import convert_video
from hbi_jax.data.shapes.files import write_atomically
from hbi_jax.data.shapes.generator import VIDEO_FOLDER
from hbi_jax.data.shapes.plan import SPLITS

# ActivityNet-QA's number of the type closest to each of the world's types.
_ACTIVITYNET_TYPES = {"what": 0, "where": 1, "order": 2, "which": 5, "how many": 7}


def export_msvd_qa(world: Path, folder: Path) -> None:
    """Writes MSVD-QA's layout: `<split>_qa.json`, `youtube_mapping.txt` and `videos/vid<k>.avi`.

    Args:
      world: Folder of a finished world.
      folder: Output folder, created if absent.
    """
    names = [path.stem for path in _videos(world)]
    numbers = {name: number for number, name in enumerate(names, 1)}
    for name, number in numbers.items():
        convert_video(world / VIDEO_FOLDER / f"{name}.mp4", folder / VIDEO_FOLDER / f"vid{number}.avi")
    mapping = "".join(f"{name} vid{number}\n" for name, number in numbers.items())
    write_atomically(folder / "youtube_mapping.txt", mapping.encode())
    for split, questions in _questions(world):
        entries = [
            {"answer": asked["answer"], "id": row, "question": asked["question"], "video_id": number}
            for row, (asked, number) in enumerate((asked, numbers[asked["video_id"]]) for asked in questions)
        ]
        _write_json(folder / f"{split}_qa.json", entries)


def export_activitynet_qa(world: Path, folder: Path) -> None:
    """Writes ActivityNet-QA's layout: `<split>_q.json`, `<split>_a.json` and `videos/v_<id>.mp4`.

    Args:
      world: Folder of a finished world.
      folder: Output folder, created if absent.
    """
    for path in _videos(world):
        convert_video(path, folder / VIDEO_FOLDER / f"v_{path.name}")
    for split, questions in _questions(world):
        ids = [f"{entry['video_id']}_{row}" for row, entry in enumerate(questions)]
        asked = [
            {"video_name": entry["video_id"], "question": entry["question"], "question_id": number}
            for number, entry in zip(ids, questions, strict=True)
        ]
        answered = [
            {"answer": entry["answer"], "type": _ACTIVITYNET_TYPES[entry["answer_type"]], "question_id": number}
            for number, entry in zip(ids, questions, strict=True)
        ]
        _write_json(folder / f"{split}_q.json", asked)
        # Reversed, so that a reader that joins by order instead of id fails.
        _write_json(folder / f"{split}_a.json", answered[::-1])


def _videos(world: Path) -> list[Path]:
    return sorted((world / VIDEO_FOLDER).glob("*.mp4"))


def _questions(world: Path) -> Iterator[tuple[str, list[Mapping[str, Any]]]]:
    for split in SPLITS:
        yield split, [json.loads(line) for line in (world / f"{split}.jsonl").read_text().splitlines()]


def _write_json(path: Path, content: list[Mapping[str, Any]]) -> None:
    write_atomically(path, (json.dumps(content, indent=0) + "\n").encode())
