"""Exports a finished world in the layouts of other data sets, to test and try their loaders (docs/data.md)."""

import csv
import functools
import io
import json
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hbi_jax.data.shapes.annotations import describe
from hbi_jax.data.shapes.config import ShapesError
from hbi_jax.data.shapes.encode import convert_video
from hbi_jax.data.shapes.exports_qa import export_activitynet_qa, export_msvd_qa
from hbi_jax.data.shapes.files import write_atomically
from hbi_jax.data.shapes.generator import VIDEO_FOLDER
from hbi_jax.data.shapes.manifest import read_config
from hbi_jax.data.shapes.plan import SPLITS
from hbi_jax.data.shapes.scenes import Scene, stage_world

# The scenes of a split, each with its paraphrases.
_Split = Sequence[tuple[Scene, Sequence[str]]]
# The content of each annotation file by name, and the file name of each video by id.
_Layout = tuple[Mapping[str, bytes], Mapping[str, str]]

# DiDeMo's videos have these extensions.
_DIDEMO_EXTENSIONS = (".avi", ".mov", ".mp4", ".m4v", ".3gp")
_DIDEMO_SEGMENT = 5  # seconds
_LSMDC_FILES = {
    "train": "LSMDC16_annos_training.csv",
    "val": "LSMDC16_annos_val.csv",
    "test": "LSMDC16_challenge_1000_publictect.csv",
    "twins": "LSMDC16_twins.csv",
}
_LSMDC_CLIPS_PER_MOVIE = 10


def export(world: str | Path, folder: str | Path, layout: str) -> None:
    """Writes a world in another layout: annotation files into a folder, video files into its subfolder `videos`.

    Args:
      world: Folder of a finished world.
      folder: Output folder, created if absent. Files of the same names are replaced.
      layout: A key of `LAYOUTS`.

    Raises:
      ShapesError: If the layout is unknown, the world is not finished, or the folder cannot be written.
    """
    if layout not in LAYOUTS:
        raise ShapesError(f"layout={layout!r} is unknown; choose one of {', '.join(LAYOUTS)}.")
    read_config(world)  # raises an error if the world is not finished
    LAYOUTS[layout](Path(world), Path(folder))


def _export(make: Callable[[Mapping[str, _Split]], _Layout], world: Path, folder: Path) -> None:
    config = read_config(world)
    scenes = [(scene, tuple(sentence.text for sentence in describe(scene, config))) for scene in stage_world(config)]
    splits = {split: [pair for pair in scenes if pair[0].split == split] for split in SPLITS}
    annotations, videos = make(splits)
    for name, target in videos.items():
        convert_video(world / VIDEO_FOLDER / f"{name}.mp4", folder / VIDEO_FOLDER / target)
    for name, content in annotations.items():
        write_atomically(folder / name, content)


def _msvd(splits: Mapping[str, _Split]) -> _Layout:
    """Returns MSVD's layout: lists, a pickle with all captions as lists of words, and `<id>.avi`."""
    words = {scene.video_id: [text.split() for text in texts] for split in splits.values() for scene, texts in split}
    files = {f"{split}_list.txt": _lines(scene.video_id for scene, _ in scenes) for split, scenes in splits.items()}
    # The distributed file uses protocol 2.
    return {**files, "raw-captions.pkl": pickle.dumps(words, protocol=2)}, {name: f"{name}.avi" for name in words}


def _lsmdc(splits: Mapping[str, _Split]) -> _Layout:
    """Returns LSMDC's layout: one table per split and `<movie>/<clip>.avi`, with consecutive clips in a movie."""
    files, videos = {}, {}
    for number, (split, scenes) in enumerate(splits.items()):
        rows = []
        for row, (scene, texts) in enumerate(scenes):
            movie = f"{number}{row // _LSMDC_CLIPS_PER_MOVIE:03}_Moving_Shapes"
            first = row % _LSMDC_CLIPS_PER_MOVIE * scene.num_frames / scene.fps
            start, end = (_clock(seconds) for seconds in (first, first + scene.num_frames / scene.fps))
            clip = f"{movie}_{start}-{end}"
            rows.append("\t".join((clip, start, end, start, end, texts[0])))
            videos[scene.video_id] = f"{movie}/{clip}.avi"
        files[_LSMDC_FILES[split]] = _lines(rows)
    return files, videos


