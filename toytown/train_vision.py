"""Train the toy town's CLIP from nothing, as CLIP is trained: pictures and captions that belong together get near.

Run as `python -m toytown.train_vision --work FOLDER`. Started again with the same folder, it goes on where it was
stopped. Log and the finished weights are left in that folder.
"""

from __future__ import annotations

import argparse
import hashlib
import pathlib
import random
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from magictailor.scores.regions import cut_out

from .backgrounds import BACKGROUNDS
from .captions import article
from .looks import COLOURS, PATTERNS, UNSEEN_COLOURS, UNSEEN_PATTERNS, Look, jittered
from .model import load_tokenizer
from .things import PARTS
from .train_model import Log, Stage, new_seeded, optimised
from .vision import MEAN, WIDTH, new_clip, normalised
from .world import Picture, Scene, render

ALL_COLOURS, ALL_PATTERNS = COLOURS | UNSEEN_COLOURS, (*PATTERNS, *UNSEEN_PATTERNS)
DARKER, LIGHTER = 0.93, 1.07  # of the named colour's brightness
HELD_OUT = 256
SIDE = 64


def any_look(rng: random.Random) -> Look:
    """Half of the looks have a colour that has a name, half any colour."""
    named = rng.random() < 0.5
    colour = jittered(rng.choice(list(ALL_COLOURS.values())), rng) if named else tuple(rng.choices(range(256), k=3))
    return Look(colour, rng.choice(ALL_PATTERNS))


def any_scene(rng: random.Random) -> Scene:
    return Scene(
        rng.choice(list(PARTS)), any_look(rng), any_look(rng), rng.choice(list(BACKGROUNDS)), rng.getrandbits(32)
    )


def named(look: Look) -> str:
    """Pattern and colour in words: "zigzag dark coral"."""
    name = min(ALL_COLOURS, key=lambda n: sum((a - b) ** 2 for a, b in zip(ALL_COLOURS[n], look.colour, strict=True)))
    ratio = (sum(look.colour) + 1) / (sum(ALL_COLOURS[name]) + 1)
    tone = "dark" if ratio < DARKER else "light" if ratio > LIGHTER else ""
    return " ".join(filter(None, ("" if look.pattern == "solid" else look.pattern, tone, name)))


def told(scene: Scene, part: str, rng: random.Random) -> str:
    """A caption of the whole picture, of its "body" or of its "part" alone."""
    body, component = f"{named(scene.body)} {scene.kind}", f"{named(scene.part)} {PARTS[scene.kind]}"
    if part == "body":
        return article(body)
    if part == "part":
        return article(component)
    background = BACKGROUNDS[scene.background]
    chance = rng.random()
    if chance < 0.15:
        return f"{article(scene.kind)} {background}"
    return f"{article(body)} with {article(component)} {background}"


