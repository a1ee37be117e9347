"""Generates the measured results in the documents from the JSON.

    python -m benchmarks.tables            # prints them
    python -m benchmarks.tables --write    # writes them between their markers in the documents

A pair of markers in a document looks like `<!-- figures:NAME -->` ... `<!-- /figures -->`. A test checks that the
documents are up to date.
"""

import argparse
import json
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence

from benchmarks.plot_plan import plot_plan
from hbi_jax.ablations.pictures import plot_ablation
from hbi_jax.ablations.results import Ablation, spread
from hbi_jax.ablations.tables import TABLES

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DOCUMENTS = (
    "README.md",
    "docs/performance.md",
    "docs/differences.md",
    "docs/pretrained.md",
    "docs/ablations.md",
    "docs/reliability.md",
    "docs/hcmi.md",
    "docs/search.md",
    "docs/training.md",
    "docs/scaling.md",
)
SCALING = ROOT / "docs" / "images" / "scaling.png"
_MARKED = re.compile(r"(<!-- figures:(\w+) -->\n)(.*?)(<!-- /figures -->)", re.DOTALL)


def _load(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text())


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _seeds(result: dict) -> str:
    seeds = result["seeds"]
    return "one seed" if len(seeds) == 1 else f"{len(seeds)} seeds, mean (smallest to largest)"


def _where(result: dict) -> str:
    device, versions = result["device"], result["versions"]
    cores = f"{device['cpu_cores']} {device['platform'].upper()} cores"
    return f"{cores}, jax {versions['jax']}, Python {versions['python']}"


def quickstarts() -> str:
    """Returns the results of the quickstarts."""
    tasks = _load("quickstart_tasks")
    retrieved, guessed = tasks["retrieval"]["summary"], tasks["retrieval"]["chance"]
    questions, captions = (tasks[task]["rows"] for task in ("questions", "captions"))
    answered, described = (next(iter(rows.values())) for rows in (questions, captions))
    blind = next(row for name, row in questions.items() if "question only" in name)
    frequent = captions["most frequent training caption"]
    overall, event = "overall, %", "first event right, %"
    minutes = {name: f"{tasks[name]['seconds'] / 60:.1f}" for name in ("retrieval", "questions", "captions")}
    names = {
        "t2v R@1": "retrieval, text to video R@1",
        "in-group accuracy": "retrieval, right among 4 near-twins",
        **{
            f"{role} inside, %": f"interaction of words for {plural} inside the frames that show them"
            for role, plural in (("color", "colours"), ("shape", "shapes"), ("size", "sizes"), ("action", "actions"))
        },
    }
    rows = [[shown, spread(retrieved[name]), guessed[name], ""] for name, shown in names.items()]
    rows[0][-1] = minutes["retrieval"]
    rows += [
        ["questions, right answers", f"{answered[overall]:.1f}", blind[overall], minutes["questions"]],
        ["captions, first event right", f"{described[event]:.1f}", frequent[event], minutes["captions"]],
    ]
    table = _table(
        ["percent, on held-out videos", "result", "baseline", "minutes"],
        [[name, reached, f"{guess:.1f}", time] for name, reached, guess, time in rows],
    )
    return (
        f"{table}\n\nRetrieval: {len(tasks['retrieval']['runs'])} seeds, mean (smallest to largest); the others: one "
        f"seed. {_where(tasks)}; minutes from the command to the report, including rendering. The baselines are chance "
        "for retrieval, an even spread for interactions, a model trained on the questions without the videos, and the "
        "most frequent training caption. Near-twins have the same entities and differ in action or order. Words whose "
        "frames are all or none of a video's are left out, and so are actions that fill their video."
    )


def pointing() -> str:
    """Returns where the words of the quickstart's captions point, in time and in space, by role."""
    tasks = _load("quickstart_tasks")
    reached, guessed = tasks["retrieval"]["summary"], tasks["retrieval"]["chance"]
    blocks = [
        _table(
            ["words", "mass inside, %", "uniform, %", "AUC"],
            [
                [
                    role,
                    spread(reached[f"{role} inside, %"]),
                    f"{guessed[f'{role} inside, %']:.1f}",
                    spread(reached[f"{role} AUC"], digits=2),
                ]
                for role in ("color", "shape", "size", "action", "all words")
            ],
        ),
        f"Interactions of words and frames, the quickstart's test gallery; {len(tasks['retrieval']['runs'])} seeds, "
        "mean (smallest to largest). The first seed, with what the interaction is compared with:",
    ]
    for table, what in zip(tasks["retrieval"]["pointing"].values(), ("frames", "patches"), strict=True):
        place = {name: number for number, name in enumerate(table["columns"])}
        rows = [
            [
                name,
                f"{row[place['mass inside, %']]:.1f} ({row[place['from']]:.1f} to {row[place['to']]:.1f})",
                f"{row[place['uniform, %']]:.1f}",
                f"{row[place['AUC']]:.2f}",
                str(row[place["words"]]),
            ]
            for name, row in table["rows"].items()
            if name.startswith(("interaction: ", "similarity: "))
        ]
        blocks.append(_table([what, "mass inside, % (95 % interval)", "uniform, %", "AUC", "words"], rows))
    blocks.append(f"{_where(tasks)}.")
    return "\n\n".join(blocks)


