"""Train the toy town checkpoint from nothing: autoencoder, then text encoder and U-Net together.

Run as `python -m toytown.train_model --work FOLDER`. Started again with the same folder, it goes on where it was
stopped. Log, samples on the way and the finished checkpoint are left in that folder.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import pathlib
import random
import time
from collections.abc import Callable

import numpy as np
import torch
from diffusers import DDPMScheduler
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from .captions import random_caption
from .model import (
    LATENT_SCALE,
    PROMPT_LENGTH,
    ToyTown,
    load_checkpoint,
    load_vocabulary,
    new_autoencoder,
    new_text_encoder,
    new_unet,
)
from .sampling import encoded_prompts, sample
from .saving import save_checkpoint
from .vocabulary import END, START
from .world import Scene, random_scene, render

PICTURES = 32_000
CROP = 32
KL_WEIGHT = 2e-3
MIN_SNR = 5.0
EMA_DECAY = 0.998
UNCONDITIONAL = 0.1
SAVE_EVERY = 250
SAMPLE_PROMPTS = (
    "a red house with a blue roof on the beach",
    "a striped yellow tower with a pink roof in the snow",
    "a green person with orange hair in the city",
    "a white cup with a red handle in a room",
    "a blue car with yellow wheels on the grass",
    "a purple lamp with a dotted green shade at night",
    "a teal bottle with a black cap at sunset",
    "a brown cat with pink ears on a plain background",
)


@dataclasses.dataclass(frozen=True)
class Stage:
    """One training: its name, steps, batch size and peak learning rate, which falls in the last fifth."""

    name: str
    steps: int
    batch: int
    learning_rate: float

    def rate(self, step: int) -> float:
        """The learning rate of a 0-based step: a short rise, a plateau, a fall."""
        rise, fall = min(1.0, (step + 1) / 100), min(1.0, (self.steps - step) / (0.2 * self.steps))
        return self.learning_rate * min(rise, fall)


def main() -> None:
    options = parse_options()
    work, device = options.work, torch.device(options.device)
    work.mkdir(parents=True, exist_ok=True)
    log = Log(work / "training.log")
    log(f"torch {torch.__version__} on {device}, {torch.get_num_threads()} threads, seed {options.seed}")

    autoencoder = new_seeded(options.seed, new_autoencoder).to(device, memory_format=torch.channels_last)
    stage = Stage("autoencoder", options.autoencoder_steps, 16, 1.5e-3)
    if not (work / "autoencoder.done").exists():
        if options.autoencoder:
            take_autoencoder(autoencoder, options, log)
        else:
            train_autoencoder(autoencoder, stage, options, log)
    load_finished(autoencoder, work / "autoencoder.done")
    scenes, latents = encoded_scenes(autoencoder, options, log)

    vocabulary = load_vocabulary()
    networks = nn.ModuleDict(
        {
            "unet": new_seeded(options.seed + 1, new_unet),
            "text_encoder": new_seeded(options.seed + 2, lambda: new_text_encoder(vocabulary)),
        }
    ).to(device)
    networks["unet"].to(memory_format=torch.channels_last)
    average = AveragedModel(networks, multi_avg_fn=get_ema_multi_avg_fn(EMA_DECAY))
    stage = Stage("denoiser", options.samples // options.batch, options.batch, 8e-4)
    if not (work / "denoiser.done").exists():
        train_denoiser(networks, average, autoencoder, scenes, latents, stage, options, log)
    load_finished(average, work / "denoiser.done")
    town = ToyTown(average.module["unet"], average.module["text_encoder"], autoencoder)
    path = work / "toytown.safetensors"
    made_with = {name: value for name, value in vars(options).items() if name not in ("work", "device", "autoencoder")}
    save_checkpoint(town, path, {"training": json.dumps(made_with)})
    log(f"{path.name}: {path.stat().st_size} bytes, sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m toytown.train_model", description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=pathlib.Path, required=True, help="folder for states, log and samples")
    parser.add_argument("--autoencoder", type=pathlib.Path, help="take that of a finished checkpoint; trains none")
    parser.add_argument("--autoencoder-steps", type=int, default=1800, help="steps of 16 crops")
    parser.add_argument("--pictures", type=int, default=PICTURES, help="how many pictures the denoiser learns from")
    parser.add_argument("--samples", type=int, default=160_000, help="how often it sees one of them")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--compile", action="store_true", help="compile the U-Net; pays on a CPU with a C++ compiler")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


class Log:
    """Prints a line and keeps it with the time."""

    def __init__(self, path: pathlib.Path):
        self.path = path

    def __call__(self, line: str) -> None:
        tqdm.write(line)
        with self.path.open("a") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")


def new_seeded(seed: int, make: Callable[[], nn.Module]) -> nn.Module:
    """A network whose first weights follow from the seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


