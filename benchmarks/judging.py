"""Measures whether MagicTailor Score ranks pictures as the toy town's analyser does.

Run as `python -m benchmarks.judging --out FOLDER`. Each pair is learned once and drawn at five stages of its training,
so that the pictures differ in how good they are. The toy town's CLIP, which has never seen the generator or the
analyser, scores them. Pictures and tailorings stay in FOLDER, so a second call only scores; FOLDER/judging.json is
written in the end.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import random
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from magictailor.config import TailorConfig
from magictailor.formats.tailoring_file import save_tailoring
from magictailor.scores.table import BACKGROUND, COMPONENT, CONCEPT, ScoreTable, scored
from magictailor.training import Training
from toytown.analyser import Finding, analysed, load_analyser
from toytown.backgrounds import BACKGROUNDS as PLACES
from toytown.looks import PATTERNS, UNSEEN_PATTERNS, Look
from toytown.measures import scores
from toytown.pairs import ASKED, BACKGROUNDS, MEASURED, SHOWN, Pair
from toytown.scoring import load_encoder
from toytown.settings import SETTINGS
from toytown.tailoring import drawn, references, trainable
from toytown.train_vision import any_look
from toytown.world import Picture, Scene, render

PAIRS = (SHOWN, *MEASURED)
STAGES = (80, 160, 240, 320, 400)
SEEDS = 10  # of each stage and background: 200 pictures in all
RENDERED = 100  # of each kind: on the references' backgrounds, and on others


def main() -> None:
    options = parse_options()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    result = {pair.name: judged(pair, options.out) for pair in PAIRS[: options.pairs]}
    means = {name: float(np.mean([one[name] for one in result.values()])) for name in next(iter(result.values()))}
    (options.out / "judging.json").write_text(json.dumps({**result, "mean": means}, indent=1))
    for name, found in {**result, "mean": means}.items():
        print(name, ", ".join(f"{measure} {value:.3f}" for measure, value in found.items()))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.judging", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for pictures and judging.json")
    parser.add_argument("--pairs", type=int, default=4, help="how many of the pairs")
    return parser.parse_args()


def judged(pair: Pair, folder: pathlib.Path) -> dict[str, float]:
    """How far scores agree with the analyser on one pair.

    Returns:
        "drawn", Spearman's correlation of likeness and fidelity over the drawn pictures; "rendered", the same over
        renderings; "lift" of the kept quarter's mean fidelity in deviations of all that were drawn; "copied" as
        `found_copies` gives it.
    """
    pictures = pictures_of(pair, folder / f"{pair.name}.npy")
    table, fidelity = table_and_fidelity(pair, pictures)
    rendered, of_rendered = table_and_fidelity(pair, renderings(pair))
    kept = table.best(len(pictures) // 4, {CONCEPT: 1.0, COMPONENT: 1.0})
    return {
        "drawn": spearman(np.array(table.likeness), fidelity),
        "rendered": spearman(np.array(rendered.likeness), of_rendered),
        "lift": float((fidelity[kept].mean() - fidelity.mean()) / fidelity.std()),
        "copied": found_copies(pair),
    }


def pictures_of(pair: Pair, path: pathlib.Path) -> np.ndarray:
    """Pictures of all stages, (200, 64, 64, 3) uint8, drawn once and kept."""
    if not path.exists():
        model = trainable(pair.class_words, config := TailorConfig(**SETTINGS, seed=pair.seed))
        training, pictures = Training(model, references(pair), config), []
        for report in tqdm(training, total=config.total_steps, desc=pair.name):
            if report.step in STAGES:
                prompts = [f"<v0> with <v1> {PLACES[place]}" for place in ASKED for _ in range(SEEDS)]
                seeds = [100 * report.step + n for n in range(len(prompts))]
                pictures.append(drawn(model, prompts, seeds))
        save_tailoring(training.result().tailoring, path.with_suffix(".safetensors"))
        np.save(path, np.concatenate(pictures))
    return np.load(path)


def renderings(pair: Pair) -> np.ndarray:
    """200 renderings whose looks are right, of another shade, of another pattern or any, (200, 64, 64, 3) uint8."""
    rng = random.Random(pair.seed)

    def changed(look: Look) -> Look:
        chance = rng.random()
        if chance < 0.25:
            return look
        if chance < 0.5:
            return Look(tuple(min(255, max(0, c + rng.randint(-60, 60))) for c in look.colour), look.pattern)
        return Look(look.colour, rng.choice((*PATTERNS, *UNSEEN_PATTERNS))) if chance < 0.75 else any_look(rng)

    scenes = [
        Scene(pair.concept, changed(pair.body), changed(pair.part), rng.choice(ASKED), rng.getrandbits(32))
        for _ in range(2 * RENDERED)
    ]
    return np.stack([render(scene).pixels for scene in scenes])


def table_and_fidelity(pair: Pair, pictures: np.ndarray) -> tuple[ScoreTable, np.ndarray]:
    """The scores of pictures, and their fidelity as the analyser sees it: the mean of concept and component."""
    findings = analysed(load_analyser(), pictures)
    # which background was asked for makes no difference to fidelity
    seen = [scores(pair, ASKED[0], p, f) for p, f in zip(pictures, findings, strict=True)]
    return table_of(pair, pictures, findings), np.array([(one.concept + one.component) / 2 for one in seen])


def table_of(pair: Pair, pictures: np.ndarray, findings: Sequence[Finding]) -> ScoreTable:
    """The scores of pictures (B, 64, 64, 3) uint8, in the outlines that the analyser found."""
    shown = [as_tensor(picture) for picture in pictures]
    return scored(shown, references(pair), [load_encoder()], masks_of(findings))


def found_copies(pair: Pair, count: int = RENDERED) -> float:
    """How often a rendering on a background of the references has more of it than one on another (0.5 by chance)."""
    look = {"kind": pair.concept, "body": pair.body, "part": pair.part}
    copied, other = (
        [render(Scene(**look, background=places[n % len(places)], layout=7000 + n)) for n in range(count)]
        for places in (BACKGROUNDS, ASKED)
    )
    shown = [*copied, *other]
    table = scored([as_tensor(p.pixels) for p in shown], references(pair), [load_encoder()], masks_of(shown))
    (values,) = (np.array(column.values) for column in table.columns if column.measure == BACKGROUND)
    return float((values[:count, None] > values[None, count:]).mean())


def masks_of(things: Sequence[Finding | Picture]) -> list[list[Tensor]]:
    """Outlines of all bodies, and of all parts."""
    return [
        [torch.from_numpy(mask).float() for mask in masks]
        for masks in ([thing.body for thing in things], [thing.part for thing in things])
    ]


def as_tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    """The correlation of ranks; equal values share the mean of theirs."""
    first, second = (_ranks(values) for values in (one, other))
    return float(np.corrcoef(first, second)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


if __name__ == "__main__":
    main()
