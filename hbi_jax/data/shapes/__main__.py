"""Commands of `python -m hbi_jax.data.shapes`: generate FOLDER, preview [FOLDER], export WORLD FOLDER."""

import argparse
import dataclasses
import os
import sys

from hbi_jax.data.shapes import ShapesError, WorldConfig, export, generate, preview
from hbi_jax.data.shapes.exports import LAYOUTS


def main(arguments: list[str] | None = None) -> int:
    """Runs a command and returns its exit code: 0, 1 for an error (explained on stderr) or 130 if interrupted."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "generate":
            _generate(options)
        elif options.command == "export":
            export(options.world, options.folder, options.layout)
            print(f"{options.folder}: the videos and annotations of {options.world} as {options.layout}")
        else:
            path = preview(options.folder, options.out, options.num_videos, options.boxes)
            print(f"saved {path}")
    except ShapesError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; run the same command to resume", file=sys.stderr)
        return 130
    return 0


def _generate(options: argparse.Namespace) -> None:
    fields = dataclasses.fields(WorldConfig)
    config = WorldConfig(**{field.name: getattr(options, field.name) for field in fields})
    summary = generate(options.folder, config, options.num_workers)
    what = "already there" if summary.already_there else f"{summary.num_rendered} rendered now"
    print(f"{summary.folder}: {summary.num_videos} videos ({what}), {summary.seconds:.1f} s")


def _parser() -> argparse.ArgumentParser:
    formatter = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m hbi_jax.data.shapes",
        description="Moving shapes: rendered videos with captions, questions and ground truth.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    generation = commands.add_parser(
        "generate",
        formatter_class=formatter,
        help="render a world, or its missing files, into a folder",
        description="Renders videos and annotation files in MSR-VTT's layout. Running the command again resumes an "
        "interrupted run. A folder with different settings is refused.",
    )
    generation.add_argument("folder", help="folder of the world; created if absent")
    generation.add_argument(
        "--num_workers", type=int, default=None, help="rendering processes; None means one per core"
    )
    for field in dataclasses.fields(WorldConfig):
        generation.add_argument(
            f"--{field.name}", type=type(field.default), default=field.default, help=field.metadata["help"]
        )
    exporting = commands.add_parser(
        "export",
        help="write a world in the layout of another data set",
        description="Writes annotation files into a folder and video files into its subfolder `videos`.",
    )
    exporting.add_argument("world", help="a finished world")
    exporting.add_argument("folder", help="output folder; created if absent")
    exporting.add_argument("--layout", required=True, choices=LAYOUTS, help="data set whose layout to write")
    sheet = commands.add_parser(
        "preview",
        formatter_class=formatter,
        help="save a contact sheet of some videos with their captions",
        description="Saves a contact sheet with a row of frames and the caption per video; near-twins are adjacent.",
    )
    sheet.add_argument("folder", nargs="?", default=None, help="a finished world; None renders a few videos")
    sheet.add_argument(
        "--out", type=os.path.expanduser, default="shapes.png", help="output image; the extension selects the format"
    )
    sheet.add_argument("--num_videos", type=int, default=12, help="rows; with 8 or more, half are near-twins")
    sheet.add_argument("--boxes", action="store_true", help="draw the ground-truth boxes")
    return parser


if __name__ == "__main__":
    sys.exit(main())