# --- states on disk


def save_state(path: pathlib.Path, state: dict) -> None:
    partial = path.with_name(path.name + ".partial")
    torch.save(state, partial)
    partial.replace(path)


def load_state(path: pathlib.Path, device: torch.device) -> dict | None:
    return torch.load(path, map_location=device, weights_only=True) if path.exists() else None


def load_finished(module: nn.Module, path: pathlib.Path) -> None:
    module.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))


def optimised(
    stage: Stage,
    modules: dict[str, nn.Module],
    loss_of: Callable[[int], Tensor],
    options: argparse.Namespace,
    log: Log,
    after_step: Callable[[int], None],
) -> None:
    """Run a stage from where its state on disk stands.

    Args:
        modules: the first is trained, all are kept on disk.
        loss_of: the loss of a 0-based step, whose random numbers follow from the step alone.
        after_step: called after each update.
    """
    device, path = torch.device(options.device), options.work / f"{stage.name}.state"
    trained = next(iter(modules.values()))
    optimizer = torch.optim.AdamW(trained.parameters(), lr=stage.learning_rate, weight_decay=0.01, fused=True)
    first, seen = 0, []
    if (state := load_state(path, device)) is not None:
        first = state["step"]
        optimizer.load_state_dict(state["optimizer"])
        for name, module in modules.items():
            module.load_state_dict(state[name])
        log(f"{stage.name}: going on after step {first}")
    for step in (bar := tqdm(range(first, stage.steps), initial=first, total=stage.steps, desc=stage.name)):
        for group in optimizer.param_groups:
            group["lr"] = stage.rate(step)
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(step)
        loss.backward()
        nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimizer.step()
        after_step(step)
        seen.append(loss.detach())
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == stage.steps:
            mean = torch.stack(seen).mean().item()
            seen.clear()
            bar.set_postfix(loss=f"{mean:.4f}")
            log(f"{stage.name}: step {step + 1} of {stage.steps}, loss {mean:.4f}")
            states = {name: module.state_dict() for name, module in modules.items()}
            save_state(path, {"step": step + 1, "optimizer": optimizer.state_dict(), **states})


# --- autoencoder


def rendered(count: int, seed: int, title: str) -> tuple[list[Scene], np.ndarray]:
    """Scenes and their pictures, (count, 64, 64, 3) uint8."""
    rng = random.Random(seed)
    scenes = [random_scene(rng) for _ in range(count)]
    return scenes, np.stack([render(scene).pixels for scene in tqdm(scenes, desc=title)])


def as_tensor(pixels: np.ndarray, device: torch.device) -> Tensor:
    """(B, 64, 64, 3) uint8 to (B, 3, 64, 64) in [-1, 1]."""
    return torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


def psnr(autoencoder: nn.Module, pictures: Tensor) -> float:
    """Of reconstructions from the means, in dB."""
    with torch.no_grad():
        error = (autoencoder(pictures).sample.clamp(-1, 1) - pictures).square().mean(dim=(1, 2, 3)) / 4
    return (-10 * error.log10()).mean().item()


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """L1, half of L2 and half of the L1 of the differences of neighbours."""
    error = output - target
    edges = (error[..., 1:, :] - error[..., :-1, :]).abs().mean() + (error[..., 1:] - error[..., :-1]).abs().mean()
    return error.abs().mean() + 0.5 * error.square().mean() + 0.5 * edges


