"""A network that says what a toy town picture shows. It is trained on renderings only and never sees the generator.

Run as `python -m toytown.analyser --work FOLDER` to train it from nothing and state its accuracy.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import random

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from .backgrounds import BACKGROUNDS
from .looks import PATTERNS, UNSEEN_PATTERNS, Look, nearest_colour
from .things import PARTS
from .world import Picture, Scene, random_scene, render

WEIGHTS = pathlib.Path(__file__).resolve().parent / "analyser.safetensors"
KINDS, PLACES, ALL_PATTERNS = list(PARTS), list(BACKGROUNDS), [*PATTERNS, *UNSEEN_PATTERNS]
OUTSIDE, BODY, PART = 0, 1, 2


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one picture shows; `body` and `part` are masks (64, 64) bool."""

    kind: str
    background: str
    body_look: Look
    part_look: Look
    body: np.ndarray
    part: np.ndarray

    @property
    def body_colour(self) -> str:
        return nearest_colour(self.body_look.colour)

    @property
    def part_colour(self) -> str:
        return nearest_colour(self.part_look.colour)


class Analyser(nn.Module):
    """Outlines body and part, and describes each from the features inside its outline."""

    def __init__(self):
        super().__init__()
        self.down1, self.down2, self.down3, self.down4 = (
            _block(3, 24), _block(24, 48), _block(48, 96), _block(96, 128),
        )  # fmt: skip
        self.up3, self.up2, self.up1 = _block(128 + 96, 64), _block(64 + 48, 32), _block(32 + 24, 24)
        self.regions = nn.Conv2d(24, 3, 1)
        described = 24 + 48 + 96 + 3
        self.kind = _head(described * 3 + 128, len(KINDS))
        self.background = _head(described * 3 + 128, len(PLACES))
        self.colour = _head(described, 3)
        self.pattern = _head(described, len(ALL_PATTERNS))

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """
        Args:
            pictures: (B, 3, 64, 64) in [-1, 1].

        Returns:
            logits of "regions" (B, 3, 64, 64), "kind" (B, 8), "background" (B, 8) and "pattern" (B, 2, 7), and "colour"
            (B, 2, 3) in [-1, 1]; of body and part in that order.
        """
        fine = self.down1(pictures)
        middle = self.down2(F.avg_pool2d(fine, 2))
        coarse = self.down3(F.avg_pool2d(middle, 2))
        whole = self.down4(F.avg_pool2d(coarse, 2))
        up = self.up3(torch.cat([_doubled(whole), coarse], 1))
        up = self.up2(torch.cat([_doubled(up), middle], 1))
        up = self.up1(torch.cat([_doubled(up), fine], 1))
        regions = self.regions(up)
        shares = regions.softmax(1)
        features = [
            pooled
            for level, size in ((pictures, 1), (fine, 1), (middle, 2), (coarse, 4))
            for pooled in [_pooled(level, F.avg_pool2d(shares, size) if size > 1 else shares)]
        ]
        described = torch.cat(features, -1)  # (B, 3, C)
        everything = torch.cat([described.flatten(1), whole.mean(dim=(2, 3))], 1)
        things = described[:, [BODY, PART]]
        return {
            "regions": regions,
            "kind": self.kind(everything),
            "background": self.background(everything),
            "colour": self.colour(things),
            "pattern": self.pattern(things),
        }


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


def _head(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 96), nn.ReLU(), nn.Linear(96, outputs))


def _doubled(features: Tensor) -> Tensor:
    return F.interpolate(features, scale_factor=2)


def _pooled(features: Tensor, shares: Tensor) -> Tensor:
    """Means of (B, C, h, w) in regions (B, R, h, w), (B, R, C)."""
    shares = shares / shares.sum(dim=(2, 3), keepdim=True).clamp_min(1e-3)
    return torch.einsum("bchw,brhw->brc", features, shares)


def load_analyser() -> Analyser:
    """The shipped analyser."""
    analyser = Analyser()
    analyser.load_state_dict({key: w.float() if w.is_floating_point() else w for key, w in load_file(WEIGHTS).items()})
    return analyser.eval().requires_grad_(False)


@torch.no_grad()
def analysed(analyser: Analyser, pictures: np.ndarray) -> list[Finding]:
    """What each of (B, 64, 64, 3) uint8 shows."""
    found = analyser(_as_input(pictures))
    regions = found["regions"].argmax(1).numpy()
    colours = ((found["colour"].clamp(-1, 1) + 1) * 127.5).round().int().tolist()
    patterns = found["pattern"].argmax(-1).tolist()
    return [
        Finding(
            KINDS[kind],
            PLACES[place],
            Look(tuple(colour[0]), ALL_PATTERNS[pattern[0]]),
            Look(tuple(colour[1]), ALL_PATTERNS[pattern[1]]),
            region == BODY,
            region == PART,
        )
        for kind, place, colour, pattern, region in zip(
            found["kind"].argmax(1).tolist(), found["background"].argmax(1).tolist(), colours, patterns, regions,
            strict=True,
        )
    ]  # fmt: skip


