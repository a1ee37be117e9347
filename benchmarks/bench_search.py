"""Indexing, querying and pointing at moments, with the model of a finished quickstart.

    make quickstart && python -m benchmarks.bench_search --out benchmarks/results

Claims: an index is made about as fast as its videos are decoded, adding 1 % of the files costs about 1 %; one query
against 20,000 clips of 12 tokens of 512 features takes about 50 ms on two cores by the exact scan; the approximate
index finds what the scan finds; the strongest frame of a moment lies in the event that was asked for.

Clips beyond the real ones are drawn from the normal distribution that has the mean and the covariance of the real
clips' tokens, all tokens of a clip at once. Every engine and size is measured in a process
of its own, whose memory is given. Writes bench_search.json. `--engines flat` does without LanceDB.
"""

import argparse
import importlib.util
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.harness import peak_bytes, write
from hbi_jax.commands.progress import Progress
from hbi_jax.data import shapes
from hbi_jax.data.shapes.encode import decode_video, encode_video
from hbi_jax.parallel.mesh import make_mesh
from hbi_jax.search import ingest, scan, store
from hbi_jax.search.clips import Stamp
from hbi_jax.search.config import SearchConfig
from hbi_jax.search.encoder import Encoder, open_encoder
from hbi_jax.search.flat import FlatEngine
from hbi_jax.search.index import CANDIDATES, Index, open_index
from hbi_jax.search.lance import LanceEngine
from hbi_jax.search.moments import Moment, labelled
from hbi_jax.tasks.config import read_config

# What a measurement of queries writes.
QUERY = ("tokens_per_clip", "candidates", "queries", "wide_tokens", "query", "query_wide")
PARTS = ("indexing", "moments", "query")
QUERIES, PER_SEGMENT = 20, 2**16
# Tokens and width of a clip of HBI with ViT-B/32.
WIDE = (12, 512)
# Short videos, and long ones, that are indexed; the long ones that moments are looked for in join ten short ones.
MANY = 2000
LONG_SECONDS, NUM_LONG, JOINED = 60, 8, 10
# Asks a process to make the approximate index, rather than to measure an engine.
BUILD = "build"


