"""How much of a training is on the device at once: a ladder of plans that give the same result up to rounding.

The peak of a plan is predicted from shapes alone: bytes of the weights, and a few numbers of each family
(`Appetite`) that were counted at full size by `benchmarks.full_size`, which also
compares every prediction with its count.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .config import AUTO

if TYPE_CHECKING:
    import torch

GIB = 2**30
# bytes for each trained number: itself, its gradient, Adam's two averages, the momentum network
TRAINED, WITHOUT_GRADIENTS = 4 * 5, 4 * 4
# what no count shows: workspaces, fragments, a preview
SPARE_SHARE, SPARE = 1.08, GIB // 4


@dataclass(frozen=True)
class MemoryPlan:
    """One way to make a step.

    Attributes:
        name: of its rung, one of `config.MEMORY`.
        at_once: pictures that are taken at a time; 0: all.
        checkpointing: forget what happens inside the network's layers and repeat them in the backward pass.
        others_away: text encoders and autoencoder lie on the CPU, and each layer is brought when it is used.
        network_away: the same for the network that is trained.
    """

    name: str
    at_once: int = 0
    checkpointing: bool = False
    others_away: bool = False
    network_away: bool = False

    def __str__(self) -> str:
        return f"{self.name}, {self.at_once} at a time" if self.at_once else self.name


FASTEST = MemoryPlan("fastest")


@dataclass(frozen=True)
class Appetite:
    """What a step of a family needs on the device at its own resolution, in GiB and 16 bits, by count at full size.

    Attributes:
        whole: for each picture, all that the network keeps for the backward pass.
        between: for each picture, what it keeps where layers are repeated.
        layers: for each picture that is taken at once, what a layer that is repeated needs.
        encoding: the autoencoder at work on a picture.
        text: for each prompt, what the text encoders keep for the backward pass.
        repeating: what is needed besides where layers are repeated, however many pictures there are.
    """

    whole: float
    between: float
    layers: float
    encoding: float
    text: float
    repeating: float = 0.0


@dataclass(frozen=True)
class Weights:
    """Bytes of frozen weights on the device, and how many of them stay there when the layers are away."""

    network: int
    network_stays: int
    others: int
    others_stay: int


@dataclass(frozen=True)
class Step:
    """What is to be fitted into memory.

    Attributes:
        pictures: of all references.
        references: how many there are.
        area: of a training picture, as a share of the family's own.
        width, encoding_width: of a number of the network and of the autoencoder, in bytes: 2 or 4.
        trained: how many numbers are trained.
        weights: of the checkpoint.
        appetite: of its family; None: not known, so nothing can be predicted.
    """

    pictures: int
    references: int
    area: float
    width: int
    encoding_width: int
    trained: int
    weights: Weights
    appetite: Appetite | None


@dataclass(frozen=True)
class Choice:
    """A plan, and why.

    Attributes:
        plan: that was chosen.
        peak: predicted, in bytes; None: not known.
        free: bytes the device has; None: not known.
        failed: the plan before, which ran out of memory; None: none did.
    """

    plan: MemoryPlan
    peak: int | None
    free: int | None
    failed: MemoryPlan | None = None

    @property
    def fits(self) -> bool:
        """Whether it is predicted to."""
        return self.peak is None or self.free is None or self.peak * SPARE_SHARE + SPARE <= self.free

    def __str__(self) -> str:
        """For the person who waits: memory 'balanced, 2 at a time', about 10.9 of 15.6 GiB."""
        text = f"memory '{self.plan}'"
        if self.peak is not None:
            of = "" if self.free is None else f" of {self.free / GIB:.1f}"
            text += f", about {self.peak / GIB:.1f}{of} GiB"
        return text if self.failed is None else f"{text}; there was not enough for '{self.failed}'"


def ladder(pictures: int, away: bool = True) -> list[MemoryPlan]:
    """All plans for so many pictures, the fastest first.

    Args:
        away: whether there is another place than the device.
    """
    parts = sorted({-(-pictures // n) for n in range(1, pictures + 1)}, reverse=True)
    rungs = [("fast", False, False, False), ("balanced", True, False, False)]
    if away:
        rungs += [("small", True, True, False), ("smallest", True, True, True)]
    plans = [FASTEST]
    for name, checkpointing, others, network in rungs:
        sizes = parts[1:] if name == "fast" else parts
        plans += [MemoryPlan(name, k if k < pictures else 0, checkpointing, others, network) for k in sizes]
    return plans


def predicted_peak(plan: MemoryPlan, step: Step) -> int | None:
    """Bytes on the device when a step needs most; None without an `Appetite`."""
    appetite = step.appetite
    if appetite is None:
        return None
    weights, width = step.weights, step.width / 2
    frozen = weights.network_stays if plan.network_away else weights.network
    frozen += weights.others_stay if plan.others_away else weights.others
    at_once = plan.at_once or step.pictures
    if plan.checkpointing:
        numbers = TRAINED
        work = (step.pictures * appetite.between + at_once * appetite.layers) * step.area + appetite.repeating
    else:
        # while all is kept, so is the LoRA in 16 bits; there are gradients only from the second part on
        numbers = WITHOUT_GRADIENTS + step.width + (4 if plan.at_once else 0)
        work = at_once * appetite.whole * step.area
    training = step.trained * numbers + (work + step.references * appetite.text) * width * GIB
    # in float16 the autoencoder computes in 32 bits
    encoding = step.trained * WITHOUT_GRADIENTS + appetite.encoding * step.area * step.encoding_width / 2 * GIB
    return int(frozen + max(training, encoding))


def choose(memory: str, step: Step, free: int | None, away: bool = True) -> Choice:
    """The fastest plan that is predicted to fit; the smallest if none is.

    Args:
        memory: one of `config.MEMORY`; a rung other than auto leaves the choice only between its plans.
        free: bytes the device has for the training; None: not known.
        away: as in `ladder`.
    """
    plans = ladder(step.pictures, away)
    if memory != AUTO:
        # a single picture is in no parts, and on a CPU nothing is away
        named = [plan for plan in plans if plan.name == memory]
        plans = named or (plans[:1] if memory == "fast" else plans[-1:])
    choices = [Choice(plan, predicted_peak(plan, step), free) for plan in plans]
    if step.appetite is None:
        return choices[0] if memory == AUTO else choices[-1]
    return next((choice for choice in choices if choice.fits), choices[-1])


def smaller(choice: Choice, step: Step, away: bool = True) -> Choice | None:
    """The next plan after one that did not fit after all; None: there is none."""
    plans = ladder(step.pictures, away)
    later = plans[plans.index(choice.plan) + 1 :] if choice.plan in plans else plans
    for plan in later:
        peak = predicted_peak(plan, step)
        if peak is None or choice.peak is None or peak < choice.peak:
            return Choice(plan, peak, choice.free, choice.plan)
    return None


def free_memory(device: torch.device) -> int | None:
    """Bytes that a device has for a training; None: it does not tell."""
    import torch

    gc.collect()
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if device.type in ("cpu", "mps"):
        import psutil

        return int(psutil.virtual_memory().available)
    return None


def give_back(device: torch.device) -> None:
    """Let the device have the memory that nothing refers to any more."""
    import torch

    gc.collect()
    empty_cache = getattr(getattr(torch, device.type, None), "empty_cache", None)
    if empty_cache is not None:
        empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the computer, had not enough memory; not every kind of device says so by the same class."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(
        words in str(error).lower() for words in ("out of memory", "can't allocate memory", "not enough memory")
    )
