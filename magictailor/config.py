"""Every hyper-parameter of a tailoring, described once: node inputs and file metadata are generated from here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from .errors import InputError

CONTINUE, START_OVER = "continue", "start over"
RESUME = (CONTINUE, START_OVER)
"""What a training may do with one that was kept on disk, see `magictailor.runs`."""
AUTO = "auto"
Memory = Literal["auto", "fastest", "fast", "balanced", "small", "smallest"]
MEMORY: tuple[Memory, ...] = get_args(Memory)
"""How much of a training is on the device at once, see `magictailor.memory`."""


@dataclass(frozen=True)
class Knob:
    """How a hyper-parameter is shown and checked.

    Attributes:
        help: what it does, for the person who sets it.
        low, high: inclusive range of a number.
        step: granularity a number box should offer.
        unit: "" for a plain number.
        symbol: the paper's symbol (arXiv 2410.13370), "" if it has none.
        choices: the allowed words of a text knob.
        multiple_of: 1, or what an integer has to be divisible by.
        advanced: rarely changed.
    """

    help: str
    low: float = -math.inf
    high: float = math.inf
    step: float = 1
    unit: str = ""
    symbol: str = ""
    choices: tuple[str, ...] = ()
    multiple_of: int = 1
    advanced: bool = False


def _knob(default: Any, help: str, **described: Any) -> Any:
    return field(default=default, metadata={"knob": Knob(help, **described)})


@dataclass(frozen=True)
class TailorConfig:
    """Hyper-parameters of MagicTailor; names are those of the released program's flags, defaults the paper's.

    Raises:
        InputError: a value has the wrong type or is out of its range; names the field.
    """

    phase1_train_steps: int = _knob(
        200, "Warm-up steps, in which every picture counts alike. 0 skips the phase.", low=0, high=100_000, unit="steps"
    )
    phase2_train_steps: int = _knob(
        300,
        "DS-Bal steps, in which the worst learned reference is improved and the others are held. 0 skips the phase.",
        low=0,
        high=100_000,
        unit="steps",
    )
    phase1_learning_rate: float = _knob(1e-4, "Learning rate of the warm-up.", low=1e-8, high=1.0, step=1e-6)
    phase2_learning_rate: float = _knob(
        1e-5,
        "Learning rate of DS-Bal. Set it to the warm-up's to get what the released program does.",
        low=1e-8,
        high=1.0,
        step=1e-6,
    )
    resolution: int = _knob(
        0,
        "Side of the square training pictures. 0 takes the checkpoint's own: 512 for SD 1.x.",
        low=0,
        high=2048,
        step=64,
        multiple_of=64,
        unit="pixels",
    )
    seed: int = _knob(0, "Seed of everything random in training.", low=0, high=2**64 - 1)
    lora_rank: int = _knob(32, "Rank of the LoRA; its alpha is the same number.", low=1, high=512, symbol="r")
    alpha: float = _knob(
        0.5,
        "How strongly DM-Deg hides what is outside the masks, at the start.",
        low=0.0,
        high=10.0,
        step=0.01,
        symbol="alpha_init",
    )
    gamma: float = _knob(
        32.0,
        "How late DM-Deg fades: the larger, the longer the degradation keeps its first strength.",
        low=0.01,
        high=1000.0,
        step=1.0,
        symbol="gamma",
    )
    ema_decay: float = _knob(
        0.99, "Momentum of the averaged U-Net in DS-Bal.", low=0.0, high=1.0, step=0.001, symbol="beta"
    )
    lambda_preservation: float = _knob(
        0.2,
        "Weight of holding what is already learned, in DS-Bal.",
        low=0.0,
        high=100.0,
        step=0.01,
        symbol="lambda_pres",
    )
    lambda_attention: float = _knob(
        1e-2, "Weight of keeping each token's attention on its mask.", low=0.0, high=100.0, step=0.001,
        symbol="lambda_attn",
    )  # fmt: skip
    scale_lr: bool = _knob(
        False, "Multiply both learning rates by the number of reference pictures, as the paper's text says.",
        advanced=True,
    )  # fmt: skip
    token_lr_scale: float = _knob(
        1.0,
        "Learning rate of the tokens, as a multiple of the LoRA's. Less keeps them closer to their class words.",
        low=0.0,
        high=100.0,
        step=0.05,
        advanced=True,
    )
    mixed_precision: Literal["auto", "bf16", "fp16", "no"] = _knob(
        "auto",
        "Number format: auto takes bf16 on a GPU that has it, else fp16 there, and 32 bits on a CPU, Mac or DirectML.",
        choices=("auto", "bf16", "fp16", "no"),
        advanced=True,
    )
    memory: Memory = _knob(
        AUTO,
        "How much of the graphics card's memory to use; the result is the same up to rounding. auto takes the fastest "
        "that fits. fastest: all pictures at once. fast: in parts. balanced: layers are computed twice, in 1.4 times "
        "the time. small: text encoders and VAE stay in the computer's memory. smallest: the model too, for 6 to 8 GB.",
        choices=MEMORY,
        advanced=True,
    )
    color_jitter: float = _knob(
        0.1,
        "Largest random change of brightness, contrast and saturation.",
        low=0.0,
        high=1.0,
        step=0.01,
        advanced=True,
    )
    flip_probability: float = _knob(
        0.5, "How often a picture is mirrored. 0 for things whose left and right differ.", low=0.0, high=1.0, step=0.05,
        advanced=True,
    )  # fmt: skip
    adam_beta1: float = _knob(0.9, "AdamW's first decay.", low=0.0, high=0.9999, step=0.001, advanced=True)
    adam_beta2: float = _knob(0.999, "AdamW's second decay.", low=0.0, high=0.9999, step=0.0001, advanced=True)
    adam_epsilon: float = _knob(1e-8, "AdamW's epsilon.", low=1e-12, high=1e-2, step=1e-9, advanced=True)
    adam_weight_decay: float = _knob(1e-2, "AdamW's weight decay.", low=0.0, high=1.0, step=0.001, advanced=True)
    max_grad_norm: float = _knob(
        1.0, "The gradient of the LoRA is scaled down to this norm.", low=1e-4, high=1e6, step=0.1, advanced=True
    )

    # files hold the fields by name, nodes their widgets by position: what is new comes last
    vectors_per_token: int = _knob(
        1,
        "Vectors of each new word. More hold more detail, and take as many pieces of a prompt's 75.",
        low=1,
        high=16,
        step=1,
        advanced=True,
    )
    token_start: Literal["first pieces", "mean of pieces"] = _knob(
        "first pieces",
        "What a new word starts from, where its class word is several pieces to the text encoder: the first ones, one "
        "for each vector, or the mean of all.",
        choices=("first pieces", "mean of pieces"),
        advanced=True,
    )

    def __post_init__(self) -> None:
        for name, knob in knobs().items():
            object.__setattr__(self, name, _checked(name, getattr(self, name), knob, _DEFAULTS[name]))
        if self.total_steps == 0:
            raise InputError(
                "phase1_train_steps", "both phases have 0 steps, so nothing would be learned; give one of them steps"
            )

    @property
    def total_steps(self) -> int:
        """D of Eq. 5: the steps of both phases."""
        return self.phase1_train_steps + self.phase2_train_steps

    def to_dict(self) -> dict[str, Any]:
        """Plain values by field name, as stored in files."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TailorConfig:
        """What `to_dict` gave, also that of earlier versions, which had two switches in place of `memory`.

        Raises:
            TypeError: there is a value that no version knows.
            InputError: as the constructor.
        """
        return cls(**with_memory(values))


