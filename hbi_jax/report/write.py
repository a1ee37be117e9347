"""Writes a report: JSON for programs, Markdown for people, and a summary for the terminal."""

import dataclasses
import io
import json
import math
import os
import pathlib
import sys
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hbi_jax.files import replace_file
from hbi_jax.report.report import Gallery, Metrics, Picture, Report, Row, Training

DIRECTIONS = {"t2v": "Text to video", "v2t": "Video to text"}
COLUMNS = ("R@1", "R@5", "R@10", "R@50", "MdR", "MnR")
TERMINAL_COLUMNS = ("R@1", "R@5", "R@10", "MdR")
CHANCE = "chance"


def write_report(workdir: str | os.PathLike[str], report: Report) -> None:
    """Writes `report.json` and `report.md` atomically: a reader sees the old file or the new one.

    Args:
      workdir: The folder; created if needed.
      report: The report. Picture paths become relative to the folder.

    Raises:
      ValueError: If a picture is missing, the report has no result, or a value has no JSON form.
      OSError: If the folder cannot be written to. Files of an earlier report are unchanged.
    """
    folder = pathlib.Path(workdir)
    report = dataclasses.replace(report, pictures=[_relative(picture, folder) for picture in report.pictures])
    # Render both before writing either, so that an invalid report replaces nothing.
    texts = {"report.json": report_json(report), "report.md": markdown(report)}
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        replace_file(folder / name, text)


def report_json(report: Report) -> str:
    """Returns the report as JSON, one key per field. Non-finite numbers become text, such as "inf".

    Raises:
      ValueError: If the type of a value has no JSON form.
    """
    values = dataclasses.asdict(report) | {"protocol": _protocol(report)}
    for gallery in values["galleries"]:
        for row in gallery["rows"]:
            del row["note"]
    for table in values["tables"]:
        table["columns"] = [name for name, _ in table["columns"]]
        table["rows"] = [(method, row_values) for method, row_values, _ in table["rows"]]
    return json.dumps(_plain(values, "report"), indent=2, allow_nan=False) + "\n"


def _protocol(report: Report) -> list[str]:
    """Returns the sentences on how the results were measured: the protocol, then the notes of rows and columns."""
    rows = [row for result in (*report.galleries, *report.tables) for row in result.rows]
    columns = [column for table in report.tables for column in table.columns]
    return list(dict.fromkeys([*report.protocol, *(part.note for part in (*rows, *columns) if part.note)]))


def markdown(report: Report) -> str:
    """Returns the report as Markdown. Recalls are in percent; numbers other than counts have one decimal.

    Raises:
      ValueError: If the report has no result, a result has no method, or a value has no JSON form.
    """
    blocks = [f"# {report.title}", headline(report)]
    for gallery in report.galleries:
        blocks += _gallery_blocks(gallery)
    for table in report.tables:
        cells = [[row.method, *map(_significant, row.values)] for row in table.rows]
        names = ["method", *(column.name for column in table.columns)]
        blocks += [f"## {table.name}", *([table.note] if table.note else []), _table(names, cells)]
    if protocol := _protocol(report):
        blocks += ["## How it was measured", "\n".join(f"- {sentence}" for sentence in protocol)]
    if report.training is not None:
        blocks += ["## Training", _table(["quantity", "value"], _training_rows(report.training))]
    counts = [[name, f"{count:,}"] for name, count in report.dataset.items()]
    counts.append(["unreadable videos, skipped", f"{len(report.unreadable):,}"])
    blocks += ["## Data", _table(["what", "count"], counts)]
    if report.unreadable:
        reasons = [[video, reason] for video, reason in sorted(report.unreadable.items())]
        blocks += ["## Unreadable videos", _table(["video", "reason"], reasons, others="---")]
    if report.pictures:
        blocks += ["## Pictures", *(_embedded(picture) for picture in report.pictures)]
    where = report.environment
    blocks += [
        "## How to reproduce",
        f"```sh\n{report.command}\n```",
        f"Ran on {where.device_count} x {where.device_kind}, hbi_jax {where.hbi_jax}, Python {where.python}, "
        f"jax {where.jax}, flax {where.flax}.",
        "<details><summary>Configuration</summary>",
        f"```json\n{json.dumps(_plain(report.config, 'config'), indent=2)}\n```",
        "</details>",
    ]
    return "\n\n".join(blocks) + "\n"