def train_autoencoder(autoencoder: nn.Module, stage: Stage, options: argparse.Namespace, log: Log) -> None:
    """Mostly on crops, which is faster and keeps colours strong; the last fifth on a quarter as many whole pictures."""
    device = torch.device(options.device)
    _, pixels = rendered(6000, options.seed + 10, "pictures")
    held_out = as_tensor(rendered(64, options.seed + 11, "held-out pictures")[1], device)
    whole_from = round(0.8 * stage.steps)

    def loss_of(step: int) -> Tensor:
        rng = np.random.default_rng((options.seed, 1, step))
        whole = step >= whole_from
        chosen = rng.integers(len(pixels), size=stage.batch // 4 if whole else stage.batch)
        batch = as_tensor(pixels[chosen] if whole else cropped(pixels[chosen], rng), device)
        batch = batch.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16):
            posterior = autoencoder.encode(batch).latent_dist
            noise = torch.from_numpy(rng.standard_normal(posterior.mean.shape, dtype=np.float32)).to(device)
            output = autoencoder.decode(posterior.mean + posterior.std * noise).sample.float()
        return reconstruction_loss(output, batch) + KL_WEIGHT * posterior.kl().mean() / noise[0].numel()

    def after_step(step: int) -> None:
        if (step + 1) % 500 == 0:
            log(f"autoencoder: {psnr(autoencoder, held_out):.2f} dB on held-out pictures")

    optimised(stage, {"autoencoder": autoencoder}, loss_of, options, log, after_step)
    fold_scale(autoencoder, as_tensor(pixels[:512], device))
    log(f"autoencoder: {psnr(autoencoder, held_out):.2f} dB on held-out pictures at the end")
    save_state(options.work / "autoencoder.done", autoencoder.state_dict())


def take_autoencoder(autoencoder: nn.Module, options: argparse.Namespace, log: Log) -> None:
    """The autoencoder that an earlier run of this command made."""
    digest = hashlib.sha256(options.autoencoder.read_bytes()).hexdigest()
    autoencoder.load_state_dict(load_checkpoint(options.autoencoder).autoencoder.state_dict())
    held_out = as_tensor(rendered(64, options.seed + 11, "held-out pictures")[1], torch.device(options.device))
    log(f"autoencoder: taken from a checkpoint with sha256 {digest}")
    log(f"autoencoder: {psnr(autoencoder, held_out):.2f} dB on held-out pictures")
    save_state(options.work / "autoencoder.done", autoencoder.state_dict())


