"""Measures MagicTailor against its ablations and its rivals in toy town.

Run as `python -m benchmarks.tailoring --out FOLDER`. Every method learns every pair once and draws every prompt with
every seed; several learn at a time, each on one core, or on the machines of a Ray cluster. A run that was stopped goes
on where it was; in the end FOLDER/scores.csv, FOLDER/table.md and FOLDER/plot.png are written. With `--tuning` all of
`CANDIDATES` are tried on the pairs called TUNING instead: that is how the learning rates of `METHODS` were found.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import pathlib
import statistics
import time
from collections.abc import Mapping, Sequence

from tqdm import tqdm

from magictailor.batch.jobs import Job, Outcome, Row, local_devices, perform
from magictailor.batch.on_ray import perform_on_ray
from magictailor.formats.csv_table import as_csv
from toytown.analyser import analysed, load_analyser
from toytown.backgrounds import BACKGROUNDS
from toytown.measures import bootstrap_interval, scores
from toytown.methods import CANDIDATES, METHODS, Method, prompt_of
from toytown.pairs import ASKED, MEASURED, TUNING, Pair
from toytown.tailoring import drawn

OURS = "MagicTailor"
MEASURES = {
    "fidelity": "fidelity, both",
    "concept": "concept fidelity",
    "component": "component fidelity",
    "spill": "spill",
    "text": "as asked",
}


def main() -> None:
    options = parse_options()
    options.out.mkdir(parents=True, exist_ok=True)
    candidates = {name: method for some in CANDIDATES.values() for name, method in some.items()}
    methods, pairs = (candidates, TUNING) if options.tuning else (METHODS, MEASURED)
    jobs = [
        Job(f"{pair.name} {name}", Learned(name, methods[name], pair, options.seeds))
        for pair in pairs
        for name in methods
    ]
    with tqdm(total=len(jobs), desc="methods x pairs") as bar:

        def after_job(job: Job, outcome: Outcome) -> None:
            bar.update()

        if options.ray:
            outcomes = perform_on_ray(measured, jobs, options.out / "jobs", options.ray, after_job=after_job)
        else:
            outcomes = perform(measured, jobs, options.out / "jobs", local_devices("cpu", options.workers), after_job)
    path = options.out / "scores.csv"
    path.write_text(as_csv([row for outcome in outcomes.values() for row in outcome.rows]))
    found = summary(read(path), list(methods))
    table = as_table(found)
    (options.out / "table.md").write_text(table)
    plot(found, options.out / "plot.png")
    print(table)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tailoring", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for scores.csv, table.md and plot.png")
    parser.add_argument("--seeds", type=int, default=8, help="pictures for each prompt")
    parser.add_argument("--tuning", action="store_true", help="try learning rates, on pairs that are not measured")
    parser.add_argument("--workers", type=int, default=0, help="trainings at a time; one for each core if not given")
    parser.add_argument("--ray", metavar="ADDRESS", help="learn on a Ray cluster, auto or host:port")
    return parser.parse_args()


@dataclasses.dataclass(frozen=True)
class Learned:
    """What one job measures: a method on a pair, with so many seeds for each prompt."""

    name: str
    method: Method
    pair: Pair
    seeds: int


def measured(job: Job, folder: pathlib.Path, device: str) -> list[Row]:
    """Train one method on one pair and score all its pictures."""
    task: Learned = job.task
    start = time.monotonic()
    model = task.method.trained(task.pair, seed=task.pair.seed)
    asked = [(background, seed) for background in ASKED for seed in range(task.seeds)]
    prompts = [prompt_of(task.method, task.pair, BACKGROUNDS[background]) for background, _ in asked]
    pictures = drawn(model, prompts, [seed for _, seed in asked])
    seconds = time.monotonic() - start
    found = analysed(load_analyser(), pictures)
    return [
        {
            "method": task.name,
            "pair": task.pair.name,
            "background": background,
            "seed": seed,
            **{k: round(v, 4) for k, v in dataclasses.asdict(scores(task.pair, background, picture, finding)).items()},
            "seconds": round(seconds, 1),
        }
        for (background, seed), picture, finding in zip(asked, pictures, found, strict=True)
    ]


def read(path: pathlib.Path) -> list[dict[str, str]]:
    """The rows of a CSV file; none if it is not there."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


Summary = dict[str, dict[str, tuple[float, float, float]]]


def merit(measures: Mapping[str, tuple[float, float, float]]) -> float:
    """What candidates are compared by: both fidelities, what was asked for, and no spill."""
    fidelity, text, spill = (measures[name][0] for name in ("fidelity", "text", "spill"))
    return fidelity + text - spill


def summary(rows: Sequence[Mapping[str, str]], methods: Sequence[str]) -> Summary:
    """Mean over pairs of each measure, and the ends of its 95 percent interval, by method and measure.

    "lead" is how much more fidelity MagicTailor has on the same pairs; it has none over itself.
    """
    result: Summary = {}
    for method in methods:
        found = {measure: list(by_pair(rows, method, measure).values()) for measure in MEASURES}
        if not found["fidelity"]:
            continue
        ours, other = (by_pair(rows, name, "fidelity") for name in (OURS, method))
        if method != OURS and (shared := ours.keys() & other.keys()):
            found["lead"] = [ours[pair] - other[pair] for pair in sorted(shared)]
        result[method] = {name: (statistics.mean(some), *bootstrap_interval(some)) for name, some in found.items()}
    return result


def by_pair(rows: Sequence[Mapping[str, str]], method: str, measure: str) -> dict[str, float]:
    """A method's mean of one measure on each pair, by the pair's name."""
    mine = [row for row in rows if row["method"] == method]
    return {
        pair: statistics.mean(value_of(row, measure) for row in mine if row["pair"] == pair)
        for pair in sorted({row["pair"] for row in mine})
    }


def value_of(row: Mapping[str, str], measure: str) -> float:
    """One measure of one picture; "fidelity" is the sum over concept and component."""
    if measure == "fidelity":
        return float(row["concept"]) + float(row["component"])
    return float(row[measure])


def as_table(found: Summary) -> str:
    """A Markdown table, mean [interval]."""
    columns = MEASURES | ({"lead": f"lead of {OURS} in fidelity"} if OURS in found else {})
    lines = ["| method | " + " | ".join(columns.values()) + " |", "|---" * (1 + len(columns)) + "|"]
    for method, measures in found.items():
        cells = [_cell(measures[name]) if name in measures else "" for name in columns]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(interval: tuple[float, float, float]) -> str:
    mean, low, high = interval
    return f"{mean:.2f} [{low:.2f}, {high:.2f}]"


def plot(found: Summary, path: pathlib.Path) -> None:
    """One panel for each measure, a dot and its interval for each method."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(MEASURES), figsize=(15, 0.4 * len(found) + 1.4), sharey=True)
    names = list(found)
    for axis, (measure, title) in zip(axes, MEASURES.items(), strict=True):
        for line, name in enumerate(names):
            mean, low, high = found[name][measure]
            colour = "tab:red" if name == OURS else "tab:blue"
            axis.errorbar(mean, line, xerr=[[mean - low], [high - mean]], fmt="o", color=colour)
        axis.set_title(title, fontsize=10)
        axis.set_yticks(range(len(names)), names)
        axis.grid(axis="x", alpha=0.3)
    axes[0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
