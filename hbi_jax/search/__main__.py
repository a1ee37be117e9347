"""Searches your own videos: makes an index of them, finds the moments that match a text, and shows why.

  python -m hbi_jax.search index my.index --checkpoint=runs/quickstart FOLDER_OR_VIDEO...
  python -m hbi_jax.search find my.index "a red square slides left" --top=5 --html=result.html
  python -m hbi_jax.search find my.index --like=video.mp4
  python -m hbi_jax.search find my.index --like=video.mp4 --texts=captions.txt

  python -m hbi_jax.search serve my.index
  python -m hbi_jax.search vespa my.index FOLDER

index: adds new videos of files and folders (at any depth), reads changed ones again, drops removed ones. Run the same
command again after an interruption: it goes on from there. find: by a text, or by a video; --texts ranks texts for a
video. serve: shows the search in a browser, on this machine alone unless told otherwise (needs the extra `demo`).
vespa: writes the index as an application of Vespa. `--help` after a command describes its options.
"""

import argparse
import dataclasses
import os
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hbi_jax import fields
from hbi_jax.commands import apply
from hbi_jax.commands.output import jsonl
from hbi_jax.commands.workers import share
from hbi_jax.search.config import SearchConfig

if TYPE_CHECKING:
    from hbi_jax.search.moments import Moment


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    name = given[0] if given else "no command"
    if name not in COMMANDS:
        print(f"error: got {name}, wanted one of {', '.join(COMMANDS)}; write it first", file=sys.stderr)
        return 2
    make, command = COMMANDS[name]
    options = apply.parse(make(), given[1:])
    apply.start()
    try:
        return command(options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; what was finished is kept, and the same command goes on from there", file=sys.stderr)
        return 130


def _index(options: argparse.Namespace) -> int:
    from hbi_jax.search.index import open_index

    mine = share(options.worker, options.workers)
    if mine.workers > 1:
        print(f"worker {mine.worker} of {mine.workers} (from {mine.source})", file=sys.stderr)
    settings = {name: getattr(options, name) for name in fields.plain(SearchConfig())}
    chosen = {name: value for name, value in settings.items() if value is not None}
    with open_index(options.index, options.checkpoint, **chosen) as index:
        done = index.add(options.videos, mine.worker, mine.workers, options.finish, shown=True)
    for reason in done.unreadable.values():
        print(_line(f"unreadable: {reason}"), file=sys.stderr)
    print(
        f"{options.index}: {done.files:,} videos, {done.clips:,} clips ({done.added:,} added, "
        f"{done.updated:,} updated, {done.unchanged:,} unchanged, {done.dropped:,} dropped, "
        f"{len(done.unreadable):,} unreadable)"
    )
    if done.missing:
        print(
            f"{done.missing} shards of other workers are missing; the last worker to finish makes the new videos "
            "searchable, or --finish without them"
        )
    return 1 if done.unreadable else 0


def _find(options: argparse.Namespace) -> int:
    if (options.text is None) == (options.like is None):
        got = "neither" if options.text is None else "both"
        raise ValueError(f"got {got} of a text and --like, wanted one of them; what should be found?")
    if options.texts and options.text is not None:
        raise ValueError("--texts: wanted with --like=VIDEO, whose texts are ranked; leave out the text, or --texts")
    if options.texts and options.html:
        raise ValueError("--html shows moments, wanted without --texts; use --jsonl")
    from hbi_jax.search.index import open_index, read_texts
    from hbi_jax.search.page import write_page

    with jsonl(options.jsonl) as write:
        with open_index(options.index, options.checkpoint) as index:
            if options.texts:
                matches = index.rank_texts(options.like, read_texts(options.texts), options.top)
                lines = [_line(f"{match.score:7.3f}  {match.text}") for match in matches]
                rows: list[Mapping[str, Any]] = [match._asdict() for match in matches]
            else:
                like = options.like is not None
                moments = (
                    index.search_like(options.like, options.top) if like else index.search(options.text, options.top)
                )
                if options.html:
                    query = f"like {os.path.basename(options.like)}" if like else options.text
                    write_page(options.html, query, moments, index.num_clips)
                lines, rows = list(map(_say, moments)), [moment.to_json() for moment in moments]
        write(rows)
    print("\n".join(lines) if lines else "nothing was found: the index holds no clips")
    if options.html:
        print(f"saved {options.html}", file=sys.stderr)
    return 0


def _serve(options: argparse.Namespace) -> int:
    from hbi_jax.search.index import open_index
    from hbi_jax.search.serve import LOOPBACK, Settings, serve

    if options.host not in LOOPBACK:
        print(f"warning: --host={options.host} lets other machines see the videos of the index", file=sys.stderr)
    with open_index(options.index, options.checkpoint) as index:
        names = (field.name for field in dataclasses.fields(Settings))
        serve(index, Settings(**{name: getattr(options, name) for name in names}))
    return 0


def _vespa(options: argparse.Namespace) -> int:
    from hbi_jax.search.index import open_index
    from hbi_jax.search.vespa import write_application

    with open_index(options.index, options.checkpoint) as index:
        count = write_application(index, options.out)
    commands = shlex.join(["vespa", "deploy", options.out]), shlex.join(["vespa", "feed", f"{options.out}/feed.jsonl"])
    print(f"saved {count:,} clips in {options.out}; to use them: {'; '.join(commands)}")
    return 0


def _say(moment: "Moment") -> str:
    begin, end = moment.focus
    clip = f"clip {moment.start:.1f} to {moment.end:.1f} s"
    return _line(f"{moment.score:7.3f}  {moment.video}  {begin:.1f} to {end:.1f} s ({clip})")


def _line(text: str) -> str:
    """Returns a text as one line: names of files may hold what ends a line, or moves the cursor of a terminal."""
    return re.sub("[\0-\x1f\x7f-\x9f\u2028\u2029]", lambda found: repr(found[0])[1:-1], text)


def _up_to(most: int) -> Callable[[str], int]:
    """Returns a parser of whole numbers from 1."""

    def parse(given: str) -> int:
        if not given.isdecimal() or not 1 <= int(given) <= most:
            raise argparse.ArgumentTypeError(f"got {given}, wanted a whole number from 1 to {most}; choose one")
        return int(given)

    return parse


def _parser(name: str) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog=f"python -m hbi_jax.search {name}",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("index", help="folder of the index")
    made.add_argument(
        "--checkpoint",
        metavar="FOLDER",
        help="work folder of a retrieval run, one of its steps, or converted weights (HBI or CLIP); not needed for an "
        "index that exists, unless the model was moved",
    )
    return made


def _index_parser() -> argparse.ArgumentParser:
    made = _parser("index")
    made.add_argument("videos", nargs="+", metavar="video", help="video files, or folders with videos at any depth")
    for name, default in fields.plain(SearchConfig()).items():
        text = fields.explain(SearchConfig(), name, "search").split("\n", 1)[1].strip()
        made.add_argument(f"--{name}", type=type(default), metavar="VALUE", help=text.replace("%", "%%"))
    made.add_argument("--worker", type=int, metavar="I", help="number of this process, of several that share the work")
    made.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="number of these processes (default: those of SLURM, of a Kubernetes job, or of JAX)",
    )
    made.add_argument("--finish", action="store_true", help="make searchable what workers have finished so far")
    return made