def cropped(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    corners = rng.integers(pixels.shape[1] - CROP + 1, size=(len(pixels), 2))
    return np.stack([p[y : y + CROP, x : x + CROP] for p, (y, x) in zip(pixels, corners, strict=True)])


@torch.no_grad()
def fold_scale(autoencoder: nn.Module, pictures: Tensor) -> None:
    """Stretch the latents so that `LATENT_SCALE` brings them to a deviation of 1, as in Stable Diffusion."""
    deviation = torch.cat([autoencoder.encode(part).latent_dist.mean for part in pictures.split(64)]).std()
    stretch = 1 / (LATENT_SCALE * deviation)
    latents = autoencoder.config.latent_channels
    autoencoder.quant_conv.weight[:latents] *= stretch
    autoencoder.quant_conv.bias[:latents] *= stretch
    # the second half holds logarithms of variances
    autoencoder.quant_conv.bias[latents:] += 2 * stretch.log()
    autoencoder.post_quant_conv.weight /= stretch


# --- text encoder and U-Net


def training_scenes(count: int = PICTURES, seed: int = 0) -> list[Scene]:
    """What the pictures show that the denoiser learns from."""
    rng = random.Random(seed + 20)
    return [random_scene(rng) for _ in range(count)]


def encoded_scenes(
    autoencoder: nn.Module, options: argparse.Namespace, log: Log
) -> tuple[list[Scene], tuple[Tensor, Tensor]]:
    """The scenes the denoiser learns from, and mean and deviation of their scaled latents in half precision."""
    device, path = torch.device(options.device), options.work / "latents.pt"
    scenes = training_scenes(options.pictures, options.seed)
    if (stored := load_state(path, torch.device("cpu"))) is None:
        means, deviations = [], []
        with torch.no_grad():
            for start in tqdm(range(0, len(scenes), 64), desc="latents"):
                pixels = np.stack([render(scene).pixels for scene in scenes[start : start + 64]])
                batch = as_tensor(pixels, device).contiguous(memory_format=torch.channels_last)
                with torch.autocast(device.type, torch.bfloat16):
                    posterior = autoencoder.encode(batch).latent_dist
                means.append((posterior.mean.float() * LATENT_SCALE).half().cpu())
                deviations.append((posterior.std.float() * LATENT_SCALE).half().cpu())
        stored = {"mean": torch.cat(means), "std": torch.cat(deviations)}
        save_state(path, stored)
        log(f"latents: {len(scenes)} pictures, deviation {stored['mean'].float().std():.3f}")
    return scenes, (stored["mean"], stored["std"])


def prompt_ids(texts: list[str], vocabulary: dict[str, int]) -> Tensor:
    """(B, 77) ids; every word is one token."""
    rows = [[vocabulary[START], *(vocabulary[f"{word}</w>"] for word in text.split())] for text in texts]
    return torch.tensor([row + [vocabulary[END]] * (PROMPT_LENGTH - len(row)) for row in rows])


def train_denoiser(
    networks: nn.ModuleDict,
    average: AveragedModel,
    autoencoder: nn.Module,
    scenes: list[Scene],
    latents: tuple[Tensor, Tensor],
    stage: Stage,
    options: argparse.Namespace,
    log: Log,
) -> None:
    """Noise prediction with min-SNR weights (Hang et al. 2023)."""
    device, vocabulary = torch.device(options.device), load_vocabulary()
    schedule = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    order = shuffled_forever(len(scenes), options.seed, stage.batch)
    mean, deviation = latents
    if device.type == "cpu":
        # the backward pass of fused attention takes a fifth of a step there
        networks["unet"].set_attn_processor(AttnProcessor())
    unet = torch.compile(networks["unet"]) if options.compile else networks["unet"]

    def loss_of(step: int) -> Tensor:
        rng, words = np.random.default_rng((options.seed, 2, step)), random.Random(f"{options.seed} {step}")
        chosen = order(step)
        normal = torch.from_numpy(rng.standard_normal((2, stage.batch, *mean.shape[1:]), dtype=np.float32))
        clean = (mean[chosen].float() + deviation[chosen].float() * normal[0]).to(device)
        noise = normal[1].to(device)
        # one timestep in each of `batch` equal parts of the schedule
        parts = (np.arange(stage.batch) + rng.random(stage.batch)) / stage.batch
        timesteps = torch.from_numpy((parts * len(schedule.alphas_cumprod)).astype(np.int64)).to(device)
        texts = ["" if words.random() < UNCONDITIONAL else random_caption(scenes[n], words) for n in chosen.tolist()]
        noisy = schedule.add_noise(clean, noise, timesteps).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16):
            hidden = networks["text_encoder"](prompt_ids(texts, vocabulary).to(device)).last_hidden_state
            predicted = unet(noisy, timesteps, hidden).sample.float()
        a = schedule.alphas_cumprod.to(device)[timesteps]
        snr = a / (1 - a)
        error = (predicted - noise).square().mean(dim=(1, 2, 3))
        return (error * snr.clamp(max=MIN_SNR) / snr).mean()

    def after_step(step: int) -> None:
        average.update_parameters(networks)
        if (step + 1) % 500 == 0 or step + 1 == stage.steps:
            town = ToyTown(average.module["unet"], average.module["text_encoder"], autoencoder)
            picture = sample(town, encoded_prompts(town, SAMPLE_PROMPTS), seeds=[0] * len(SAMPLE_PROMPTS))
            sheet = np.concatenate(list(picture), axis=1)
            Image.fromarray(sheet).resize((sheet.shape[1] * 2, sheet.shape[0] * 2), Image.Resampling.NEAREST).save(
                options.work / f"samples_{step + 1:06}.png"
            )

    optimised(stage, {"networks": networks, "average": average}, loss_of, options, log, after_step)
    save_state(options.work / "denoiser.done", average.state_dict())


def shuffled_forever(count: int, seed: int, batch: int) -> Callable[[int], Tensor]:
    """Which pictures a step sees: all of them once before any is seen again."""
    per_round = count // batch

    def of_step(step: int) -> Tensor:
        turn, place = divmod(step, per_round)
        order = np.random.default_rng((seed, 3, turn)).permutation(count)
        return torch.from_numpy(order[place * batch : (place + 1) * batch])

    return of_step


if __name__ == "__main__":
    main()
