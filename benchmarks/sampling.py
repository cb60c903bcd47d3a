"""Seconds of a picture drawn with a tailoring against one drawn with a stock LoRA of the same rank, in the real host.

    python -m benchmarks.sampling                           the small SD 1.x of the tests
    python -m benchmarks.sampling --shape sd15 --size 512 --steps 50

Each way draws a picture from the loaded checkpoint on, and then another one with the next seed, as the host would run
the graph again: it keeps what does not depend on the seed. The ways take turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import diffusers
import torch
from safetensors.torch import save_file

from .host import FAMILIES, Host, running_host
from .measuring import name_of, synchronise

STOCK, SAMPLER, APPLY = "LoraLoader + KSampler", "Tailored Sampler", "Apply Tailoring + KSampler"
FIRST, NEXT = "first picture", "next seed"


def main() -> None:
    diffusers.logging.set_verbosity_error()
    options = parse_options()
    with running_host(options.shape, options.device) as host:
        print(f"{options.shape}, {options.size} pixels, {options.steps} steps of DDIM, {name_of(host.device)}")
        print_table(measured(host, options))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sampling", description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=FAMILIES, default="small")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", type=int, default=128, help="of the picture, in pixels")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5, help="measured turns, after one that is not")
    return parser.parse_args()


def measured(host: Host, options: argparse.Namespace) -> dict[tuple[str, str], list[float]]:
    """Seconds by way and picture."""
    tailoring = host.train(phase1_train_steps=1, phase2_train_steps=0, resolution=64, preview_every=0)[0]
    lora = {key: tensor.contiguous() for key, tensor in tailoring.lora.items()}
    folder = host.base / "models" / "loras"
    folder.mkdir()
    save_file(lora, folder / "stock.safetensors")
    sampling = {"steps": options.steps, "cfg": 7.5, "sampler_name": "ddim", "scheduler": "ddim_uniform", "denoise": 1.0}
    ways = {
        STOCK: stock(host, sampling, options.size),
        SAMPLER: tailored(host, sampling, options.size, tailoring),
        APPLY: applied(host, sampling, options.size, tailoring),
    }
    seconds = {(way, picture): [] for way in ways for picture in (FIRST, NEXT)}
    for turn in range(options.repeats + 1):
        for way, draw in ways.items():
            for picture in (FIRST, NEXT):
                synchronise(host.device)
                began = time.perf_counter()
                with torch.inference_mode():
                    draw(picture, turn)
                synchronise(host.device)
                if turn > 0:
                    seconds[way, picture].append(time.perf_counter() - began)
    return seconds


def stock(host: Host, sampling: dict, size: int) -> Callable[[str, int], None]:
    """LoraLoader, CLIPTextEncode twice, KSampler; only the last runs again for the next seed."""
    loader = host.nodes.LoraLoader()
    return _with_ksampler(
        host, sampling, size, lambda: loader.load_lora(host.model, host.clip, "stock.safetensors", 1.0, 1.0)
    )


def applied(host: Host, sampling: dict, size: int, tailoring) -> Callable[[str, int], None]:
    """Apply Tailoring in the place of LoraLoader."""
    node = host.pack.nodes.MagicTailorApply
    return _with_ksampler(host, sampling, size, lambda: node.execute(host.model, host.clip, tailoring, 1.0).args)


def _with_ksampler(host: Host, sampling: dict, size: int, load: Callable) -> Callable[[str, int], None]:
    kept = {}

    def draw(picture: str, seed: int) -> None:
        if picture == FIRST:
            model, clip = load()
            encode = host.nodes.CLIPTextEncode().encode
            (positive,), (negative,) = encode(clip, "<v0> with <v1>"), encode(clip, "")
            kept["inputs"] = {"model": model, "positive": positive, "negative": negative}
        inputs = kept["inputs"] | {"latent_image": _empty(host, size)} | sampling
        host.nodes.KSampler().sample(seed=seed + (picture == NEXT), **inputs)

    return draw


def tailored(host: Host, sampling: dict, size: int, tailoring) -> Callable[[str, int], None]:
    """The Tailored Sampler, which does all of it in one node."""
    node = host.pack.nodes.MagicTailorSampler

    def draw(picture: str, seed: int) -> None:
        node.execute(
            model=host.model,
            clip=host.clip,
            tailoring=tailoring,
            latent_image=_empty(host, size),
            prompt="<v0> with <v1>",
            negative_prompt="",
            seed=seed + (picture == NEXT),
            strength=1.0,
            **sampling,
        )

    return draw


def _empty(host: Host, size: int):
    return host.nodes.EmptyLatentImage().generate(size, size, 1)[0]


def print_table(seconds: dict[tuple[str, str], list[float]]) -> None:
    for (way, picture), measured in seconds.items():
        median = statistics.median(measured)
        ratio = median / statistics.median(seconds[STOCK, picture])
        print(
            f"{way:26} {picture:13} {median:7.3f} s ({min(measured):.3f} to {max(measured):.3f})  "
            f"{ratio:.2f}x the stock LoRA's"
        )


if __name__ == "__main__":
    main()