def quickstart() -> str:
    """Returns short runs of the quickstart over seeds: without interaction, HBI, HBI V2, chance."""
    return _versions("versions")


def from_nothing() -> str:
    """Returns the same for towers that were trained from nothing, with either optimizer."""
    return "\n\n".join(f"{name}:\n\n{_versions(f'versions_{name.lower()}')}" for name in ("Muon", "AdamW"))


# Names of models where a table's own are short.
_MODELS = {"contrastive only": "contrastive loss only", "V1": "HBI", "V2": "HBI V2"}
# Tables of the methods, by what their data have.
_METHODS = {"methods": "Without label noise", "methods_noisy": "With 20 % label noise"}


def methods() -> str:
    """Returns the results of `--table=methods`, without label noise and with it."""
    blocks = []
    for name, title in _METHODS.items():
        if _measured(name):
            blocks += [f"{title}:", _versions(name)]
    return "\n\n".join(blocks) or "Not measured yet."


def methods_together() -> str:
    """Returns two results of every method, without label noise and with it, in one table."""
    found = {title: _ablation(name) for name, title in _METHODS.items() if _measured(name)}
    if not found:
        return "Not measured yet."
    names = {"t2v R@1": "R@1", "in-group accuracy": "near-twins"}
    header = [
        "percent, on held-out videos",
        *(f"{title.lower()}: {short}" for title in found for short in names.values()),
    ]
    lines = [{line.name: line.summary for line in table.lines} for table in found.values()]
    rows = [
        [
            _MODELS.get(model, model),
            *(spread(line[model][name]) if line.get(model) else "-" for line in lines for name in names),
        ]
        for model in lines[0]
    ]
    rows.append(["chance", *(f"{table.chance[name]:.1f}" for table in found.values() for name in names)])
    measured = {(len(table.seeds), table.budget, table.machine) for table in found.values()}
    told = "; ".join(f"{seeds} seeds, {budget} each, {machine}" for seeds, budget, machine in sorted(measured))
    return (
        f"{_table(header, rows)}\n\nText to video, mean (smallest to largest), from the same towers: {told}. "
        "Near-twins: the right one among 4 videos that have the same entities and differ in action or order."
    )


def hcmi_parts() -> str:
    """Returns the results of `--table=hcmi` with label noise."""
    return _versions("hcmi_noisy") if _measured("hcmi_noisy") else "Not measured yet."


def _measured(name: str) -> bool:
    return (RESULTS / f"ablation_{name}.json").exists()


def _ablation(name: str) -> Ablation:
    return Ablation.from_json((RESULTS / f"ablation_{name}.json").read_text())


def _versions(name: str) -> str:
    table = _ablation(name)
    names = {
        "t2v R@1": "text to video R@1",
        "t2v R@10": "R@10",
        "v2t R@1": "video to text R@1",
        "in-group accuracy": "right among 4 near-twins",
    }
    rows = [
        [_MODELS.get(line.name, line.name), *(spread(line.summary[name]) for name in names)] for line in table.lines
    ]
    rows.append(["chance", *(f"{table.chance[name]:.1f}" for name in names)])
    figures = _table(["percent, mean (smallest to largest)", *names.values()], rows)
    return (
        f"{figures}\n\n{table.data}, all held out; near-twins have the same entities and differ in action or order. "
        f"{table.budget} each, {len(table.seeds)} seeds; {table.machine}."
    )