def _find_parser() -> argparse.ArgumentParser:
    made = _parser("find")
    made.add_argument("text", nargs="?", help="what to find, in quotation marks")
    files = {
        "--like": ("VIDEO", "find moments like this video file"),
        "--texts": ("FILE", "with --like: rank the lines of this file by how well they fit"),
        "--html": ("FILE", "also write a page that shows the moments, and why they match"),
    }
    for name, (kind, text) in files.items():
        made.add_argument(name, type=os.path.expanduser, metavar=kind, help=text)
    made.add_argument("--top", type=int, default=10, metavar="N", help="number of results (default: %(default)s)")
    apply.add_jsonl(made)
    return made


def _serve_parser() -> argparse.ArgumentParser:
    made = _parser("serve")
    made.add_argument(
        "--host", default="127.0.0.1", help="address to listen at (default: %(default)s, for this machine alone)"
    )
    made.add_argument(
        "--port", type=_up_to(65535), default=7860, metavar="N", help="port to listen at (default: %(default)s)"
    )
    made.add_argument(
        "--upload_megabytes",
        type=_up_to(1_000_000),
        default=200,
        metavar="N",
        help="largest upload (default: %(default)s)",
    )
    made.add_argument("--ask", metavar="FOLDER", help="work folder of a question answering run, for a tab of its own")
    made.add_argument("--caption", metavar="FOLDER", help="work folder of a captioning run, for a tab of its own")
    return made


def _vespa_parser() -> argparse.ArgumentParser:
    made = _parser("vespa")
    made.add_argument("out", help="folder of the application package and the feed; created if needed")
    return made


COMMANDS: Mapping[str, tuple[Callable[[], argparse.ArgumentParser], Callable[[argparse.Namespace], int]]] = {
    "index": (_index_parser, _index),
    "find": (_find_parser, _find),
    "serve": (_serve_parser, _serve),
    "vespa": (_vespa_parser, _vespa),
}

if __name__ == "__main__":
    sys.exit(main())