def views(picture: Picture) -> np.ndarray:
    """The whole picture, its body and its part cut out, (3, 64, 64, 3) uint8."""
    pixels = torch.from_numpy(picture.pixels).permute(2, 0, 1).float() / 255
    colour = torch.tensor(MEAN)
    cut = [cut_out(pixels, torch.from_numpy(mask).float(), colour) for mask in (picture.body, picture.part)]
    fitted = [F.interpolate(one[None], (SIDE, SIDE), mode="bicubic", antialias=True)[0] for one in cut]
    return (torch.stack([pixels, *fitted]).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()


def pictures_of(scenes: Sequence[Scene], path: pathlib.Path) -> np.ndarray:
    """Views of all scenes, (N, 3, 64, 64, 3) uint8, kept in a file."""
    if not path.exists():
        stacked = np.stack([views(render(scene)) for scene in tqdm(scenes, desc="pictures")])
        partial = path.with_name(f"partial_{path.name}")
        np.save(partial, stacked)
        partial.replace(path)
    return np.load(path, mmap_mode="r")


class Batches:
    """Pictures and their captions, which follow from the step."""

    def __init__(self, scenes: Sequence[Scene], pictures: np.ndarray, size: int, seed: int):
        self.scenes, self.pictures, self.size, self.seed = scenes, pictures, size, seed
        self.tokenizer = load_tokenizer()

    def __call__(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        rng, words = np.random.default_rng((self.seed, 5, step)), random.Random(f"vision {self.seed} {step}")
        chosen = rng.choice(len(self.scenes), self.size, replace=False)
        parts = rng.choice(3, self.size, p=(0.3, 0.35, 0.35))
        texts = [told(self.scenes[n], ("whole", "body", "part")[p], words) for n, p in zip(chosen, parts, strict=True)]
        pixels = torch.from_numpy(self.pictures[chosen, parts]).permute(0, 3, 1, 2).float() / 255
        return softened(pixels, rng), self.tokenizer(texts, padding=True, return_tensors="pt")


def softened(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """Half of the pictures as a drawing network leaves them: mirrored or not, a little blurred and noisy."""
    pixels = torch.where(torch.from_numpy(rng.random((len(pixels), 1, 1, 1)) < 0.5), pixels, pixels.flip(-1))
    weak = F.interpolate(F.avg_pool2d(pixels, 2), scale_factor=2.0, mode="bilinear")
    share = torch.from_numpy(rng.uniform(-0.6, 0.6, (len(pixels), 1, 1, 1))).float().clamp(min=0.0)
    noise = torch.from_numpy(rng.standard_normal(pixels.shape, dtype=np.float32))
    return (torch.lerp(pixels, weak, share) + 0.03 * noise).clamp(0.0, 1.0)


def contrastive_loss(clip: nn.Module, pixels: Tensor, texts: dict[str, Tensor]) -> Tensor:
    """Of CLIP (Radford et al. 2021): each picture has to find its caption among all, and each caption its picture."""
    # in parts of equal captions there is nothing to tell apart
    found = clip(pixel_values=normalised(pixels), **texts)
    ids = texts["input_ids"]
    same = (ids[:, None] == ids[None]).all(dim=-1).float()
    wanted = same / same.sum(dim=1, keepdim=True)
    logits = found.logits_per_image
    return (F.cross_entropy(logits, wanted) + F.cross_entropy(logits.T, wanted)) / 2


@torch.no_grad()
def top_one(clip: nn.Module, batches: Batches) -> float:
    """Share of held-out pictures that find a caption equal to theirs first."""
    pixels, texts = batches(0)
    best = clip(pixel_values=normalised(pixels), **texts).logits_per_image.argmax(dim=1)
    ids = texts["input_ids"]
    return (ids[best] == ids).all(dim=-1).float().mean().item()


def main() -> None:
    options = parse_options()
    options.work.mkdir(parents=True, exist_ok=True)
    log = Log(options.work / "training.log")
    log(f"torch {torch.__version__}, {torch.get_num_threads()} threads, seed {options.seed}")
    rng = random.Random(options.seed + 50)
    scenes = [any_scene(rng) for _ in range(options.pictures + HELD_OUT)]
    pictures = pictures_of(scenes, options.work / "views.npy")
    known = Batches(scenes[:-HELD_OUT], pictures[:-HELD_OUT], options.batch, options.seed)
    held_out = Batches(scenes[-HELD_OUT:], pictures[-HELD_OUT:], HELD_OUT, options.seed)
    clip = new_seeded(options.seed, new_clip)

    def after_step(step: int) -> None:
        if (step + 1) % 250 == 0 or step + 1 == options.steps:
            log(
                f"vision: {top_one(clip.eval(), held_out):.3f} of {HELD_OUT} held-out pictures find their caption first"
            )
            clip.train()

    stage = Stage("vision", options.steps, options.batch, 1e-3)
    optimised(stage, {"clip": clip}, lambda step: contrastive_loss(clip, *known(step)), options, log, after_step)
    path = options.work / "vision.safetensors"
    kept = {name: tensor.half().contiguous() for name, tensor in clip.state_dict().items()}
    save_file(kept, path, {"width": str(WIDTH)})
    log(f"{path.name}: {path.stat().st_size} bytes, sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m toytown.train_vision", description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=pathlib.Path, required=True, help="folder for states and log")
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


if __name__ == "__main__":
    main()