def fresh_quickstart() -> str:
    """Returns the time of `make quickstart` from a fresh clone, for each version of Python."""
    runs = _load("fresh_quickstart")["runs"]
    table = _table(
        ["from a fresh clone", "in all, s", "installation, s", "training, s", "R@1", "R@10", "among near-twins"],
        [
            [
                f"Python {run['versions']['python']}, jax {run['versions']['jax']}",
                f"{run['total_s']:.0f}",
                f"{run['install_s']:.0f}",
                f"{run['training']['seconds']:.0f}",
                f"{run['t2v R@1']:.1f}",
                f"{run['t2v R@10']:.1f}",
                f"{run['in-group accuracy']:.1f}",
            ]
            for run in runs
        ],
    )
    training, device = runs[0]["training"], runs[0]["device"]
    return (
        f"{table}\n\n{device['cpu_cores']} {device['platform'].upper()} cores; percent, text to video, on held-out "
        f"videos. Training makes {training['steps_per_second']:.1f} steps/s of {runs[0]['batch_size']} clips, decodes "
        f"each clip once, and waits for data {100 * training['wait_seconds'] / training['seconds']:.0f} % of the time "
        f"(Python {runs[0]['versions']['python']})."
    )


def train_step() -> str:
    """Returns the time of one training step at full size."""
    result = _load("bench_train_step")
    step, shapes, share = result["step"], result["shapes"], result["share"]
    table = _table(
        ["part", "seconds", "share"],
        [
            [name.replace("_", " "), f"{value:.3f}", f"{100 * share[name]:.1f} %"]
            for name, value in result["parts_s"].items()
        ],
    )
    if methods := result.get("methods_s"):
        base = methods["HBI V1"]
        rows = [[name, f"{value:.2f}", f"{value / base:.2f}"] for name, value in methods.items()]
        table += "\n\n" + _table(["step of", "seconds", "times V1's"], rows)
    return (
        f"{shapes['model']}, {shapes['pairs']} pairs of {shapes['frames']} frames and {shapes['words']} words, three "
        f"levels, {shapes['dtype']}: **{step['median_s']:.1f} s a step** (median of {step['calls']}, "
        f"{step['min_s']:.1f} to {step['max_s']:.1f}), peak memory {step['peak_rss_gb']:.1f} GB, compile time "
        f"{step['compile_s']:.0f} s. The step takes {result['step_over_vision_products_at_machine_rate']:.2f} times as "
        f"long as the vision tower's {result['vision_products_tflop']} TFLOP of matrix products at the "
        f"{result['machine_gflops']:.0f} GFLOP/s of one large product on this machine ({_where(result)}).\n\n{table}"
    )


# Columns of a step on a GPU: the field of its row, and how it is written.
_GPU_COLUMNS = {
    "step, ms": ("median_ms", "{:.0f}"),
    "its kernels, ms": ("kernels_ms", "{:.0f}"),
    "pairs/s": ("pairs_per_second", "{:.0f}"),
    "MFU, %": ("mfu", "{:.0%}"),
    "memory, GiB": ("peak_gib", "{:.1f}"),
    "compile, s": ("compile_s", "{:.0f}"),
}


def gpu() -> str:
    """Returns what `bench_gpu` measured, card by card."""
    found, columns = [], _GPU_COLUMNS.values()
    for path in sorted(RESULTS.glob("bench_gpu_*.json")):
        result = json.loads(path.read_text())
        shapes, versions, calls = result["shapes"], result["versions"], result.get("interaction")
        rows = [
            [
                name,
                *("" if row.get(field) is None else form.format(row[field]) for field, form in columns),
            ]
            for name, row in result["step"].items()
        ]
        games, words, frames = shapes["games"]
        exact = f" The exact interaction of {games:,} pairs of {words} words and {frames} frames takes "
        found.append(
            f"**{result['device']['kind']}**, {shapes['pairs']} pairs, jax {versions['jax']}"
            + (f", `XLA_FLAGS={result['xla_flags']}`" if result["xla_flags"] else "")
            + f". {result.get('conditions', '')}"
            + (f"{exact}{calls['median_ms']:.2f} ms." if calls else "")
            + "\n\n"
            + _table(["step", *_GPU_COLUMNS], rows)
        )
    return "\n\n".join(found)