def _didemo(splits: Mapping[str, _Split]) -> _Layout:
    """Returns DiDeMo's layout: a list and descriptions per split. Extensions in names may differ from the file's."""
    files, videos = {}, {}
    for split, scenes in splits.items():
        names, entries = [], []
        for row, (scene, texts) in enumerate(scenes):
            extension = _DIDEMO_EXTENSIONS[row % len(_DIDEMO_EXTENSIONS)]
            videos[scene.video_id] = scene.video_id + extension
            # In some collections the files were converted and the annotations kept the old names.
            names.append(scene.video_id + (".mov" if extension == ".mp4" else extension))
            segment = int(scene.num_frames / scene.fps // _DIDEMO_SEGMENT)
            for text in texts:
                number, times = len(entries), [[0, segment]] * 4
                entry = {"annotation_id": number, "description": text, "times": times, "video": names[-1]}
                entries.append(entry)
        files |= {f"{split}_list.txt": _lines(names), f"{split}_data.json": _json(entries)}
    return files, videos


def _activitynet(splits: Mapping[str, _Split]) -> _Layout:
    """Returns ActivityNet's layout: two lists, paragraphs and `v_<id>.mp4`. The val videos end the training list."""
    paragraphs = {
        split: {
            f"v_{scene.video_id}": {
                "duration": scene.num_frames / scene.fps,
                "timestamps": [[0, scene.num_frames / scene.fps]] * len(texts),
                "sentences": list(texts),
            }
            for scene, texts in scenes
        }
        for split, scenes in splits.items()
    }
    train, test = paragraphs["train"] | paragraphs["val"], paragraphs["test"]
    files = {
        "train_ids.json": _json(list(train)),
        "val_ids.json": _json(list(test)),
        "twins_ids.json": _json(list(paragraphs["twins"])),
        "train.json": _json(train),
        "val_1.json": _json(test | paragraphs["twins"]),
    }
    return files, {video_id.removeprefix("v_"): f"{video_id}.mp4" for part in paragraphs.values() for video_id in part}


def _folder(splits: Mapping[str, _Split]) -> _Layout:
    """Returns the `folder` layout: one table with splits and groups, and a video folder per split."""
    text, videos = io.StringIO(), {}
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("video", "caption", "start", "end", "split", "group"))
    for split, scenes in splits.items():
        for scene, texts in scenes:
            videos[scene.video_id] = f"{split}/{scene.video_id}.mp4"
            group = f"group{scene.group}" if split == "twins" else ""
            # Galleries have one caption per video, the one that mentions everything.
            for caption in texts if split == "train" else texts[:1]:
                end = scene.num_frames / scene.fps
                writer.writerow((videos[scene.video_id], caption, 0, end, split, group))
    return {"captions.csv": text.getvalue().encode()}, videos


# Each function takes the world's folder and the output folder.
LAYOUTS: Mapping[str, Callable[[Path, Path], None]] = MappingProxyType(
    {
        "activitynet": functools.partial(_export, _activitynet),
        "activitynet_qa": export_activitynet_qa,
        "didemo": functools.partial(_export, _didemo),
        "folder": functools.partial(_export, _folder),
        "lsmdc": functools.partial(_export, _lsmdc),
        "msvd": functools.partial(_export, _msvd),
        "msvd_qa": export_msvd_qa,
    }
)


def _lines(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=0) + "\n").encode()


def _clock(seconds: float) -> str:
    """Returns a time in LSMDC's format, HH.MM.SS.mmm."""
    minutes, rest = divmod(round(seconds * 1000), 60_000)
    return f"{minutes // 60:02}.{minutes % 60:02}.{rest // 1000:02}.{rest % 1000:03}"
