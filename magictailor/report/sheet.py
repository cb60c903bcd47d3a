"""Pictures of a training: one to look at meanwhile, and the sheet that is left afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from PIL import Image
from torch import Tensor

from ..backbones.protocol import Backbone
from ..masks.overlay import overlay
from ..pictures import prepare
from ..reference import Reference
from ..sampling import Sketcher
from ..tokens import PROMPT, token_name
from ..training import StepReport
from .curves import DOTS_PER_INCH, Likeness, as_picture, draw_curves, wrapped
from .fonts import fonts_for
from .heatmaps import heat_map, word_attention

WIDTH = 6  # pictures in a line
TILE = 2.6  # width of a picture in inches
LINE = 3.2  # height of a line of pictures
CURVES = 5.0  # height of the curves
LETTERS = 34  # of a caption above a picture
NOISE_LEVEL = 0.4  # of the picture whose attention is shown: less shows texture, more shows layout


@dataclass(frozen=True)
class Row:
    """Pictures of a sheet that stand side by side.

    Attributes:
        title: what they have in common.
        pictures: (3, H, W) in [0, 1] each.
        captions: one for each picture.
    """

    title: str
    pictures: Sequence[Tensor]
    captions: Sequence[str]


def reference_names(references: Sequence[Reference]) -> list[str]:
    """`<v0> = house`, `<v1> = roof`, ..."""
    return [f"{token_name(n)} = {reference.class_word}" for n, reference in enumerate(references)]


def live_picture(
    drawn: Tensor,
    caption: str,
    history: Sequence[StepReport],
    names: Sequence[str],
    likeness: Likeness | None = None,
) -> Image.Image:
    """What a model under training draws, (3, H, W) in [0, 1], beside the curves so far.

    Args:
        caption: what was drawn.
        history, names, likeness: as in `draw_curves`.
    """
    # as wide as the place a node keeps for pictures
    with fonts_for(caption + "".join(names)):
        figure = Figure(figsize=(8.4, 4.4), dpi=DOTS_PER_INCH, layout="constrained")
        left, right = np.ravel(figure.subfigures(1, 2, squeeze=False))
        _show(left.subplots(), drawn, caption)
        draw_curves(right, history, names, likeness)
        return as_picture(figure)


def training_report(
    model: Backbone,
    references: Sequence[Reference],
    resolution: int,
    history: Sequence[StepReport],
    sketcher: Sketcher | None,
    prompt: str,
    likeness: Likeness | None = None,
) -> Image.Image:
    """A sheet that shows what was learned from, how it went, where the model looks and what it draws.

    Args:
        model: trained.
        references: it was trained on.
        resolution: it was trained at.
        history: reports of all steps.
        sketcher: draws the samples; None leaves them out.
        prompt: what is drawn; the concept and each component are drawn alone as well.
        likeness: of samples on the way, as in `draw_curves`.
    """
    names = reference_names(references)
    learned = [learned_from(name, reference, resolution) for name, reference in zip(names, references, strict=True)]
    rows = [attention_on_references(model, references, resolution)]
    if sketcher is not None:
        rows += samples(model, sketcher, prompt, names)
    return sheet(learned, history, names, rows, likeness)


def learned_from(name: str, reference: Reference, resolution: int) -> Row:
    """The pictures of a reference as they were cropped for training, what was learned tinted."""
    pictures, masks = prepare(reference, resolution)
    shown = [overlay(picture, mask[0]) for picture, mask in zip(pictures, masks, strict=True)][:WIDTH]
    left_out = f" (the first {len(shown)} of {len(pictures)} pictures)" if len(pictures) > len(shown) else ""
    return Row(f"Learned from: {name}{left_out}", shown, [""] * len(shown))


def attention_on_references(model: Backbone, references: Sequence[Reference], resolution: int) -> Row:
    """Where the network looks for each token, on its own first picture."""
    shown, captions = [], []
    for number, (name, reference) in enumerate(zip(reference_names(references), references, strict=True)):
        picture = prepare(reference, resolution)[0][:1]
        latents = _encoded(model, picture)
        token = token_name(number)
        attention = _attention(model, latents, f"{PROMPT} {token}", [token])[0]
        shown.append(heat_map(picture[0], attention))
        captions.append(f"{name}, peak {attention.max():.2g}")
    return Row(f'Attention on the pictures learned from ("{PROMPT} <vN>")', shown, captions)


def samples(model: Backbone, sketcher: Sketcher, prompt: str, names: Sequence[str]) -> list[Row]:
    """What the model draws for the prompt and each token alone, and where it looks for the tokens in the prompt."""
    latents = sketcher.latents(prompt, seed=0)
    first = sketcher.picture(latents)
    tokens = [token_name(n) for n in range(len(names))]
    more = [(prompt, 1), *((token, 0) for token in tokens if token != prompt)]
    drawn = [first, *(sketcher.picture(sketcher.latents(text, seed)) for text, seed in more)]
    rows = [Row("Samples", drawn, [prompt, *(text for text, _ in more)])]
    inside = [token for token in tokens if token in prompt]
    if inside:
        attention = _attention(model, latents, prompt, inside)
        pictures = [heat_map(first, one) for one in attention]
        captions = [f"{token}, peak {one.max():.2g}" for token, one in zip(inside, attention, strict=True)]
        rows.append(Row(f'Attention on the first sample ("{prompt}")', pictures, captions))
    return rows


def sheet(
    above: Sequence[Row],
    history: Sequence[StepReport],
    names: Sequence[str],
    below: Sequence[Row],
    likeness: Likeness | None = None,
) -> Image.Image:
    """Rows of pictures above and below the curves; short rows share a line."""
    upper, lower = lines_of(above), lines_of(below)
    written = [text for row in (*above, *below) for text in (row.title, *row.captions)]
    with fonts_for("".join([*names, *written])):
        heights = [LINE] * len(upper) + [CURVES] + [LINE] * len(lower)
        figure = Figure(figsize=(WIDTH * TILE, fsum(heights)), dpi=DOTS_PER_INCH, layout="constrained")
        bands = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
        for band, line in zip(bands[: len(upper)], upper, strict=True):
            _draw_line(band, line)
        draw_curves(bands[len(upper)], history, names, likeness)
        for band, line in zip(bands[len(upper) + 1 :], lower, strict=True):
            _draw_line(band, line)
        return as_picture(figure)


def lines_of(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows in lines of at most `WIDTH` pictures; a longer row goes on in the next line, without a title."""
    parts = [
        Row(
            row.title if start == 0 else "",
            row.pictures[start : start + WIDTH],
            row.captions[start : start + WIDTH],
        )
        for row in rows
        for start in range(0, len(row.pictures), WIDTH)
    ]
    lines: list[list[Row]] = []
    for part in parts:
        if lines and sum(len(row.pictures) for row in (*lines[-1], part)) <= WIDTH:
            lines[-1].append(part)
        else:
            lines.append([part])
    return lines


