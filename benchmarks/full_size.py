"""Memory of a training step at full size, predicted and metered, without a GPU: on fake tensors.

    python -m benchmarks.full_size                                      every family, rung and number of pictures
    python -m benchmarks.full_size --families sdxl --pictures 3+3 --rungs balanced

A step of each phase is run on tensors that have shapes and no values, see `meter`.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator

import diffusers
import torch
from torch import Tensor

from magictailor.backbones.placement import is_away
from magictailor.backbones.precision import precision_for
from magictailor.backbones.protocol import Prediction
from magictailor.backbones.stable_diffusion.backbone import UNetBackbone
from magictailor.config import MEMORY, TailorConfig
from magictailor.draws import draw_step
from magictailor.memory import FASTEST, GIB, MemoryPlan, ladder, predicted_peak
from magictailor.pictures import TrainingPictures
from magictailor.reference import Reference
from magictailor.training import Training

from .meter import META, Meter, fake_tensors, given_fake_weights, without_values
from .shapes import SHAPES, Shape, TransformerShape, make_model, make_parts

FAMILIES = {"sd15": "sd15", "sd21": "sd21_v", "sdxl": "sdxl", "sd35m": "sd35m"}  # shapes
PICTURES = ("1+1", "3+3", "4+2", "1+1+1")


@dataclasses.dataclass(frozen=True)
class Metered:
    """Bytes at the start, and the peak as predicted and as counted; FLOPs, waits and operations of each phase."""

    start: int
    predicted: int
    peak: int
    flops: tuple[int, ...]
    waits: tuple[int, ...]
    launches: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Case:
    """What is trained.

    Attributes:
        family: a key of FAMILIES.
        pictures: of each reference.
    """

    family: str
    pictures: tuple[int, ...] = (3, 3)
    rank: int = 32
    precision: str = "bf16"
    resolution: int | None = None

    @property
    def config(self) -> TailorConfig:
        return TailorConfig(
            phase1_train_steps=1, phase2_train_steps=1, lora_rank=self.rank, mixed_precision=self.precision,
            resolution=self.resolution or SHAPES[FAMILIES[self.family]].resolution,
        )  # fmt: skip


def metered(case: Case, plan: MemoryPlan) -> Metered:
    """One step of each phase."""
    with without_values():
        training = training_of(case, plan)
        meter = Meter()
        meter.hold(on_device(training))
        start, peak, flops, waits, launches = meter.live, 0, [], [], []
        for step in (1, 2):
            draws = draw_step(
                case.config, step, batch=sum(case.pictures), resolution=training.resolution,
                latent_shape=training.model.latent_shape(training.resolution, training.resolution),
                draw_timesteps=training.model.draw_timesteps,
            ).to(META)  # fmt: skip
            meter.hold(getattr(draws, f.name) for f in dataclasses.fields(draws))
            meter.from_here()
            with meter:
                training.step(draws)
            del draws
            peak = max(peak, meter.peak)
            flops.append(meter.flops)
            waits.append(meter.waits)
            launches.append(meter.launches.total())
    predicted = predicted_peak(plan, training.needs)
    assert predicted is not None
    return Metered(start, predicted, peak, tuple(flops), tuple(waits), tuple(launches))


def forward_on_gpu(shape: Shape | TransformerShape) -> Prediction:
    """What a network answers for one picture of each reference, on fake tensors of a GPU: devices must not be mixed."""
    gpu, config = torch.device("cuda"), TailorConfig(resolution=shape.resolution)
    parts = make_parts(shape, torch.bfloat16, META, "sdpa")
    with fake_tensors(), torch.no_grad():
        for module in (parts.network, parts.autoencoder, *parts.encoders.values()):
            given_fake_weights(module, gpu)
        model = make_model(shape, config, parts, device=gpu)
        # as `precision_for` has it on a card that is there
        model.precision = torch.bfloat16
        model.arrange(FASTEST)
        owners = torch.arange(2, device=gpu)
        size = model.latent_shape(config.resolution, config.resolution)
        latents = model.encode(
            torch.rand(2, 3, config.resolution, config.resolution, device=gpu), torch.randn(2, *size, device=gpu)
        )
        timesteps = torch.full((2,), 500, device=gpu)
        noisy, target = model.noised(latents, torch.randn(2, *size, device=gpu), timesteps)
        prediction = model.predict(
            noisy, timesteps, model.reference_prompts(), owners=owners, watch=model.token_columns()[owners],
            sizes=torch.full((2, 6), float(config.resolution), device=gpu),
        )  # fmt: skip
        assert prediction.answer.shape == target.shape
    return prediction


def training_of(case: Case, plan: MemoryPlan) -> Training:
    """A training at full size, of meta tensors."""
    words = tuple(f"word{n}" for n in range(len(case.pictures)))
    shape, precision = SHAPES[FAMILIES[case.family]], precision_for(case.precision, META)
    model = make_model(shape, case.config, make_parts(shape, precision, META, "sdpa"), words)
    picture, mask = torch.zeros(3, 32, 32), torch.ones(32, 32)
    references = [Reference(w, (picture,) * n, (mask,) * n) for w, n in zip(words, case.pictures, strict=True)]
    return Training(model, references, case.config, plan=plan)


def on_device(training: Training) -> Iterator[Tensor]:
    """What is there between two steps."""
    model = training.model
    network = model.unet if isinstance(model, UNetBackbone) else model.transformer
    for module in (network, model.prompts, model.autoencoder):
        for layer in module.modules():
            yield from (w for n, w in layer.named_parameters(recurse=False) if not (n == "weight" and is_away(layer)))
        yield from module.buffers()
    yield from (getattr(training.pictures, f.name) for f in dataclasses.fields(TrainingPictures))


def main() -> None:
    diffusers.logging.set_verbosity_error()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.full_size", description=__doc__.splitlines()[0])
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--pictures", nargs="+", default=PICTURES)
    parser.add_argument("--rungs", nargs="+", choices=MEMORY[1:], default=list(MEMORY[1:]))
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--precision", choices=("bf16", "no"), default="bf16")
    options = parser.parse_args()
    print(f"{'family':8} pictures  {'plan':26} GiB predicted  metered  TFLOP: warm-up  DS-Bal  waits  operations")
    for family in options.families:
        for text in options.pictures:
            case = Case(family, tuple(map(int, text.split("+"))), options.rank, options.precision)
            plans = ladder(sum(case.pictures))
            # of each rung the plan that takes most pictures at once, and the one that takes fewest
            for rung in options.rungs:
                of_rung = [plan for plan in plans if plan.name == rung]
                for plan in dict.fromkeys((of_rung[0], of_rung[-1])) if of_rung else ():
                    print_row(case, text, plan, metered(case, plan))


def print_row(case: Case, pictures: str, plan: MemoryPlan, found: Metered) -> None:
    ratio = found.predicted / found.peak - 1
    predicted, peak = found.predicted / GIB, found.peak / GIB
    print(
        f"{case.family:8} {pictures:9} {plan!s:26} {predicted:13.2f}  {peak:7.2f} ({ratio:+4.0%})"
        f" {found.flops[0] / 1e12:8.2f} {found.flops[1] / 1e12:8.2f}  {found.waits[0]} {found.waits[1]}"
        f"  {found.launches[0]:6} {found.launches[1]:6}",
        flush=True,
    )


if __name__ == "__main__":
    main()
