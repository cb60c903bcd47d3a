"""The scores of a batch of pictures, by every encoder and against every reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isnan, nan

import torch
from torch import Tensor

from ..errors import InputError
from ..reference import Reference, fitted
from .encoders import ComparesItself, Encoder, ReadsText
from .measures import Alike, agreement, cosines, likeness, merit, nearest, spread
from .regions import around, cut_out, is_there

CONCEPT, COMPONENT, BACKGROUND, PROMPT = "concept", "component", "background", "prompt"
MEASURES = (CONCEPT, COMPONENT, BACKGROUND, PROMPT)
# the best has both, is on a background of its own, and shows what was asked for
USUAL_WEIGHTS = {CONCEPT: 1.0, COMPONENT: 1.0, BACKGROUND: -0.5, PROMPT: 0.5}


@dataclass(frozen=True)
class Column:
    """One measure of all pictures.

    Attributes:
        title: "CLIP house".
        measure: one of `MEASURES`.
        values: of each picture, cosines; NaN of one that shows nothing, see `scored`.
        among: of the references among themselves; None where there is nothing to compare.
    """

    title: str
    measure: str
    values: tuple[float, ...]
    among: float | None = None


@dataclass(frozen=True)
class ScoreTable:
    """Scores of pictures, in their order.

    Attributes:
        columns: at least one; all of the same length.
    """

    columns: tuple[Column, ...]

    def __len__(self) -> int:
        return len(self.columns[0].values)

    def of(self, chosen: Sequence[int]) -> ScoreTable:
        """The table of some of the pictures."""
        return ScoreTable(tuple(replace(c, values=tuple(c.values[n] for n in chosen)) for c in self.columns))

    def best(self, count: int, weights: Mapping[str, float]) -> list[int]:
        """Numbers of the best pictures, the best first; those that show nothing come last.

        Args:
            count: at most so many.
            weights: by measure; columns of one measure share its weight.
        """
        found = {c.title: torch.tensor(c.values) for c in self.columns}
        shared = {m: sum(c.measure == m for c in self.columns) for m in MEASURES}
        each = {c.title: weights.get(c.measure, 0.0) / shared[c.measure] for c in self.columns}
        ranked = merit(found, each).nan_to_num(nan=-torch.inf)
        return torch.sort(ranked, descending=True, stable=True).indices[:count].tolist()

    def rows(self) -> list[dict[str, float]]:
        """A row for each picture."""
        return [{c.title: c.values[n] for c in self.columns} for n in range(len(self))]

    @property
    def likeness(self) -> list[float]:
        """Of each picture: the mean of its columns of concept and components."""
        of_things = [c.values for c in self.columns if c.measure in (CONCEPT, COMPONENT)]
        return [sum(values) / len(of_things) for values in zip(*of_things, strict=True)]

    @property
    def text(self) -> str:
        """A table for people: a line for each picture, their mean, and the references among themselves."""
        means = [float(torch.tensor(c.values).nanmean()) for c in self.columns]
        empty = [str(n + 1) for n, value in enumerate(self.columns[0].values) if isnan(value)]
        lines = [
            ["picture", *(c.title for c in self.columns)],
            *([str(n + 1), *(f"{c.values[n]:.3f}" for c in self.columns)] for n in range(len(self))),
            ["mean", *(f"{mean:.3f}" for mean in means)],
            ["references among themselves", *("" if c.among is None else f"{c.among:.3f}" for c in self.columns)],
        ]
        widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
        told = [f"picture {', '.join(empty)}: not finite, seen as black, so not scored"] if empty else []
        table = [
            "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip() for line in lines
        ]
        return "\n".join([*table, *told])

    @property
    def among(self) -> dict[str, float]:
        """Of the references among themselves, by the columns that have it."""
        return {c.title: c.among for c in self.columns if c.among is not None}


def scored(
    pictures: Sequence[Tensor],
    references: Sequence[Reference],
    encoders: Sequence[Encoder],
    masks: Sequence[Sequence[Tensor] | None] = (),
    prompts: Sequence[str] = (),
    names: Sequence[str] = (),
) -> ScoreTable:
    """Score pictures against what was learned.

    Args:
        pictures: (3, H, W) in [0, 1]; one that holds NaN or infinite values, which screens show as black, costs the
            others nothing: its scores are NaN.
        references: the concept first.
        encoders: each gives columns of its own.
        masks: of each reference, in their order, one (H, W) for each picture, where the thing is on it; without, or
            with None, the whole picture is compared. A thing that its mask does not find scores 0.
        prompts: one for each picture; CLIP-T is left out without.
        names: of the references in the columns' titles; without, their class words.

    Raises:
        InputError: there are no pictures or encoders, or not as many masks or prompts as pictures.
    """
    if not pictures:
        raise InputError("images", "there is no picture")
    if not encoders:
        raise InputError("encoders", "there is none; give at least one")
    for of_one in masks:
        if of_one is not None and len(of_one) != len(pictures):
            raise InputError("masks", f"there are {len(of_one)} masks for {len(pictures)} pictures")
    if prompts and len(prompts) != len(pictures):
        raise InputError("prompt", f"there are {len(prompts)} prompts for {len(pictures)} pictures")
    drawn = [bool(torch.isfinite(picture).all()) for picture in pictures]
    pictures = [p if there else torch.zeros_like(p) for p, there in zip(pictures, drawn, strict=True)]
    regions = [
        None if some is None else [fitted(m, p.shape[1:]) for m, p in zip(some, pictures, strict=True)]
        for some in masks
    ]
    words = told_apart(names or [reference.class_word for reference in references])
    columns: list[Column] = []
    for encoder, name in zip(encoders, told_apart([encoder.name for encoder in encoders]), strict=True):
        alike = encoder.alike if isinstance(encoder, ComparesItself) else cosines
        for number, (reference, word) in enumerate(zip(references, words, strict=True)):
            measure = COMPONENT if number else CONCEPT
            known = encoder.pictures(
                [cut_out(p, m, encoder.colour) for p, m in zip(reference.images, reference.masks, strict=True)]
            )
            of_thing = regions[number] if number < len(regions) else None
            values = _of_region(encoder, pictures, of_thing, known, alike)
            columns.append(Column(f"{name} {word}", measure, values, spread(known, alike)))
        behind = encoder.pictures(
            [
                around(p, m, encoder.colour)
                for reference in references
                for p, m in zip(reference.images, reference.masks, strict=True)
            ]
        )
        seen = [_behind(p, [r[n] for r in regions if r is not None], encoder) for n, p in enumerate(pictures)]
        values = _plain(nearest(encoder.pictures(seen), behind, alike))
        columns.append(Column(f"{name} background", BACKGROUND, values, spread(behind, alike)))
        if prompts and isinstance(encoder, ReadsText):
            values = _plain(agreement(encoder.pictures(pictures), encoder.texts(prompts)))
            columns.append(Column(f"{name} prompt", PROMPT, values))
    return ScoreTable(tuple(_of_drawn(column, drawn) for column in columns))


def told_apart(names: Sequence[str]) -> list[str]:
    """Names of which a repeated one gets a number: `eye`, `eye 2`."""
    return [
        name if (before := list(names[:n]).count(name)) == 0 else f"{name} {before + 1}" for n, name in enumerate(names)
    ]


def _of_region(
    encoder: Encoder, pictures: Sequence[Tensor], masks: Sequence[Tensor] | None, known: Tensor, alike: Alike
) -> tuple[float, ...]:
    if masks is None:
        return _plain(likeness(encoder.pictures(pictures), known, alike))
    there = [n for n, mask in enumerate(masks) if is_there(mask)]
    values = torch.zeros(len(pictures))
    if there:
        cut = [cut_out(pictures[n], masks[n], encoder.colour) for n in there]
        values[there] = likeness(encoder.pictures(cut), known, alike)
    return _plain(values)


def _behind(picture: Tensor, masks: Sequence[Tensor], encoder: Encoder) -> Tensor:
    return around(picture, torch.stack(list(masks)).amax(dim=0), encoder.colour) if masks else picture


def _of_drawn(column: Column, drawn: Sequence[bool]) -> Column:
    return replace(column, values=tuple(v if there else nan for v, there in zip(column.values, drawn, strict=True)))


def _plain(values: Tensor) -> tuple[float, ...]:
    return tuple(values.tolist())