def headline(report: Report) -> str:
    """Returns one sentence per gallery or table: the result of the run's own method, and chance.

    Raises:
      ValueError: If the report has no result, or a result has no method.
    """
    _check_results(report)
    sentences = []
    for gallery in report.galleries:
        own, chance = gallery.rows[0], gallery.chance["t2v"]
        found = own.metrics["t2v"]
        sentence = (
            f"**{gallery.name}** ({gallery.texts:,} texts, {gallery.videos:,} videos): {own.method} ranks "
            f"the right video first for **{found['R@1']:.1f} %** of the texts (chance {chance['R@1']:.1f} %) "
            f"and among the first ten for **{found['R@10']:.1f} %** (chance {chance['R@10']:.1f} %)"
        )
        if own.group_accuracy is not None:
            sentence += (
                f"; within its group of near-twins it is right for **{own.group_accuracy:.1f} %** "
                f"(chance {_number(gallery.group_chance)} %)"
            )
        sentences.append(f"{sentence}.")
    sentences += [table.headline for table in report.tables if table.headline]
    return "\n\n".join(sentences)


def summary(report: Report) -> str:
    """Returns compact tables for the terminal, one per result; recalls and in-group accuracy in percent.

    Raises:
      ValueError: If the report has no result, or a result has no method.
    """
    _check_results(report)
    blocks = []
    for gallery in report.galleries:
        rows = [*gallery.rows, Row(CHANCE, gallery.chance, gallery.group_chance)]
        width = max(len(row.method) for row in rows)
        half = "".join(f"{column:>7}" for column in TERMINAL_COLUMNS)
        titles = "".join(f" {title:>{len(half)}}" for title in DIRECTIONS.values())
        lines = [
            f"{gallery.name}: {gallery.texts:,} texts, {gallery.videos:,} videos",
            f"{'':{width}} {titles}",
            f"{'':{width}}  {half} {half}    Rsum" + ("  in group" if _grouped(gallery) else ""),
        ]
        for row in rows:
            halves = [
                "".join(f"{cell:>7}" for cell in _cells(row.metrics, key, TERMINAL_COLUMNS)) for key in DIRECTIONS
            ]
            line = f"{row.method:{width}}  {' '.join(halves)} {_number(row.metrics.get('Rsum')):>7}"
            lines.append(line + (f"  {_number(row.group_accuracy):>8}" if _grouped(gallery) else ""))
        blocks.append("\n".join(lines))
    for table in report.tables:
        if not table.headline:
            continue
        names = [table.name, *(column.name for column in table.columns)]
        cells = [names, *([row.method, *map(_significant, row.values)] for row in table.rows)]
        first, *widths = (max(map(len, column)) for column in zip(*cells, strict=True))
        lines = [
            f"{name:{first}}" + "".join(f"  {value:>{width}}" for value, width in zip(values, widths, strict=True))
            for name, *values in cells
        ]
        blocks.append("\n".join(lines))
    if report.unreadable:
        blocks.append(f"Unreadable videos, skipped: {len(report.unreadable):,} (report.md names them).")
    return "\n\n".join(blocks) + "\n"


def print_summary(report: Report, stream: io.TextIOBase | None = None) -> None:
    """Writes `summary` to a stream, by default to standard output."""
    target = sys.stdout if stream is None else stream
    target.write(summary(report))
    target.flush()