def _as_input(pictures: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


# --- training


def any_scene(rng: random.Random) -> Scene:
    """A scene with looks of any colour and of all patterns, also those kept out of the model's training."""

    def look() -> Look:
        pattern = "solid" if rng.random() < 0.35 else rng.choice(ALL_PATTERNS[1:])
        return Look(tuple(rng.randrange(256) for _ in range(3)), pattern)

    return Scene(rng.choice(KINDS), look(), look(), rng.choice(PLACES), rng.getrandbits(32))


def _targets(scenes: list[Scene], pictures: list[Picture]) -> dict[str, Tensor]:
    regions = np.stack([np.where(p.part, PART, np.where(p.body, BODY, OUTSIDE)) for p in pictures])
    looks = [(s.body, s.part) for s in scenes]
    return {
        "regions": torch.from_numpy(regions).long(),
        "kind": torch.tensor([KINDS.index(s.kind) for s in scenes]),
        "background": torch.tensor([PLACES.index(s.background) for s in scenes]),
        "colour": torch.tensor([[look.colour for look in pair] for pair in looks]).float() / 127.5 - 1,
        "pattern": torch.tensor([[ALL_PATTERNS.index(look.pattern) for look in pair] for pair in looks]),
    }


def _loss(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> Tensor:
    return (
        F.cross_entropy(found["regions"].float(), wanted["regions"])
        + 0.3 * F.cross_entropy(found["kind"].float(), wanted["kind"])
        + 0.3 * F.cross_entropy(found["background"].float(), wanted["background"])
        + 0.3 * F.cross_entropy(found["pattern"].float().flatten(0, 1), wanted["pattern"].flatten())
        + 2.0 * F.l1_loss(found["colour"].float(), wanted["colour"])
    )


def worn(pictures: Tensor, rng: np.random.Generator) -> Tensor:
    """Pictures as a generator might spoil them: softened, noisy, a little off in brightness."""
    soft = F.interpolate(
        F.interpolate(pictures, scale_factor=0.6, mode="bilinear"), size=pictures.shape[-1], mode="bilinear"
    )
    share = torch.from_numpy(rng.random((len(pictures), 1, 1, 1), dtype=np.float32))
    noise = torch.from_numpy(rng.standard_normal(pictures.shape, dtype=np.float32))
    strength = torch.from_numpy(rng.uniform(0, 0.12, (len(pictures), 1, 1, 1)).astype(np.float32))
    gain = torch.from_numpy(rng.uniform(0.96, 1.04, (len(pictures), 1, 1, 1)).astype(np.float32))
    return ((pictures + share * (soft - pictures)) * gain + noise * strength).clamp(-1, 1)


def accuracy(analyser: Analyser, scenes: list[Scene], pictures: np.ndarray, masks: list[Picture]) -> dict[str, float]:
    """Shares of right answers, the overlap of the outlines (IoU), and the mean distance of colours (RGB, 0..255)."""
    found = analysed(analyser, pictures)

    def share(right) -> float:
        return float(np.mean([right(f, s) for f, s in zip(found, scenes, strict=True)]))

    def overlap(region: str) -> float:
        pairs = [(getattr(f, region), getattr(p, region)) for f, p in zip(found, masks, strict=True)]
        return float(np.mean([(a & b).sum() / max((a | b).sum(), 1) for a, b in pairs]))

    def distance(region: str) -> float:
        looks = [(getattr(f, f"{region}_look"), getattr(s, region)) for f, s in zip(found, scenes, strict=True)]
        return float(np.mean([np.linalg.norm(np.subtract(a.colour, b.colour)) for a, b in looks]))

    return {
        "kind": share(lambda f, s: f.kind == s.kind),
        "background": share(lambda f, s: f.background == s.background),
        "body colour word": share(lambda f, s: f.body_colour == nearest_colour(s.body.colour)),
        "part colour word": share(lambda f, s: f.part_colour == nearest_colour(s.part.colour)),
        "body pattern": share(lambda f, s: f.body_look.pattern == s.body.pattern),
        "part pattern": share(lambda f, s: f.part_look.pattern == s.part.pattern),
        "body outline IoU": overlap("body"),
        "part outline IoU": overlap("part"),
        "body colour distance": distance("body"),
        "part colour distance": distance("part"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m toytown.analyser", description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=pathlib.Path, required=True, help="folder for weights and accuracy")
    parser.add_argument("--pictures", type=int, default=12_000)
    parser.add_argument("--steps", type=int, default=3000, help="steps of 32 pictures")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)

    rng, noise = random.Random(options.seed + 100), np.random.default_rng(options.seed)
    # half as the model's world is, half with looks of every kind
    scenes = [any_scene(rng) if n % 2 else random_scene(rng) for n in range(options.pictures)]
    pictures = [render(scene) for scene in tqdm(scenes, desc="pictures")]
    inputs = _as_input(np.stack([p.pixels for p in pictures]))
    wanted = _targets(scenes, pictures)
    torch.manual_seed(options.seed)
    analyser = Analyser().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(analyser.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=options.steps)
    for _ in (bar := tqdm(range(options.steps), desc="analyser")):
        chosen = torch.from_numpy(noise.integers(len(scenes), size=32))
        batch = worn(inputs[chosen], noise).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            found = analyser(batch)
        loss = _loss(found, {name: target[chosen] for name, target in wanted.items()})
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        bar.set_postfix(loss=f"{loss.item():.3f}")

    analyser.eval()
    rng = random.Random(options.seed + 200)
    scenes = [random_scene(rng) for _ in range(500)]
    pictures = [render(scene) for scene in scenes]
    pixels = np.stack([p.pixels for p in pictures])
    report = {"renderings": accuracy(analyser, scenes, pixels, pictures)}
    spoiled = ((worn(_as_input(pixels), noise) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    report["softened and noisy renderings"] = accuracy(analyser, scenes, spoiled, pictures)
    state = {key: w.half() if w.is_floating_point() else w for key, w in analyser.state_dict().items()}
    save_file({key: w.contiguous() for key, w in state.items()}, options.work / "analyser.safetensors")
    (options.work / "analyser.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
