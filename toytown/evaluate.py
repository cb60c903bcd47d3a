"""States how often the model draws what a prompt says, as the analyser sees it.

Run as `python -m toytown.evaluate` to print it for the shipped weights, or with `--record` to keep it, and the hashes
of the weights, in record.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import pathlib
import random
from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from .analyser import WEIGHTS, Finding, analysed, load_analyser
from .captions import caption
from .looks import nearest_colour
from .model import CHECKPOINT, FOLDER, load_checkpoint
from .sampling import encoded_prompts, sample
from .train_model import training_scenes
from .world import Scene, random_scene

RECORD = FOLDER / "record.json"
BATCH = 40


def held_out_scenes(count: int, known: Sequence[Scene]) -> list[Scene]:
    """Scenes whose whole caption is that of none of the known ones."""
    captions = {caption(scene) for scene in known}
    rng, found = random.Random(4000), []
    while len(found) < count:
        scene = random_scene(rng)
        if caption(scene) not in captions:
            captions.add(caption(scene))
            found.append(scene)
    return found


def right_answers(scene: Scene, found: Finding) -> dict[str, bool]:
    """What of a prompt is seen in its picture."""
    kind, background = found.kind == scene.kind, found.background == scene.background
    body = found.body_colour == nearest_colour(scene.body.colour)
    part = found.part_colour == nearest_colour(scene.part.colour)
    patterns = (found.body_look.pattern, found.part_look.pattern) == (scene.body.pattern, scene.part.pattern)
    return {
        "background and kind": background and kind,
        "both colours on the right parts": body and part,
        "background": background,
        "kind": kind,
        "colour of the body": body,
        "colour of the part": part,
        "both patterns": patterns,
    }


def evaluate(checkpoint: pathlib.Path, prompts: int, seeds: int) -> dict[str, float]:
    """Shares of right answers over `prompts` x `seeds` pictures."""
    town, analyser = load_checkpoint(checkpoint), load_analyser()
    asked = [(scene, seed) for scene in held_out_scenes(prompts, training_scenes()) for seed in range(seeds)]
    answers = []
    for start in tqdm(range(0, len(asked), BATCH), desc="pictures"):
        some = asked[start : start + BATCH]
        hidden = encoded_prompts(town, [caption(scene) for scene, _ in some])
        found = analysed(analyser, sample(town, hidden, [seed for _, seed in some]))
        answers += [right_answers(scene, finding) for (scene, _), finding in zip(some, found, strict=True)]
    return {name: round(float(np.mean([answer[name] for answer in answers])), 4) for name in answers[0]}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m toytown.evaluate", description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=pathlib.Path, default=CHECKPOINT)
    parser.add_argument("--prompts", type=int, default=200, help="captions that no picture of the training had")
    parser.add_argument("--seeds", type=int, default=4, help="pictures for each prompt")
    parser.add_argument("--record", action="store_true", help="keep the result and the weights' hashes in record.json")
    options = parser.parse_args()
    result = evaluate(options.checkpoint, options.prompts, options.seeds)
    print(json.dumps(result, indent=1))
    if options.record:
        record = json.loads(RECORD.read_text())
        record["sha256"] = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (CHECKPOINT, WEIGHTS)}
        record["model"] = {"prompts": options.prompts, "seeds": options.seeds, **result}
        RECORD.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