def _draw_line(band: SubFigure, line: Sequence[Row]) -> None:
    counts = [len(row.pictures) for row in line]
    left_over = WIDTH - sum(counts)
    widths = counts + [left_over] * bool(left_over)
    places = np.ravel(band.subfigures(1, len(widths), width_ratios=widths, squeeze=False))
    for place, row in zip(places, line, strict=False):
        title = wrapped(row.title, LETTERS * len(row.pictures))
        place.suptitle(
            title, x=0.02, horizontalalignment="left", fontsize="medium", fontweight="bold", parse_math=False
        )
        panels = place.subplots(1, len(row.pictures), squeeze=False)[0]
        for panel, picture, caption in zip(panels, row.pictures, row.captions, strict=True):
            _show(panel, picture, caption)


def _show(panel: Axes, picture: Tensor, caption: str) -> None:
    panel.imshow(picture.movedim(0, -1).numpy())
    panel.set_axis_off()
    # a prompt may hold dollar signs, which are no formulas
    panel.set_title(wrapped(caption, LETTERS), fontsize="small", parse_math=False)


def _encoded(model: Backbone, pictures: Tensor) -> Tensor:
    """The middle of the autoencoder's answer for pictures (B, 3, R, R) in [0, 1]."""
    images = pictures.to(model.device) * 2.0 - 1.0
    return model.encode(images, torch.zeros((), device=model.device))


def _attention(model: Backbone, latents: Tensor, prompt: str, words: Sequence[str]) -> Tensor:
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0)).to(model.device)
    return word_attention(model, latents, noise, NOISE_LEVEL, prompt, words).cpu()