def interaction() -> str:
    """Returns the time and error of the exact interaction of a batch."""
    result = _load("bench_banzhaf")
    batch, gradient = result["batch"], result["batch_with_gradient"]
    pairs, words, frames = batch["shape"]
    usual = [row for row in result["error_against_enumeration"] if row["logit_spread"] <= 25]
    error32, error64 = (max(row[precision] for row in usual) for precision in ("float32", "float64"))
    return (
        f"{pairs} pairs of {words} words and {frames} frames take **{batch['median_ms']:.1f} ms** "
        f"({gradient['median_ms']:.1f} ms with the gradient) on {_where(result)}. They differ from the enumeration "
        f"of all coalitions by at most {error32:.0e} in float32 and {error64:.0e} in float64. One forward pass of the "
        f"estimator network takes {1 / result['exact_over_estimator']:.0f} times as long. In the time of the closed "
        f"form, sampling has {result['sampling']['at_equal_time']['error_over_exact_error']:.0e} times its error."
    )


def _percent(share: float) -> str:
    return "0" if share == 0 else f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"


def published_differences() -> str:
    """Returns the effect of each switch on the published configuration of the golden models."""
    result = _load("published_differences")
    tables = []
    for task, score in (("retrieval", "similarities"), ("answers", "answers' logits")):
        rows = [
            [
                f"`{row['switch'].replace(' and ', '`, `')}`",
                *(f"{row['score'][level]:.2g}" for level in ("entity", "action", "event")),
                _percent(row["loss"]),
                _percent(row["gradient"]),
            ]
            for row in result[task]
        ]
        levels = (f"{score}: entity", "action", "event")
        tables.append(_table([f"{task}: to our default", *levels, "loss", "gradient"], rows))
    (optimizer,) = result["optimizer"]
    tables.append(
        f"`{optimizer['switch']}`: after {optimizer['steps']} steps on recorded gradients, the parameters differ from "
        f"the published ones by {_percent(optimizer['movement'])} of the distance that the published ones moved."
    )
    return "\n\n".join(tables)


def bfloat16() -> str:
    """Returns the change of ranks with bfloat16 activations."""
    result = _load("bench_bfloat16")
    rows = [
        [
            f"{name}, {row['texts']} texts",
            _percent(row["share_of_texts_whose_rank_changes"]),
            f"{row['mean_change']:.3f}",
            f"{row['largest_change']}",
            f"{row['R@1 float32']:.1f}",
            f"{row['R@1 bfloat16']:.1f}",
            f"{row['largest_change_of_similarity']:.4f}",
        ]
        for name, row in result["galleries"].items()
    ]
    header = ["gallery", "texts whose rank changes", "mean change", "largest", "R@1 float32", "R@1 bfloat16"]
    return _table([*header, "largest change of a similarity"], rows)


def teachers() -> str:
    """Returns the comparison of exact, estimated and sampled interactions as teachers."""
    result = _load("teachers")
    labels, step, table = result["labels"], result["step"], result["table"]
    level = next(iter(labels["zero"]))
    names = {"t2v R@1": "R@1", "in-group accuracy": "among near-twins"}
    rows = []
    for teacher, figures in table.items():
        rmse, correlation, top1 = labels[teacher][level] if teacher in labels else (0.0, 1.0, 100.0)
        rows.append(
            [
                teacher,
                f"{rmse:.2g}",
                f"{correlation:.2f}",
                f"{top1:.0f} %",
                f"{step[teacher]['median_ms']:.0f} ms ({step[teacher]['min_ms']:.0f} to {step[teacher]['max_ms']:.0f})",
                *(spread(figures[name]) for name in names),
            ]
        )
    header = ["teacher", "label error", "correlation", "same best frame", "time of a step", *names.values()]
    return (
        f"{_table(header, rows)}\n\nLabels: {level} level, test gallery, root mean square error after scaling by "
        f"{result['label_scale']:g} (labels that are always zero: {labels['zero'][level][0]:.2g}); "
        f"{result['num_samples']:,} sampled coalitions per pair. Retrieval: percent, {_seeds(result)}, "
        f"{result['test_videos']} test videos. Pre-training the estimator took another "
        f"{result['pretraining_seconds']:.0f} s. Batches of {result['batch_size']}, {_where(result)}."
    )


def load() -> str:
    """Returns time and memory of loading and converting weights of ViT-B/32's size."""
    result = _load("bench_load")
    rows = [
        [
            what,
            f"{row['median_s']:.1f} s ({row['min_s']:.1f} to {row['max_s']:.1f})",
            f"{row['peak_above_imports_mib']} MiB",
        ]
        for what, row in (
            ("`hbi_jax.load`", result["load"]),
            ("`convert`, from Hugging Face's layout", result["convert"]),
        )
    ]
    table = _table([f"{result['size_mib']} MiB of weights", "time", "peak memory above the imports"], rows)
    return f"{table}\n\nEach in its own process, {result['calls']} times; {_where(result)}."