def _gallery_blocks(gallery: Gallery) -> list[str]:
    """Returns the heading, the note, a table per direction and a table for both directions."""
    blocks = [f"## {gallery.name[:1].upper()}{gallery.name[1:]}"]
    counts = f"{gallery.texts:,} texts, {gallery.videos:,} videos."
    blocks.append(f"{gallery.note} {counts}".strip())
    rows = [*gallery.rows, Row(CHANCE, gallery.chance, gallery.group_chance)]
    for key, title in DIRECTIONS.items():
        cells = [[row.method, *_cells(row.metrics, key, COLUMNS)] for row in rows]
        blocks += [f"### {title}", _table(["method", *COLUMNS], cells)]
    columns = ["method", "Rsum"] + (["in-group accuracy, %"] if _grouped(gallery) else [])
    cells = [[row.method, _number(row.metrics.get("Rsum")), _number(row.group_accuracy)] for row in rows]
    blocks += ["### Both directions", _table(columns, [row[: len(columns)] for row in cells])]
    return blocks


def _training_rows(training: Training) -> list[list[str]]:
    """Returns the rows of the table on training."""
    resumed = training.timed_steps is not None and training.timed_steps < training.steps
    timed = f" of the last {training.timed_steps:,} steps" if resumed else ""
    return [
        ["parameters", f"{training.parameters:,}"],
        ["steps", f"{training.steps:,}"],
        ["compilation of the step, s", f"{training.compile_seconds:,.1f}"],
        [f"wall time{timed} after it, s", f"{training.seconds:,.1f}"],
        ["of which waiting for data, s", f"{training.wait_seconds:,.1f}"],
        ["steps a second, without validation", f"{training.steps_per_second:,.1f}"],
    ]


def _grouped(gallery: Gallery) -> bool:
    """Returns whether the gallery has groups of near-twins."""
    return gallery.group_chance is not None


def _cells(metrics: Metrics, direction: str, columns: Sequence[str]) -> list[str]:
    """Formats the metrics of one direction; a dash stands for a metric that was not measured."""
    return [_number(metrics.get(direction, {}).get(column)) for column in columns]


def _number(value: float | int | None) -> str:
    """Formats a number with one decimal; None becomes a dash."""
    return "-" if value is None else f"{value:.1f}"


def _significant(value: float | int | None) -> str:
    """Formats a number with three significant digits, and all digits of counts and before the point; None: a dash."""
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:#.3g}".rstrip(".")


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], others: str = "---:") -> str:
    """Returns a Markdown table. `others` aligns all columns but the first; the default is right-aligned."""
    rule = ["---", *[others] * (len(columns) - 1)]
    return "\n".join(f"| {' | '.join(map(_escaped, cells))} |" for cells in [columns, rule, *rows])


def _escaped(text: str) -> str:
    """Escapes characters that would end the cell or the row."""
    return " ".join(text.split()).replace("|", "\\|")


def _embedded(picture: Picture) -> str:
    """Returns a Markdown image with its caption below."""
    alt = picture.caption.replace("[", "(").replace("]", ")")
    return f"![{alt}]({urllib.parse.quote(picture.path)})\n\n*{picture.caption}*"


def _relative(picture: Picture, folder: pathlib.Path) -> Picture:
    """Returns the picture with its path relative to the folder."""
    if not (folder / picture.path).is_file():
        raise ValueError(
            f"report.pictures names {picture.path}, which is no file seen from {folder}; draw the pictures "
            "before writing the report."
        )
    return dataclasses.replace(picture, path=pathlib.Path(os.path.relpath(folder / picture.path, folder)).as_posix())


def _plain(value: Any, field: str) -> Any:
    """Converts a value to JSON types: dict, list, str, int, float, bool and None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{field}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{field}[{place}]") for place, item in enumerate(value)]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, str | int | float):
        return value
    raise ValueError(
        f"{field} is a {type(value).__name__}, wanted a number, text, list or dict; put a plain value there."
    )


def _check_results(report: Report) -> None:
    """Raises if there is nothing to report."""
    if not report.galleries and not report.tables:
        raise ValueError("report.galleries is empty, wanted at least one; evaluate before writing the report.")
    for field, results in (("galleries", report.galleries), ("tables", report.tables)):
        for result in results:
            if not result.rows:
                raise ValueError(
                    f"report.{field}: {result.name!r} has no rows, wanted at least one method; evaluate "
                    "before writing the report."
                )