def with_memory(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by field name, with `memory` in place of the two switches of earlier versions."""
    values = dict(values)
    switches = [values.pop(name, None) for name in ("low_memory", "gradient_checkpointing")]
    if switches != [None, None]:
        values.setdefault("memory", memory_of(*map(bool, switches)))
    return values


def memory_of(low_memory: bool, gradient_checkpointing: bool) -> Memory:
    """The `memory` that means what two switches of earlier versions meant."""
    if low_memory:
        return "small" if gradient_checkpointing else "fast"
    return "balanced" if gradient_checkpointing else "auto"


def knobs() -> dict[str, Knob]:
    """The description of every field of `TailorConfig`, in the order in which they are shown."""
    return {f.name: f.metadata["knob"] for f in fields(TailorConfig)}


_DEFAULTS = {f.name: f.default for f in fields(TailorConfig)}


def defaults() -> dict[str, Any]:
    """The default of every field of `TailorConfig`."""
    return dict(_DEFAULTS)


def _checked(name: str, value: Any, knob: Knob, default: Any) -> Any:
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise InputError(name, f"has to be true or false, not {value!r}")
        return value
    if isinstance(default, str):
        if value not in knob.choices:
            raise InputError(name, f"has to be one of {', '.join(knob.choices)}, not {value!r}")
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError(name, f"has to be a number, not {value!r}")
    if not knob.low <= value <= knob.high:
        raise InputError(name, f"has to be from {knob.low:g} to {knob.high:g}, not {value!r}")
    if isinstance(default, float):
        return float(value)
    if value != int(value):
        raise InputError(name, f"has to be a whole number, not {value!r}")
    if value % knob.multiple_of:
        raise InputError(name, f"has to be a multiple of {knob.multiple_of}, not {value}")
    return int(value)