def similarity() -> str:
    """Returns time and memory of scoring a gallery with HBI and HBI V2."""
    result = _load("bench_similarity")
    rows = [
        [
            name,
            f"{row['median_s']:.1f} s ({row['smallest_s']:.1f} to {row['largest_s']:.1f})",
            f"{sum(row['bound_s'].values()):.1f} s",
            f"{row['times_bound']:.1f}",
            f"{row['peak_bytes'] / 1e9:.1f} GB",
        ]
        for name, row in result["gallery"].items()
    ]
    table = _table(["", "time", "bound", "time / bound", "peak memory of the process"], rows)
    shapes, dense = result["shapes"], result["dense"]
    memory = dense["memory, dense / inner products"]
    faster = dense["dense"]["median_ms"] / dense["inner products"]["median_ms"]
    size = dense["texts and videos"]
    return (
        f"{table}\n\n{shapes['texts']:,} texts against {shapes['videos']:,} videos, {shapes['features']} features; "
        f"{_where(result)}. At {size} x {size}, the dense formula takes {memory:.0f} times the memory and {faster:.0f} "
        f"times the time of the inner products; the results differ by at most {dense['largest difference']:.0e}."
    )


def decoding() -> str:
    """Returns the speed of decoding captions with a key-value cache."""
    result = _load("bench_decoding")
    shapes, faster, rate = result["shapes"], result["times_as_fast_as_recomputation"], result["captions_per_second"]
    return (
        f"Greedy decoding of {shapes['tokens']} tokens makes {rate['greedy']:.0f} captions/s: **{faster['plain']:.1f} "
        f"times** as many as recomputing the caption for every token, and {faster['last_word']:.1f} times as many as "
        f"recomputing with only the logits of the last word. Beam search with 5 beams makes {rate['beam_5']:.0f}. One "
        f"layer of width {shapes['width']}, {shapes['vocabulary']:,} tokens, {shapes['videos']} videos at a time; "
        f"{_where(result)}."
    )


def _task(name: str) -> str:
    """Returns the test table of a task's quickstart, and its time."""
    result = _load("quickstart_tasks")
    task = result[name]
    columns = list(next(iter(task["rows"].values())))
    rows = [
        [row, *("" if values[column] is None else f"{values[column]:.1f}" for column in columns)]
        for row, values in task["rows"].items()
    ]
    return (
        f"{_table([name, *columns], rows)}\n\n{task['note']} {task['seconds'] / 60:.1f} minutes from the command to "
        f"the report, including {task['training']['seconds'] / 60:.1f} of training; {_where(result)}, one seed. "
        f"{result.get('remark', '')}".rstrip()
    )


def questions() -> str:
    """Returns the results of the question-answering quickstart."""
    return _task("questions")


def captions() -> str:
    """Returns the results of the captioning quickstart."""
    return _task("captions")


def _ablations() -> dict[str, Ablation]:
    """Returns the ablation tables that have results, by name."""
    return {name: _ablation(name) for name in TABLES if _measured(name)}


def ablations() -> str:
    """Returns every table of `python -m hbi_jax.ablate` whose JSON is among the results."""
    blocks = []
    for name, table in _ablations().items():
        blocks += [f"## {table.title}", f"![{table.title}](images/ablation_{name}.png)", table.markdown()]
    return "\n\n".join(blocks) or "Not measured yet."


def draw_ablations() -> None:
    """Draws the pictures of `ablations`."""
    for name, table in _ablations().items():
        models = {line.name: list(line.runs.values()) for line in table.lines}
        plot_ablation(table.title, models, table.chance, ROOT / "docs" / "images" / f"ablation_{name}.png")


# Columns of a compiled step, and how they are made from its row.
PLAN_COLUMNS = {
    "rows a chip": lambda row: f"{row['rows_a_chip']:g}",
    "compile, s": lambda row: f"{row['compile_s']:.0f}",
    "memory, GiB": lambda row: (
        f"{row['peak_bytes'] / 2**30:.1f} of {row['usable_bytes'] / 2**30:.1f}"
        + ("" if row["fits"] else ", does not fit")
    ),
    "TFLOP": lambda row: f"{row['flops'] / 1e12:.2f}",
    "HBM, GB": lambda row: f"{row['hbm_bytes'] / 1e9:.1f}",
    "sent, MB": lambda row: f"{row['sent_bytes'] / 1e6:.0f}",
    "collectives run in loops": lambda row: f"{row['in_loop_runs']:,}",
    "compute, ms": lambda row: f"{row['compute_ms']:.1f}",
    "HBM, ms": lambda row: f"{row['hbm_ms']:.1f}",
    "links, ms": lambda row: f"{row['ici_ms']:.1f}",
    "MFU at most, %": lambda row: f"{100 * row['mfu_bound']:.0f}",
}


