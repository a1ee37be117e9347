"""Commands: `python -m hbi_jax.pretrained convert SOURCE DESTINATION`, `... export FOLDER DESTINATION`, `... show`."""

import argparse
import math
import os
import sys
from typing import TYPE_CHECKING

from hbi_jax.pretrained.errors import PretrainedError, listed
from hbi_jax.pretrained.names import ACTIVATIONS, CONFIG, KINDS, NORMALIZATIONS, PUBLISHED, TOKENS, WEIGHTS

# Import nothing heavier above, so that --help and wrong options are answered at once.
if TYPE_CHECKING:
    from hbi_jax.pretrained.folder import Contents

_SOURCES = """supported sources:
  a folder with config.json and model.safetensors   CLIP in Hugging Face's format, whole or in shards
  a folder with open_clip_config.json                CLIP in open_clip's format
  OWNER/NAME, such as openai/clip-vit-base-patch32   the same, from the Hugging Face hub
  a .pt, .bin or .safetensors file                   OpenAI's CLIP (TorchScript or state dict), open_clip's (epoch_N.pt)
  a torch file with any extension                    published HBI or answer checkpoint, or estimator
  hbi.safetensors, or a folder with it               an export of hbi_jax
Torch is not needed, and no code from a file is run. ResNet CLIPs are not supported."""


def main(arguments: list[str] | None = None) -> int:
    """Runs a command and returns the exit code. After an error it is 1, and a message on stderr explains the error."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "show":
            _show(options)
        else:
            _write(options)
    # OSError and RecursionError: unexpected failures of the system, and files nested too deeply.
    except (PretrainedError, OSError, RecursionError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; nothing was written", file=sys.stderr)
        return 130
    return 0


def _say(text: str) -> None:
    """Prints and flushes, so that a full disk or a closed pipe is reported here.

    What a file of others says of itself may hold characters that cannot be printed; they are printed as escapes.
    """
    try:
        print(text.encode(errors="backslashreplace").decode(), flush=True)
    except OSError as error:
        # Otherwise flushing the rest of the buffer at exit would fail again, with a traceback.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        raise PretrainedError(f"standard output cannot be written ({error.strerror})") from error


def _show(options: argparse.Namespace) -> None:
    """Describes weights of ours or of others."""
    from hbi_jax.pretrained.folder import exists, is_converted, local, read_folder, read_json
    from hbi_jax.pretrained.shipped import is_shipped

    config = local(options.source) / CONFIG
    ours = is_shipped(options.source) or (exists(config) and is_converted(read_json(config)))
    _say(_summary(read_folder(options.source) if ours else _translated(options)))


def _write(options: argparse.Namespace) -> None:
    """Writes a folder of ours, or one for PyTorch."""
    from hbi_jax.pretrained.exchange import export
    from hbi_jax.pretrained.folder import check_destination, local, write_folder

    check_destination(options.destination, options.overwrite, options.source)
    if options.command == "convert":
        contents = _translated(options)
        _say(_summary(contents))
        write_folder(contents, options.destination, options.overwrite, progress=True)
    else:
        export(options.source, options.destination, options.overwrite, progress=True)
    _say(f"saved {local(options.destination)}")


def _translated(options: argparse.Namespace) -> "Contents":
    """Returns weights of others under our names."""
    from hbi_jax.pretrained.settings import Settings
    from hbi_jax.pretrained.sources import open_source
    from hbi_jax.pretrained.translate import translate

    given = Settings(options.activation, options.head_width, options.text_head_width, options.pixels)
    return translate(open_source(options.source), options.words, options.frames, given)


def _summary(contents: "Contents") -> str:
    """Returns a summary of the weights in a few lines."""
    from hbi_jax.pretrained.folder import ESTIMATOR, PARAMS, UNUSED
    from hbi_jax.pretrained.sizes import describe

    def size(prefix: str) -> str:
        part = contents.part(prefix).values()
        return f"{sum(math.prod(entry.shape) for entry in part):,} in {len(part)} arrays"

    lines = [f"{KINDS[contents.kind]}, from: {contents.origin}", *describe(contents.kind, contents.config)]
    lines += contents.notes
    lines.append(f"parameters {size(PARAMS)}")
    if contents.part(ESTIMATOR):
        (network,) = describe("estimator", contents.estimator_config())
        lines.append(f"beside it an estimator: {network}, {size(ESTIMATOR)}")
    if unused := contents.part(UNUSED):
        lines.append(f"kept, used by no model: {listed(sorted(unused), most=100)}")
    return "\n  ".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hbi_jax.pretrained",
        description="Convert foreign weights for hbi_jax, and export them to PyTorch.",
        epilog=_SOURCES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, text: str, **positionals: str) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name, help=text, description=text, epilog=_SOURCES, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        for positional, what in positionals.items():
            added.add_argument(positional, help=what)
        return added

    convert = command(
        "convert",
        "convert weights to a folder that hbi_jax.load opens",
        source="file, folder or hub id, see below",
        destination="a new folder",
    )
    towards = command(
        "export",
        f"export a folder to PyTorch: {WEIGHTS} and {CONFIG} for transformers.CLIPModel, and {PUBLISHED} with an HBI "
        "under its published names",
        source="a folder that convert wrote",
        destination="a new folder",
    )
    show = command(
        "show", "describe weights without writing anything", source="a converted folder, or a source as for convert"
    )
    for added in (convert, towards):
        added.add_argument("--overwrite", action="store_true", help="replace the destination if hbi_jax wrote it")
    for added in (convert, show):
        for place, (field, unit) in enumerate({"words": "text", "frames": "video"}.items()):
            defaults = ", ".join(f"{tokens[place]} ({KINDS[kind]})" for kind, tokens in TOKENS.items())
            what = f"{field} per {unit}, which determine the cluster counts of a published HBI; default: {defaults}"
            added.add_argument(f"--{field}", type=_count, help=what)
        more = "; default: the value in a file beside the weights, or else an assumption that the summary reports"
        added.add_argument("--activation", choices=ACTIVATIONS, help=f"activation of the towers' MLPs{more}")
        for flag, tower in {"--head-width": "vision", "--text-head-width": "text"}.items():
            added.add_argument(
                flag, type=_count, metavar="N", help=f"width of the {tower} tower's attention heads{more}"
            )
        added.add_argument(
            "--pixels",
            choices=NORMALIZATIONS,
            help=f"pixel normalisation: by mean and deviation of CLIP's training images, or to -1..1{more}",
        )
    return parser


def _count(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


if __name__ == "__main__":
    sys.exit(main())
