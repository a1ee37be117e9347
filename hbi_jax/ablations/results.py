"""Ablation tables: models with their results for several seeds, as JSON and as Markdown."""

import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Line:
    """One model of a table.

    Attributes:
      name: The name in the table.
      overrides: The fields of the configuration that define the model.
      paper: The paper's result on the paper's data; None if there is none.
      runs: The results of each finished run, by seed.
      failed: The message of each failed run, by seed.
    """

    name: str
    overrides: Mapping[str, Any]
    paper: float | None
    runs: Mapping[str, Mapping[str, float]]
    failed: Mapping[str, str]

    @property
    def summary(self) -> dict[str, dict[str, float]]:
        """The mean, minimum, maximum and standard error of each result over the seeds."""
        return summary(list(self.runs.values()))


@dataclasses.dataclass(frozen=True)
class Ablation:
    """An ablation table, complete or not.

    Attributes:
      title: The heading.
      note: A text that describes the models.
      command: The command line that makes or resumes the table.
      seeds: The seeds of every model.
      lines: The models.
      chance: The result of guessing, by name.
      data: The data that the models are evaluated on.
      budget: The length of training of each model.
      machine: The machine that the models were trained on.
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
        """Returns the table as JSON, each line with its summary."""
        values = dataclasses.asdict(self)
        for line, values_of_line in zip(self.lines, values["lines"], strict=True):
            values_of_line["summary"] = line.summary
        return json.dumps(values, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Ablation":
        """Reads a table from the JSON of `to_json`."""
        values = json.loads(text)
        names = [field.name for field in dataclasses.fields(Line)]
        lines = [Line(**{name: line[name] for name in names}) for line in values.pop("lines")]
        return cls(lines=lines, **values)

    def markdown(self) -> str:
        """Returns the note, the table and how it was measured, as Markdown without a heading."""
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
    """Returns the mean, minimum, maximum and standard error of the mean of each result that all runs have."""
    out = {}
    for name in runs[0] if runs else ():
        values = [run[name] for run in runs if name in run]
        if len(values) == len(runs):
            error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
            found = {"mean": statistics.fmean(values), "min": min(values), "max": max(values), "standard_error": error}
            out[name] = {statistic: round(value, 2) for statistic, value in found.items()}
    return out


def spread(figure: Mapping[str, float], digits: int = 1) -> str:
    """Formats a mean, with minimum and maximum if they differ from it."""
    mean, low, high = (f"{figure[name]:.{digits}f}" for name in ("mean", "min", "max"))
    return mean if low == high == mean else f"{mean} ({low} to {high})"