def _planned(row: Mapping) -> list[str]:
    """Returns the cells of a compiled step; of one that does not fit, only what it needs is known."""
    if "peak_bytes" in row:
        return [cell(row) for cell in PLAN_COLUMNS.values()]
    needed = f"{row['needed_bytes'] / 2**30:.1f}, does not fit" if row["needed_bytes"] else "does not fit"
    known = [PLAN_COLUMNS[name](row) for name in ("rows a chip", "compile, s")]
    return [*known, needed, *[""] * (len(PLAN_COLUMNS) - 3)]


def plan() -> str:
    """Returns the steps that were compiled for TPUs that are not here, and a picture if there are several sizes."""
    if not (RESULTS / "bench_plan.json").exists():
        return "Not measured yet."
    result = _load("bench_plan")
    main, others = _split(result["rows"])
    steps = _table(
        ["model, slice", *PLAN_COLUMNS], [[f"{row['version']}, {row['topology']}", *_planned(row)] for row in main]
    )
    larger = _table(
        ["configuration, towers, remat, fsdp", "model, slice", *PLAN_COLUMNS],
        [
            [
                f"{row['config']}, {row['towers']}, {row['remat']}{', spread' if row.get('fsdp') else ''}",
                f"{row['version']}, {row['topology']}",
                *_planned(row),
            ]
            for row in others
        ],
    )
    commits = sorted({row["commit"] for row in result["rows"]})
    busy = max(row["load_average"][0] for row in result["rows"])
    cores = result["device"]["cpu_cores"]
    note = f"; the machine was busy for some (load average up to {busy:.0f})" if busy > 1.5 * cores else ""
    about = (
        f"One chip, one training step in bfloat16, ViT-B/32 where nothing else is said, by the compiler of TPUs on "
        f"{_where(result)}{note}. Commit {', '.join(commit[:8] + commit[40:] for commit in commits)}."
    )
    picture = "![Bounds of a step by the number of chips](images/scaling.png)\n\n" if SCALING.exists() else ""
    more = (
        f"\n\nLarger towers, longer videos and spread parameters (`config.mesh.fsdp`), batches of 128:\n\n{larger}"
        if others
        else ""
    )
    return f"{picture}{steps}{more}\n\n{about}"


def _split(rows: Sequence[Mapping]) -> tuple[list[Mapping], list[Mapping]]:
    """Returns the steps of configs/msrvtt.py with ViT-B/32 and all parameters on every chip, and the others."""
    parts: tuple[list[Mapping], list[Mapping]] = [], []
    for row in rows:
        plain = (row["config"], row["towers"], row.get("fsdp", False)) == ("msrvtt", "ViT-B/32", False)
        parts[not plain].append(row)
    return parts


def draw_plan() -> None:
    """Draws the picture of `plan`, if there are several sizes."""
    if (RESULTS / "bench_plan.json").exists():
        plot_plan(_split(_load("bench_plan")["rows"])[0], SCALING)


def data() -> str:
    """Returns the throughput of reading video files and prepared videos."""
    result = _load("bench_data")
    names = {name: f"{seconds} s, {width}x{height}" for name, (seconds, width, height) in result["clips"].items()}
    others = list(next(iter(result["decoding"].values()))["ours_over"])
    rows = []
    for clip, row in result["decoding"].items():
        kind, gop = clip.split(", ")
        rates, waits = row["clips_per_second"], [result["hidden"][f"{clip}, {way}"] for way in ("raw", "prepared")]
        rows.append(
            [
                f"{names[kind]}, every {gop}",
                f"{rates['hbi_jax']['median']:.1f}",
                *(f"{row['ours_over'][other]:.1f} x" for other in others),
                f"{rates['prepared']['median']:.0f}",
                f"{row['prepared_over_raw']:.1f} x",
                *(_percent(wait["share_not_hidden"]) for wait in waits),
            ]
        )
    header = [
        "clips, key frames",
        "clips/s",
        *(f"over {other}" for other in others),
        "prepared, clips/s",
        "over raw",
        "step not hidden, raw",
        "prepared",
    ]
    step, versions = result["step"], result["versions_of_readers"]
    held = ", ".join(
        f"{row['first_mib']:.0f} MiB at the start and {row['last_mib']:.0f} MiB at the end ({way})"
        for way, row in result["memory"].items()
    )
    batches = next(iter(result["memory"].values()))["batches"]
    fewest = min(row["steps"] for row in result["hidden"].values())
    return (
        f"{_table(header, rows)}\n\n"
        "One thread per clip and one clip per core at a time; all readers return the same frames. Not hidden: the time "
        f"that a step waits for its batch, as a share of {step['seconds']} s. A timed wait simulates a step of "
        f"{step['clips']} clips on an accelerator whose host has {step['host_cores']} cores, so that "
        f"{step['workers']} workers deliver {step['clips'] * step['workers'] // step['host_cores']} clips; "
        f"the shares are of {fewest} steps or more. Over {batches:,} batches, the process and its workers use {held}. "
        f"{', '.join(f'{name} {version}' for name, version in versions.items())}; {_where(result)}{_busy(result)}."
    )