def indexing(encoder: Encoder, checkpoint: str, videos: Sequence[pathlib.Path], scratch: pathlib.Path) -> dict:
    """Measures indexing of some videos beside decoding alone, and of 1 % more."""
    few = max(1, len(videos) // 100)
    folder = scratch / "videos"
    folder.mkdir()
    for path in videos[few:]:
        shutil.copy(path, folder)
    listed = ingest.list_files(folder)
    begun = time.perf_counter()
    clips = sum(len(found.start) for _, found, _ in ingest._read_all(list(listed.files), encoder.clips, None))
    decoding = time.perf_counter() - begun
    with open_index(scratch / "index", checkpoint) as index:
        index.encoder.encode_clips(*_blank(encoder))  # compiled before it is timed
        begun = time.perf_counter()
        done = index.add(folder)
        everything = time.perf_counter() - begun
        begun = time.perf_counter()
        index.add(folder)
        nothing = time.perf_counter() - begun
        for path in videos[:few]:
            shutil.copy(path, folder)
        begun = time.perf_counter()
        more = index.add(folder)
        added = time.perf_counter() - begun
    shutil.rmtree(scratch / "index")
    shutil.rmtree(folder)
    return {
        "videos": len(listed.files),
        "clips": done.clips,
        "decoding_clips_per_second": round(clips / decoding, 1),
        "index_clips_per_second": round(done.clips / everything, 1),
        "seconds": round(everything, 2),
        "unchanged_seconds": round(nothing, 3),
        "added_videos": more.added,
        "added_share": round(added / everything, 4),
    }


def _blank(encoder: Encoder) -> tuple[np.ndarray, np.ndarray]:
    f, side = encoder.clips.num_frames, encoder.clips.image_size
    return np.zeros((1, f, side, side, 3), np.uint8), np.ones((1, f), bool)


def real_rows(encoder: Encoder, index: Index) -> dict[str, np.ndarray]:
    """Returns the stored arrays of every clip of an index."""
    rows = [rows for _, _, rows in index.catalogue.stored()]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def wide_rows(count: int = 500) -> dict[str, np.ndarray]:
    """Returns random clips of the size of ViT-B/32's."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(count, *WIDE)).astype(np.float32)
    scale = (1 / np.linalg.norm(features, axis=-1)).astype(np.float32)
    weight = np.full((count, WIDE[0]), 1 / WIDE[0], np.float32)
    mask = np.ones((count, WIDE[0]), bool)
    return {"entity.features": features, "entity.scale": scale, "entity.weight": weight, "entity.mask": mask}


def synthesize(folder: pathlib.Path, real: Mapping[str, np.ndarray], count: int) -> None:
    """Writes segments of clips whose tokens are drawn from the normal distribution that is fitted to the real ones."""
    rng, known = np.random.default_rng(1), len(next(iter(real.values())))
    levels = [name.removesuffix(".features") for name in real if name.endswith(".features")]
    for start in range(0, count, PER_SEGMENT):
        rows = min(PER_SEGMENT, count - start)
        arrays = {name: array[rng.integers(known, size=rows)] for name, array in real.items()}
        # A normal vector in the space that the real clips span: this has exactly their covariance.
        drawn = rng.standard_normal((rows, known), np.float32) / np.float32((known - 1) ** 0.5)
        for level in levels:
            tokens = real[f"{level}.features"].reshape(known, -1)
            mean = tokens.mean(0)
            shape = (rows, *real[f"{level}.features"].shape[1:])
            made = (drawn @ (tokens - mean) + mean).astype(np.float32).reshape(shape)
            arrays[f"{level}.features"] = made
            arrays[f"{level}.scale"] = (1 / np.linalg.norm(made, axis=-1)).astype(np.float32)
        table = store.ClipTable(
            np.zeros(rows, np.int32), np.zeros(rows), np.ones(rows), np.zeros((rows, 1), np.float32)
        )
        name = f"{start // PER_SEGMENT:08x}".rjust(8, "0")[::-1] + "0" * 24
        store.write_segment(folder, name, [store.File("a.mp4", Stamp(1, start))], table, arrays)


def own_bytes() -> int:
    """Returns the memory of this process without pages of files."""
    return 1024 * int(re.search(r"RssAnon:\s*(\d+)", pathlib.Path("/proc/self/status").read_text())[1])


def save_queries(path: pathlib.Path, queries: Sequence[scan.Query]) -> None:
    """Writes queries for the processes that measure."""
    content = [
        {
            "words": {level: words.tolist() for level, words in query.words.items()},
            "weights": {level: weights.tolist() for level, weights in query.weights.items()},
            "rates": dict(query.rates),
        }
        for query in queries
    ]
    path.write_text(json.dumps(content))


def load_queries(path: pathlib.Path) -> list[scan.Query]:
    """Reads the queries of `save_queries`."""

    def arrays(values: Mapping[str, list]) -> dict[str, np.ndarray]:
        return {level: np.array(rows, np.float32) for level, rows in values.items()}

    content = json.loads(path.read_text())
    return [scan.Query(arrays(each["words"]), arrays(each["weights"]), each["rates"]) for each in content]


def measure(engine_name: str, folder: pathlib.Path) -> dict:
    """Times the queries on the segments of a folder; runs in a process of its own."""
    queries = load_queries(folder / "queries.json")
    levels, before, own_before = list(queries[0].rates), peak_bytes(), own_bytes()
    segments = [store.read_segment(path) for path in sorted((folder / store.SEGMENTS).iterdir())]
    engine = FlatEngine(levels, make_mesh()) if engine_name == "flat" else LanceEngine(folder, levels, make_mesh())
    begun = time.perf_counter()
    engine.add(segments, writing=engine_name == BUILD)
    if engine_name == BUILD:
        return {"build_seconds": round(time.perf_counter() - begun, 1)}
    bases = np.concatenate([[0], np.cumsum([len(segment.clips.source) for segment in segments])])
    milliseconds, busy, found = [], [], []
    # The first time, programs are compiled.
    for query in [*queries, *queries]:
        begun, worked = time.perf_counter(), time.process_time()
        places, _ = engine.candidates(query, CANDIDATES)
        milliseconds.append(1e3 * (time.perf_counter() - begun))
        busy.append(1e3 * (time.process_time() - worked))
        found.append((bases[places.segment] + places.row).tolist())
    first, milliseconds = milliseconds[0], milliseconds[len(queries) :]
    p50, p95 = np.percentile(milliseconds, [50, 95])
    peak, own = peak_bytes(), own_bytes()
    engine.close()
    return {
        "first_ms": round(first, 1),
        "least_ms": round(min(milliseconds), 1),
        # Of all cores together: what a busy machine does not change much.
        "cpu_ms": round(float(np.median(busy[len(queries) :])), 1),
        "p50_ms": round(float(p50), 1),
        "p95_ms": round(float(p95), 1),
        "memory_mib": round((peak - before) / 2**20),
        # Without pages of files, which the kernel drops when it needs memory.
        "own_mib": round((own - own_before) / 2**20),
        "found": found[len(queries) :],
    }


def compare(
    real: Mapping[str, np.ndarray],
    queries: Sequence[scan.Query],
    count: int,
    engines: Sequence[str],
    disk: pathlib.Path,
) -> dict:
    """Measures the engines at one size; recall is that of the exact ten best among the candidates."""
    rows = {}
    with tempfile.TemporaryDirectory(dir=disk) as place:
        folder = pathlib.Path(place)
        synthesize(folder, real, count)
        save_queries(folder / "queries.json", queries)

        def apart(what: str) -> dict:
            command = [sys.executable, "-m", "benchmarks.bench_search", "--measure", what, "--folder", place]
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            return json.loads(said.splitlines()[-1])

        for engine in engines:
            built = apart(BUILD) if engine == "lance" else {}
            rows[engine] = {**built, **apart(engine)}
    exact = rows["flat"]["found"]
    for row in rows.values():
        pairs = zip(exact, row.pop("found"), strict=True)
        row["recall_at_10"] = round(float(np.mean([len(set(best[:10]) & set(found)) / 10 for best, found in pairs])), 4)
    return rows


def pointing(encoder: Encoder, truths: Sequence[shapes.GroundTruth], videos: pathlib.Path) -> dict:
    """Measures how often the strongest frame of a two-event video lies in the event that was asked for."""
    hits, chances, overlaps = [], [], []
    for truth in truths:
        clips, _ = ingest.read_clips(videos / f"{truth.video_id}.mp4", encoder.clips)
        encoded, times = encoder.encode_clips(clips.frames, clips.mask), clips.times[0][clips.mask[0]]
        rate = truth.visible.shape[1] / float(clips.end[0])
        for event, span in zip(truth.events, truth.spans, strict=False):
            text = shapes.canonical_sentence((event,)).text
            (game,) = encoder.games(encoder.texts([text]), encoded)
            (ids,), (real,) = encoder.tokenizer.encode([text])
            tokens = [encoder.tokenizer.decode([token]) for token in ids[real][1:-1].tolist()]
            moment = Moment("", 0.0, float(clips.end[0]), 0.0, *labelled(tokens, times.tolist(), game))
            begin, end = span[0] / rate, span[1] / rate
            inside = (times >= begin - 1e-3) & (times < end - 1e-3)
            chances.append(inside.mean())
            hits.append(moment.best_frame is not None and bool(inside[moment.best_frame]))
            first, last = moment.focus
            overlaps.append(max(0.0, min(last, end) - max(first, begin)) / (last - first))
    return {
        "events": len(hits),
        "strongest_frame_inside": round(float(np.mean(hits)), 4),
        "share_of_focus_inside": round(float(np.mean(overlaps)), 4),
        "chance": round(float(np.mean(chances)), 4),
    }


def finding(checkpoint: str, truths: Sequence[shapes.GroundTruth], videos: pathlib.Path, scratch: pathlib.Path) -> dict:
    """Measures how often the first moment for a caption lies where its video is in a long one that joins several."""
    folder, asked = scratch / "joined", []
    folder.mkdir()
    for number in range(len(truths) // JOINED):
        group = truths[JOINED * number : JOINED * (number + 1)]
        parts = [decode_video(videos / f"{truth.video_id}.mp4") for truth in group]
        name, seconds = folder / f"joined{number}.mp4", len(parts[0]) / 8
        name.write_bytes(encode_video(np.concatenate(parts), shapes.WorldConfig(num_frames=480)))
        asked += [
            (truth.caption, str(name), place * seconds, (place + 1) * seconds) for place, truth in enumerate(group)
        ]
    hits, found_video, chances = [], [], []
    with open_index(scratch / "joined.index", checkpoint) as index:
        index.add(folder)
        table = [place for _, place, _ in index.catalogue.stored()]
        for text, name, begin, end in asked:

            def fits(video: str, start: float, stop: float, name=name, begin=begin, end=end) -> bool:
                return video == name and min(stop, end) - max(start, begin) >= (end - begin) / 2

            (moment,) = index.search(text, top=1)
            hits.append(fits(*moment[:3]))
            found_video.append(moment.video == name)
            chances.append(np.mean([fits(*place) for place in table]))
    return {
        "captions": len(asked),
        "long_videos": len(truths) // JOINED,
        "clips": len(table),
        "first_moment_right": round(float(np.mean(hits)), 4),
        "right_video": round(float(np.mean(found_video)), 4),
        "chance": round(float(np.mean(chances)), 4),
    }


def main() -> None:
    """Measures and writes bench_search.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results"), help="folder of the JSON"
    )
    parser.add_argument("--checkpoint", default="runs/quickstart", help="work folder of a finished quickstart")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10**3, 10**4, 10**5, 10**6], help="numbers of clips")
    parser.add_argument("--wide", type=int, nargs="+", default=[20_000, 50_000], help="numbers of clips of 12 x 512")
    parser.add_argument("--engines", nargs="+", default=["flat", "lance"], help="engines, flat first")
    parser.add_argument("--disk", type=pathlib.Path, help="folder for synthetic clips, 20 GB at a million")
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS, help="parts to measure; others are kept")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=pathlib.Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.folder)))
        return
    if "lance" in options.engines and not importlib.util.find_spec("lancedb"):
        parser.error("LanceDB is not installed: pip install 'hbi_jax[search]', or --engines flat")
    options.out.mkdir(parents=True, exist_ok=True)
    config = read_config(pathlib.Path(options.checkpoint) / "config.json")
    folders = (
        str(folder).replace("{workdir}", options.checkpoint) for folder in (config.data.annotations, config.data.videos)
    )
    annotations, videos = map(pathlib.Path, folders)
    truths = [truth for truth in shapes.load_ground_truth(annotations).values() if truth.split == "test"]
    files = [videos / f"{truth.video_id}.mp4" for truth in truths]
    encoder = open_encoder(options.checkpoint, SearchConfig())
    two = [truth for truth in truths if len(truth.events) == 2]
    known = options.out / "bench_search.json"
    before = json.loads(known.read_text()) if known.exists() else {}
    results = {name: before[name] for name in ("indexing", "moments", *QUERY) if name in before}
    with tempfile.TemporaryDirectory(dir=options.disk) as place:
        scratch = pathlib.Path(place)
        if "indexing" in options.parts:
            world = shapes.WorldConfig(
                num_train=0, num_val=0, num_test=NUM_LONG, num_twin_groups=0, num_frames=8 * LONG_SECONDS
            )
            shapes.generate(scratch / "long", world, show_progress=False)
            long = sorted((scratch / "long" / "videos").iterdir())
            results["indexing"] = {
                name: indexing(encoder, options.checkpoint, paths, scratch)
                for name, paths in (("quickstart", sorted(videos.iterdir())[:MANY]), ("long", long))
            }
            print(results["indexing"], flush=True)
        if "moments" in options.parts:
            results["moments"] = {
                "event_of_two": pointing(encoder, two, videos),
                "place_in_long_videos": finding(options.checkpoint, truths[:200], videos, scratch),
            }
            print(results["moments"], flush=True)
        write(options.out, "bench_search", results)
        if "query" not in options.parts:
            return
        with open_index(scratch / "real.index", options.checkpoint) as index:
            index.add(files)
            real = real_rows(encoder, index)
    queries = [encoder.query(encoder.texts([truth.caption])) for truth in truths[:QUERIES]]
    results["tokens_per_clip"] = {level: list(real[f"{level}.features"].shape[1:]) for level in encoder.scored}
    results["candidates"], results["queries"], results["wide_tokens"] = CANDIDATES, QUERIES, list(WIDE)
    results["query"], results["query_wide"] = {}, {}
    with Progress(len(options.sizes) + len(options.wide), "measure queries") as progress:
        for count in options.sizes:
            results["query"][str(count)] = compare(real, queries, count, options.engines, options.disk)
            print(count, results["query"][str(count)], flush=True)
            # What is measured is kept, however the rest ends.
            write(options.out, "bench_search", results)
            progress.update()
        rng = np.random.default_rng(2)
        words = rng.normal(size=(QUERIES, 9, WIDE[1])).astype(np.float32)
        words /= np.linalg.norm(words, axis=-1, keepdims=True)
        weights = np.full(9, 1 / 9, np.float32)
        wide = [scan.Query({"entity": each}, {"entity": weights}, {"entity": 1.0}) for each in words]
        for count in options.wide:
            results["query_wide"][str(count)] = compare(wide_rows(), wide, count, ["flat"], options.disk)
            print(count, results["query_wide"][str(count)], flush=True)
            progress.update()
    print(write(options.out, "bench_search", results))


if __name__ == "__main__":
    main()
