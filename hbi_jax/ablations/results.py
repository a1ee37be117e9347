"""The table of an ablation: models with their figures for several seeds, as JSON and as Markdown."""

import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Line:
    """One model.

    Attributes:
      name: In the table.
      overrides: The fields of the configuration that make it.
      paper: Its figure in the paper, on the paper's data; None where there is none.
      runs: The figures of each finished run by seed.
      failed: What became of the runs that failed, by seed.
    """

    name: str
    overrides: Mapping[str, Any]
    paper: float | None
    runs: Mapping[str, Mapping[str, float]]
    failed: Mapping[str, str]

    @property
    def summary(self) -> dict[str, dict[str, float]]:
        """Mean, smallest, largest and standard error of each figure over the seeds."""
        return summary(list(self.runs.values()))


@dataclasses.dataclass(frozen=True)
class Ablation:
    """A table, finished or not.

    Attributes:
      title: Heading.
      note: What its models are.
      command: The command line that makes it, or goes on with it.
      seeds: Those that are wanted of every model.
      lines: The models.
      chance: What guessing gives, by figure.
      data: What the figures are measured on.
      budget: How long each model is trained.
      machine: Where.
    """

    title: str
    note: str
    command: str
    seeds: Sequence[int]
    lines: Sequence[Line]
    chance: Mapping[str, float]
    data: str
    budget: str
    machine: str

    def to_json(self) -> str:
        """As JSON, each line with its summary."""
        values = dataclasses.asdict(self)
        for line, values_of_line in zip(self.lines, values["lines"], strict=True):
            values_of_line["summary"] = line.summary
        return json.dumps(values, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Ablation":
        """What `to_json` wrote."""
        values = json.loads(text)
        names = [field.name for field in dataclasses.fields(Line)]
        lines = [Line(**{name: line[name] for name in names}) for line in values.pop("lines")]
        return cls(lines=lines, **values)

    def markdown(self) -> str:
        """Note, table and how it was measured, without a heading."""
        columns = list(dict.fromkeys(name for line in self.lines for run in line.runs.values() for name in run))
        has_paper = any(line.paper is not None for line in self.lines)
        header = ["model", "seeds", *columns, *(["the paper's R@1 on MSR-VTT"] if has_paper else [])]
        rows = [header, ["---", *["---:"] * (len(header) - 1)]]
        for line in self.lines:
            found = line.summary
            cells = [spread(found[name]) if name in found else "-" for name in columns]
            paper = ["-" if line.paper is None else f"{line.paper:.1f}"] if has_paper else []
            rows.append([line.name, str(len(line.runs)), *cells, *paper])
        if self.chance:
            guessed = [f"{self.chance[name]:.1f}" if name in self.chance else "-" for name in columns]
            rows.append(["chance", "", *guessed, *([""] if has_paper else [])])
        table = "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows)
        return "\n\n".join([self.note, table, self._measured()])

    def _measured(self) -> str:
        done, wanted = sum(len(line.runs) for line in self.lines), len(self.lines) * len(self.seeds)
        seeds = f"{len(self.seeds)} seed{'s, mean (smallest to largest)' if len(self.seeds) > 1 else ''}"
        sentences = [f"{self.data}; {self.budget}; {seeds}; {self.machine}."]
        if done < wanted:
            sentences.append(f"**Unfinished: {done} of {wanted} runs.**")
        for line in self.lines:
            sentences += [f"{line.name}, seed {seed}: {message}." for seed, message in line.failed.items()]
        return " ".join(sentences)


def summary(runs: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Mean, smallest, largest and standard error of the mean of each figure that all runs have."""
    out = {}
    for name in runs[0] if runs else ():
        values = [run[name] for run in runs if name in run]
        if len(values) == len(runs):
            error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
            found = {"mean": statistics.fmean(values), "min": min(values), "max": max(values), "standard_error": error}
            out[name] = {statistic: round(value, 2) for statistic, value in found.items()}
    return out


def spread(figure: Mapping[str, float]) -> str:
    """A mean with the smallest and the largest, where several were measured."""
    mean, low, high = (f"{figure[name]:.1f}" for name in ("mean", "min", "max"))
    return mean if low == high == mean else f"{mean} ({low} to {high})"