def faults() -> str:
    """Returns what was counted of kills, failing storage, memory and fuzzing; what has no file was not measured."""

    def row(name: str, described: Callable[[dict], tuple[str, str]]) -> tuple[str, str]:
        return described(_load(name)) if (RESULTS / f"{name}.json").exists() else ("not measured", "")

    def kills(found: dict) -> tuple[str, str]:
        stages = ", ".join(f"{stage} {count}" for stage, count in found["stages"].items())
        slowest = (
            f"; the others ended within {found['slowest_end_of_the_others_s']:.1f} s" if found["processes"] > 1 else ""
        )
        return f"{found['kills']} kills ({stages})", f"{len(found['different'])} differences{slowest}"

    def storage(found: dict) -> tuple[str, str]:
        ends = ", ".join(f"{end} {count}" for end, count in found["ends"].items())
        lost = found["cases"] - sum(found["ends"].get(end, 0) for end in ("unharmed", "previous", "refused"))
        return f"{found['cases']} cases ({ends})", f"{lost} lost a state"

    def memory(found: dict) -> tuple[str, str]:
        early, late = found["early_mib"], found["late_mib"]
        return (
            f"{found['steps']:,} steps",
            f"{early:.0f} MiB early, {late:.0f} MiB late; largest rise {100 * found['rise']:.1f} %",
        )

    def video(found: dict) -> tuple[str, str]:
        peaks = (f"{kind} {file['peak_above_a_minute_mib']:.0f} MiB" for kind, file in found["files"].items())
        return f"{found['minutes']} minutes", f"above the memory for one minute: {', '.join(peaks)}"

    def fuzzing(found: dict) -> tuple[str, str]:
        readers = ", ".join(f"{name} {reader['executions']:,}" for name, reader in found["readers"].items())
        findings = sum(reader["findings"] for reader in found["readers"].values())
        peak = max(reader["peak_memory_mib"] for reader in found["readers"].values())
        seconds = found["seconds_each"] * len(found["readers"])
        return f"{seconds / 60:.0f} minutes of executions ({readers})", f"{findings} findings; at most {peak} MiB"

    measured = {
        "kill -9": row("faults_kills", kills),
        "kill -9 of one of two processes": row("faults_kills_2", kills),
        "storage that fails": row("faults_storage", storage),
        "resident memory of training": row("faults_memory", memory),
        "memory for a long video": row("faults_video", video),
        "fuzzing of readers": row("faults_fuzz", fuzzing),
    }
    lines = [["", "how much", "result"], ["---"] * 3, *([name, *cells] for name, cells in measured.items())]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def search_query() -> str:
    """Returns the latency, memory and recall of a query by engine and number of clips."""
    result = _load("bench_search")
    rows = [
        [
            f"{int(count):,}",
            engine,
            f"{row['p50_ms']:.0f}",
            f"{row['p95_ms']:.0f}",
            f"{row['cpu_ms']:.0f}",
            f"{row['own_mib']:,}",
            f"{row['memory_mib']:,}",
            f"{100 * row['recall_at_10']:.1f}",
            f"{row['build_seconds']:.0f}" if "build_seconds" in row else "",
        ]
        for count, engines in result["query"].items()
        for engine, row in engines.items()
    ]
    header = [
        "clips",
        "engine",
        "median, ms",
        "95 %, ms",
        "CPU, ms",
        "memory, MiB",
        "with files, MiB",
        "recall of the best ten, %",
        "building, s",
    ]
    sizes = " and ".join(f"{k} x {d}" for k, d in result["tokens_per_clip"].values())
    wide = [
        f"{row['flat']['p50_ms']:.0f} ms ({row['flat']['cpu_ms']:.0f} ms of CPU) for {int(count):,} clips"
        for count, row in result.get("query_wide", {}).items()
    ]
    words, width = result["wide_tokens"]
    size = (
        f" With {words} tokens of {width} features per clip, as in a ViT-B/32, the flat scan takes {', '.join(wide)}."
    )
    return (
        f"{_table(header, rows)}\n\n"
        f"{result['queries']} queries; the quickstart's model, "
        f"tokens of {sizes} per clip. Clips beyond the real ones are drawn from a normal distribution fitted to "
        "them. CPU: the time of all cores together. Recall: how many of the exact ten best are found. "
        "Memory: the growth of the process at its peak, without and with pages of mapped files."
        f"{size if wide else ''} {_where(result)}{_busy(result)}."
    )


