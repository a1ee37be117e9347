"""Contact sheets: images of video frames with their captions, for visual inspection."""

import math
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from hbi_jax.data.shapes.annotations import describe
from hbi_jax.data.shapes.config import ShapesError, WorldConfig
from hbi_jax.data.shapes.encode import decode_video, encode_video
from hbi_jax.data.shapes.files import cannot_write
from hbi_jax.data.shapes.generator import VIDEO_FOLDER
from hbi_jax.data.shapes.manifest import read_config
from hbi_jax.data.shapes.questions import ask_about
from hbi_jax.data.shapes.renderer import render
from hbi_jax.data.shapes.scenes import Scene, stage_world
from hbi_jax.data.shapes.truth import scene_truth

_FRAMES_A_ROW = 12
_FRAME_WIDTH = 112
_SPACE = 6
_LINE = 20
_PAPER, _INK, _FAINT, _BOX = (255, 255, 255), (20, 20, 20), (120, 120, 120), (255, 255, 255)


def preview(folder: str | Path | None, path: str | Path, num_videos: int = 12, show_boxes: bool = False) -> Path:
    """Saves a contact sheet with a row of frames per video and its caption beneath. Near-twins are adjacent.

    With at least eight rows, about half are near-twins. The others come from the test split first, then from the other
    splits. Frames are decoded from the compressed file, so the sheet shows what a model sees.

    Args:
      folder: Folder of a finished world; None renders a few videos with default settings in memory.
      path: Output image. The extension, such as .png, selects the format.
      num_videos: Number of rows, at least 1.
      show_boxes: Whether to draw the ground-truth boxes of visible shapes.

    Returns:
      `path`.

    Raises:
      ShapesError: If the folder holds no finished world, a video is missing, or the image cannot be written.
    """
    if num_videos < 1:
        raise ShapesError(f"num_videos={num_videos} must be at least 1.")
    path = Path(path)
    num_groups = num_videos // 8
    if folder is None:
        config = WorldConfig(num_train=0, num_val=0, num_test=num_videos, num_twin_groups=num_groups)
    else:
        config = read_config(folder)
    scenes = _choose(stage_world(config), num_videos, num_groups)
    sheet = _stack([_row(scene, _frames(scene, config, folder), config, show_boxes) for scene in scenes])
    try:
        sheet.save(path)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.strerror:
            raise cannot_write(path, error) from error
        raise ShapesError(f"cannot write {path}: {error}; choose a name that ends in .png or .jpg.") from error
    return path


def _choose(scenes: tuple[Scene, ...], num_videos: int, num_groups: int) -> list[Scene]:
    twins = [scene for scene in scenes if scene.split == "twins"][: 4 * num_groups]
    others = sorted((s for s in scenes if s.split != "twins"), key=lambda s: (s.split != "test", s.index))
    return others[: num_videos - len(twins)] + twins


def _frames(scene: Scene, config: WorldConfig, folder: str | Path | None) -> UInt8[np.ndarray, "f h w 3"]:
    if folder is None:
        return decode_video(encode_video(render(scene, config.image_size), config))
    file = Path(folder) / VIDEO_FOLDER / f"{scene.video_id}.mp4"
    if not file.is_file():
        raise ShapesError(f"{file} is missing; run generate on {folder} again to put it back.")
    return decode_video(file)


def _row(scene: Scene, frames: UInt8[np.ndarray, "f h w 3"], config: WorldConfig, show_boxes: bool) -> Image.Image:
    sentence, *paraphrases = describe(scene, config)
    truth = scene_truth(scene, sentence)
    chosen = range(0, len(frames), math.ceil(len(frames) / _FRAMES_A_ROW))
    text = [sentence.text]
    if paraphrases:
        text.append(f"also: {paraphrases[0].text}")
    question = ask_about(scene, config)[-1]
    text.append(f"{question.question} {question.answer}")
    group = "" if scene.group is None else f"near-twins, group {scene.group}"
    width = _FRAMES_A_ROW * (_FRAME_WIDTH + _SPACE) + _SPACE
    row = Image.new("RGB", (width, _FRAME_WIDTH + _LINE * (1 + len(text)) + 2 * _SPACE), _PAPER)
    draw = ImageDraw.Draw(row)
    draw.line((0, 0, width, 0), fill=_FAINT)
    for column, number in enumerate(chosen):
        left = _SPACE + column * (_FRAME_WIDTH + _SPACE)
        label = f"{number / scene.fps:.2f} s"
        draw.text((left, 4), label, fill=_FAINT, font=ImageFont.load_default(12))
        picture = Image.fromarray(frames[number]).resize((_FRAME_WIDTH, _FRAME_WIDTH), Image.Resampling.NEAREST)
        if show_boxes:
            _draw_boxes(picture, truth.boxes[truth.visible[:, number], number])
        row.paste(picture, (left, _LINE))
    top = _LINE + _FRAME_WIDTH + 4
    for number, line in enumerate(text):
        font = ImageFont.load_default(12 if number else 15)
        draw.text((_SPACE, top + number * _LINE), line, fill=_FAINT if number else _INK, font=font)
    note = f"{scene.video_id} ({scene.split}) {group}"
    draw.text((width - _SPACE, top), note, fill=_FAINT, font=ImageFont.load_default(12), anchor="ra")
    return row


def _draw_boxes(picture: Image.Image, boxes: Float[np.ndarray, "n 4"]) -> None:
    draw = ImageDraw.Draw(picture)
    for box in boxes * picture.width:
        draw.rectangle(tuple(box), outline=_BOX)


def _stack(rows: list[Image.Image]) -> Image.Image:
    sheet = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)), _PAPER)
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    return sheet
