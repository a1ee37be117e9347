"""Indexes videos with Apache Beam: the shards of `python -m hbi_jax.search index`, made by Dataflow, Flink or Spark.

    pip install . -r launch/beam/requirements.txt
    python launch/beam/run.py --index=my.index --checkpoint=runs/msrvtt --workers=64 videos --runner=FlinkRunner ...

Index, checkpoint and videos lie in a file system that all workers see. Every element of the pipeline is the number of a
worker. It makes its shards exactly as `search index --worker=I --workers=N` does, so a repeated element finds them
finished. The options that are not listed by --help are Beam's own.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions


class Job(NamedTuple):
    """What every worker does, except for its number.

    Attributes:
      index: The folder of the index.
      checkpoint: The model; None for an index that exists.
      videos: Files and folders.
      workers: Number of shares.
    """

    index: str
    checkpoint: str | None
    videos: Sequence[str]
    workers: int


def make_shards(worker: int, job: Job, finish: bool = False) -> dict[str, str]:
    """Makes the shards of a worker; returns the reasons why files could not be read, by path."""
    from hbi_jax.search.index import open_index

    with open_index(job.index, job.checkpoint) as index:
        return dict(index.add(job.videos, worker, job.workers, finish).unreadable)


def build(pipeline: beam.Pipeline, job: Job) -> beam.PCollection:
    """Adds all shares, and then what completes the index, to a pipeline; returns a line for each unreadable file."""
    shares = pipeline | beam.Create(range(job.workers)) | beam.Reshuffle()
    made = shares | "make shards" >> beam.Map(make_shards, job)
    last = pipeline | "completion" >> beam.Create([0])
    unreadable = last | "complete" >> beam.Map(
        lambda worker, done: make_shards(worker, job, finish=True), beam.pvalue.AsList(made)
    )
    return unreadable | "reasons" >> beam.FlatMap(lambda found: sorted(found.values()))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the pipeline; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--index", required=True, help="folder of the index")
    parser.add_argument("--checkpoint", help="work folder of a retrieval run, or converted weights")
    parser.add_argument("--workers", type=int, default=16, help="number of shares of the work (default: %(default)s)")
    parser.add_argument("videos", nargs="+", help="videos, or folders of videos")
    options, rest = parser.parse_known_intermixed_args(arguments)
    from hbi_jax.search.index import open_index

    # Workers may run in other folders.
    index, *videos = (os.path.abspath(os.path.expanduser(path)) for path in (options.index, *options.videos))
    checkpoint = options.checkpoint and os.path.abspath(os.path.expanduser(options.checkpoint))
    try:
        # Made before the workers start, so that only one of them makes it.
        open_index(index, checkpoint).close()
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    job = Job(index, checkpoint, videos, options.workers)
    with beam.Pipeline(options=PipelineOptions(rest, save_main_session=False)) as pipeline:
        build(pipeline, job) | beam.Map(lambda reason: print(f"unreadable: {reason}", file=sys.stderr))
    return 0


if __name__ == "__main__":
    sys.exit(main())