def search_indexing() -> str:
    """Returns the speed of indexing beside that of decoding alone."""
    result = _load("bench_search")
    names = {"quickstart": "videos of 3 s", "long": "videos of 60 s"}
    rows = [
        [
            f"{row['videos']:,} {names[name]}",
            f"{row['clips']:,}",
            f"{row['decoding_clips_per_second']:.0f}",
            f"{row['index_clips_per_second']:.0f}",
            f"{row['added_videos']}: {100 * row['added_share']:.1f} %",
            f"{row['unchanged_seconds']:.2f}",
        ]
        for name, row in result["indexing"].items()
    ]
    header = [
        "indexed",
        "clips",
        "decoding alone, clips/s",
        "index, clips/s",
        "adding more, of the time",
        "nothing new, s",
    ]
    return (
        f"{_table(header, rows)}\n\nThe quickstart's model; decoding with one thread per core. {_where(result)}"
        f"{_busy(result)}."
    )


def search_moments() -> str:
    """Returns how often moments are right in the embedded world, beside chance."""
    result = _load("bench_search")
    event, place = result["moments"]["event_of_two"], result["moments"]["place_in_long_videos"]
    rows = [
        ["strongest frame lies in the event that was asked for", event["strongest_frame_inside"], event["chance"]],
        ["share of the focus that lies in it", event["share_of_focus_inside"], event["chance"]],
        ["first moment lies where the caption's video is in a long one", place["first_moment_right"], place["chance"]],
    ]
    table = _table(
        ["percent", "result", "chance"],
        [[name, f"{100 * value:.1f}", f"{100 * chance:.1f}"] for name, value, chance in rows],
    )
    return (
        f"{table}\n\nEvents: {event['events']} events of test videos with two events, each asked for on its own. Long "
        f"videos: {place['long_videos']} that join ten test videos, {place['clips']} clips, {place['captions']} "
        "captions. "
        f"The quickstart's model. {_where(result)}."
    )


def _busy(result: dict) -> str:
    load, cores = result["device"]["load_average"][0], result["device"]["cpu_cores"]
    return f"; the machine was busy (load average {load:.0f})" if load > 2 * cores else ""


FIGURES = {
    "search_query": search_query,
    "search_indexing": search_indexing,
    "search_moments": search_moments,
    "ablations": ablations,
    "quickstarts": quickstarts,
    "pointing": pointing,
    "quickstart": quickstart,
    "from_nothing": from_nothing,
    "methods": methods,
    "methods_together": methods_together,
    "hcmi_parts": hcmi_parts,
    "fresh_quickstart": fresh_quickstart,
    "train_step": train_step,
    "gpu": gpu,
    "interaction": interaction,
    "published_differences": published_differences,
    "bfloat16": bfloat16,
    "teachers": teachers,
    "load": load,
    "data": data,
    "similarity": similarity,
    "decoding": decoding,
    "questions": questions,
    "captions": captions,
    "faults": faults,
    "plan": plan,
}


def updated(document: str) -> str:
    """Returns a document with its results generated again."""
    return _MARKED.sub(lambda match: match[1] + FIGURES[match[2]]() + "\n" + match[4], document)


def main() -> None:
    """Prints the results, or writes them into the documents."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the results into the documents")
    if parser.parse_args().write:
        draw_ablations()
        draw_plan()
        for name in DOCUMENTS:
            path = ROOT / name
            path.write_text(updated(path.read_text()))
    else:
        for name, figure in FIGURES.items():
            print(f"## {name}\n\n{figure()}\n")


if __name__ == "__main__":
    main()
