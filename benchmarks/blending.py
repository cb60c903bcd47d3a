"""Measures whether two tailorings that were learned apart keep both looks when they are blended, in toy town.

Run as `python -m benchmarks.blending --out FOLDER`. For each pair three trainings: together (the concept with the
component, as the paper does); the concept with another component; the component with another concept. The latter two
are blended, and `<a:v0> with <b:v1>` is drawn. Tailorings stay in FOLDER, so a second call only draws;
FOLDER/blending.json is written in the end.
"""

from __future__ import annotations

import argparse
import json
import pathlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from tqdm import tqdm

from magictailor.blend import blended
from magictailor.config import TailorConfig
from magictailor.formats.tailoring_file import load_tailoring, save_tailoring
from magictailor.tailoring import Tailoring, composed, put_into
from magictailor.training import Training
from toytown.analyser import analysed, load_analyser
from toytown.backgrounds import BACKGROUNDS
from toytown.looks import UNSEEN_COLOURS, Look
from toytown.measures import scores
from toytown.pairs import ASKED, MEASURED, Pair
from toytown.settings import SETTINGS, of_steps
from toytown.tailoring import drawn, references, trainable

OTHER = Look(UNSEEN_COLOURS["tan"], "solid")  # of what each is learned beside
STRENGTHS = (1.0, 0.8)
ALLOWED = 0.1  # of fidelity, that may be lost


def main() -> None:
    options = parse_options()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    found = {p.name: judged(p, options.out, options.steps, options.seeds) for p in MEASURED[: options.pairs]}
    (options.out / "blending.json").write_text(json.dumps(found, indent=1))
    print(as_table(found))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.blending", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for tailorings and blending.json")
    parser.add_argument("--pairs", type=int, default=2, help="how many of the toy town's pairs")
    parser.add_argument("--steps", type=int, default=400, help="of each training")
    parser.add_argument("--seeds", type=int, default=8, help="pictures on each background")
    return parser.parse_args()


Found = dict[str, dict[str, float]]
"""Mean fidelity of concept and component, by how they were learned."""


def judged(pair: Pair, folder: pathlib.Path, steps: int, seeds: int) -> Found:
    """One pair: learned together, and blended with each strength of both LoRAs."""
    together = learned(pair, folder / f"{pair.name}_together.safetensors", steps)
    apart = [
        learned(replace(pair, part=OTHER), folder / f"{pair.name}_concept.safetensors", steps).labelled("a"),
        learned(replace(pair, body=OTHER), folder / f"{pair.name}_component.safetensors", steps).labelled("b"),
    ]
    found = {"together": fidelity(pair, together, together.prompt, seeds)}
    for strength in STRENGTHS:
        both, _ = blended(apart, [strength, strength])
        found[f"blended at {strength:g}"] = fidelity(pair, both, composed(["<a:v0>", "<b:v1>"]), seeds)
    return found


def learned(pair: Pair, path: pathlib.Path, steps: int) -> Tailoring:
    """With the demo's settings; once, and then from disk."""
    if not path.exists():
        config = TailorConfig(**of_steps(steps), seed=pair.seed)
        training = Training(trainable(pair.class_words, config), references(pair), config)
        for _ in tqdm(training, total=steps, desc=path.stem):
            pass
        save_tailoring(training.result().tailoring, path)
    return load_tailoring(path)


def fidelity(pair: Pair, tailoring: Tailoring, prompt: str, seeds: int) -> dict[str, float]:
    """Of pictures before all backgrounds that are asked for, as the analyser sees them."""
    config = TailorConfig(**SETTINGS | {"lora_rank": tailoring.rank})
    model = trainable([token.class_word for token in tailoring.tokens], config)
    put_into(model, tailoring)
    asked = [(place, seed) for place in ASKED for seed in range(seeds)]
    pictures = drawn(model, [f"{prompt} {BACKGROUNDS[place]}" for place, _ in asked], [seed for _, seed in asked])
    seen = [
        scores(pair, place, picture, finding)
        for (place, _), picture, finding in zip(asked, pictures, analysed(load_analyser(), pictures), strict=True)
    ]
    return {name: float(np.mean([getattr(one, name) for one in seen])) for name in ("concept", "component")}


def as_table(found: dict[str, Found]) -> str:
    """A row for each way to learn, means over all pairs, and whether blending keeps what `ALLOWED` says."""
    lines = ["| | concept | component | both | less than together |", "|---|---|---|---|---|"]
    means = {way: mean_of([one[way] for one in found.values()]) for way in next(iter(found.values()))}
    best = means["together"][2]
    for way, (concept, component, both) in means.items():
        lost = "" if way == "together" else f"{best - both:.2f}{'' if best - both <= ALLOWED else ' (too much)'}"
        lines.append(f"| {way} | {concept:.2f} | {component:.2f} | {both:.2f} | {lost} |")
    return "\n".join(lines)


def mean_of(some: Sequence[dict[str, float]]) -> tuple[float, float, float]:
    concept, component = (float(np.mean([one[name] for one in some])) for name in ("concept", "component"))
    return concept, component, (concept + component) / 2


if __name__ == "__main__":
    main()
