"""What happened in each step of a training, as curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from ..training import StepReport

# Okabe and Ito (2008): colours that most kinds of colour blindness tell apart
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#F0E442")
DOTS_PER_INCH = 100
LONGEST_MEAN = 25
LETTERS = 34  # of a name in a line of the legend
MOST_LINES = 3


Likeness = Mapping[int, Sequence[float]]
"""By the step after which a sample was drawn: how alike it is to each reference, the concept first."""


def best_step(likeness: Likeness) -> int:
    """The step whose sample is most like all references taken together; the earliest of several."""
    return max(likeness, key=lambda step: (sum(likeness[step]), -step))


def draw_curves(
    figure: Figure | SubFigure,
    history: Sequence[StepReport],
    names: Sequence[str],
    likeness: Likeness | None = None,
) -> None:
    """Draw the loss of each reference, the degradation weight and the learning rate over the steps.

    Args:
        figure: what to draw on; it gets three panels, one above the other, and a fourth for likeness.
        history: reports of the steps done so far, at least one.
        names: of the references, the concept's first.
        likeness: of samples on the way; the best is marked. None or empty: no panel.
    """
    heights = (3, 1.5, 1, 1) if likeness else (3, 1, 1)
    losses, *alike, degradation, rate = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    steps = [report.step for report in history]
    marker = "." if len(history) == 1 else ""  # one point makes no line
    for number, name in enumerate(names):
        colour = COLOURS[number % len(COLOURS)]
        values = [report.diffusion[number] for report in history]
        losses.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
        label = wrapped(name, LETTERS)
        losses.plot(steps, trailing_mean(values), color=colour, linewidth=1.8, marker=marker, label=label)
    losses.set_yscale("log")
    legend = figure.legend(
        *losses.get_legend_handles_labels(), loc="outside upper right", ncols=2, fontsize="small", frameon=False
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    weights = [report.degradation_weight for report in history]
    degradation.plot(steps, weights, color="black", marker=marker)
    degradation.set_ylim(0.0, 1.1 * max(weights) or 1.0)
    rates = [report.learning_rate for report in history]
    rate.plot(steps, rates, color="black", drawstyle="steps-mid", marker=marker)
    rate.set_yscale("log")
    rate.set_xlim(1, max(history[-1].total_steps, 2))
    rate.set_xlabel("step")
    rate.xaxis.set_major_locator(MaxNLocator(integer=True))
    titled = [(losses, "loss"), (degradation, "degradation"), (rate, "learning rate")]
    if likeness:
        _draw_likeness(alike[0], likeness)
        titled.append((alike[0], f"likeness of samples, best after step {best_step(likeness)}"))
    for panel, title in titled:
        panel.set_title(title, loc="left", fontsize="medium")
        panel.grid(alpha=0.3)
    _mark_second_phase([panel for panel, _ in titled], history)


def _draw_likeness(panel: Axes, likeness: Likeness) -> None:
    steps = sorted(likeness)
    for number, values in enumerate(zip(*(likeness[step] for step in steps), strict=True)):
        panel.plot(steps, values, color=COLOURS[number % len(COLOURS)], linewidth=1.8, marker=".")
    panel.axvline(best_step(likeness), color="black", linewidth=1.0)


def wrapped(text: str, letters: int) -> str:
    """A text in lines of so many letters; after `MOST_LINES` of them it is cut off, and says so with an ellipsis."""
    lines = wrap(text, letters, break_on_hyphens=False)
    if len(lines) > MOST_LINES:
        lines = [*lines[: MOST_LINES - 1], lines[MOST_LINES - 1][: letters - 1] + "\N{HORIZONTAL ELLIPSIS}"]
    return "\n".join(lines)


def _mark_second_phase(panels: Sequence[Axes], history: Sequence[StepReport]) -> None:
    begin = next((report for report in history if report.phase != history[0].phase), None)
    if begin is None:
        return
    for panel in panels:
        panel.axvline(begin.step - 0.5, color="grey", linestyle="--", linewidth=1.0)
    panels[0].annotate(
        f" {begin.phase}", (begin.step - 0.5, 0.02), xycoords=("data", "axes fraction"), fontsize="small", color="grey"
    )


def trailing_mean(values: Sequence[float], longest: int = LONGEST_MEAN) -> list[float]:
    """For every value, the mean of it and up to longest - 1 before it."""
    sums = np.cumsum([0.0, *values])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - longest, 0)
    return ((sums[ends] - sums[starts]) / (ends - starts)).tolist()


def as_picture(figure: Figure) -> Image.Image:
    """A figure as an RGB picture."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
