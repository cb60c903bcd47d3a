"""What training leaves: a LoRA, the tokens, and how they were made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .config import TailorConfig
from .errors import InputError
from .families import FAMILIES, Family
from .model import TailorModel
from .tokens import token_name

KOHYA_PREFIX = "lora_unet_"


@dataclass(frozen=True)
class Token:
    """A learned word.

    Attributes:
        name: `<v0>` for the concept, `<v1>`, `<v2>` ... for the components.
        class_word: the ordinary word it was learned as; "" if that is not known.
        rows: its embedding (width,) float32 for each text encoder, by embedding key.
    """

    name: str
    class_word: str
    rows: Mapping[str, Tensor]


@dataclass(frozen=True)
class Tailoring:
    """A trained concept with its components, on the CPU.

    Attributes:
        family_name: of the checkpoints it works on.
        lora: tensors by kohya's keys, `lora_unet_<path>.lora_down.weight`, `.lora_up.weight`, `.alpha`.
        tokens: the concept's first.
        config: it was trained with; None if another program trained it and did not say.
        steps_done: fewer than config.total_steps if training was stopped; None without a config.
    """

    family_name: str
    lora: Mapping[str, Tensor]
    tokens: tuple[Token, ...]
    config: TailorConfig | None
    steps_done: int | None

    @property
    def family(self) -> Family:
        return FAMILIES[self.family_name]

    @property
    def finished(self) -> bool:
        return self.config is None or self.steps_done == self.config.total_steps

    @property
    def rank(self) -> int:
        """Of the LoRA."""
        return next(len(tensor) for key, tensor in self.lora.items() if key.endswith(".lora_down.weight"))

    @property
    def alpha(self) -> float:
        """Of the LoRA; its scale is alpha / rank."""
        return next(float(tensor) for key, tensor in self.lora.items() if key.endswith(".alpha"))

    @property
    def words(self) -> str:
        """Which token stands for what: `<v0> = tower, <v1> = roof`."""
        return ", ".join(" = ".join(filter(None, (token.name, token.class_word))) for token in self.tokens)

    @property
    def prompt(self) -> str:
        """A prompt for the concept with all its components."""
        concept, *components = (token.name for token in self.tokens)
        return concept + (" with " + " and ".join(components) if components else "")


def tailoring_of(model: TailorModel, class_words: Sequence[str], config: TailorConfig, steps_done: int) -> Tailoring:
    """Copy what was trained out of a model."""
    tokens = tuple(
        Token(
            token_name(n),
            word,
            {key: rows[n].detach().float().cpu().clone() for key, rows in model.prompts.trained().items()},
        )
        for n, word in enumerate(class_words)
    )
    return Tailoring(model.family.name, kohya_lora(model.lora(), config.lora_rank), tokens, config, steps_done)


def kohya_lora(lora: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """Rename peft's tensors to the keys that ComfyUI, A1111 and kohya's scripts read.

    Args:
        lora: by name in a diffusers U-Net, `<path>.lora_A.weight` and `<path>.lora_B.weight`, with or without the
            adapter's name before `.weight`.
        alpha: of the LoRA; its scale is alpha / rank.

    Returns:
        float32 tensors on the CPU, three for each layer.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in lora.items():
        stem, direction = _kohya_stem(name)
        renamed[f"{stem}.{direction}.weight"] = tensor.detach().float().cpu().clone()
        renamed[f"{stem}.alpha"] = torch.tensor(float(alpha))
    return renamed


def _kohya_stem(name: str) -> tuple[str, str]:
    path, _, part = name.partition(".lora_")
    return KOHYA_PREFIX + path.replace(".", "_"), {"A": "lora_down", "B": "lora_up"}[part[0]]


@torch.no_grad()
def put_into(model: TailorModel, tailoring: Tailoring) -> None:
    """Let a model know a tailoring: the opposite of `tailoring_of`.

    Args:
        model: with a LoRA of the tailoring's rank and as many tokens, which are overwritten.

    Raises:
        InputError: the tailoring was trained on another family, or on a U-Net of other layers; names "tailoring".
    """
    if model.family != tailoring.family:
        raise InputError(
            "tailoring",
            f"was trained on {tailoring.family.title}, but the checkpoint is {model.family.title}; "
            "they have to be the same",
        )
    left = dict(tailoring.lora)
    for name, parameter in model.lora().items():
        stem, direction = _kohya_stem(name)
        stored, alpha = left.pop(f"{stem}.{direction}.weight", None), tailoring.lora.get(f"{stem}.alpha")
        if stored is None or stored.shape != parameter.shape:
            raise InputError("tailoring", f"has no LoRA for {stem} of this checkpoint; it is for one of another size")
        # the model's own LoRA has a scale of 1
        scale = float(alpha) / tailoring.rank if direction == "lora_up" else 1.0
        parameter.copy_(stored * scale)
    strange = next((key for key in sorted(left) if not key.endswith(".alpha")), None)
    if strange is not None:
        raise InputError("tailoring", f"has a LoRA for {strange}, which this checkpoint has not")
    for key, rows in model.prompts.trained().items():
        rows.copy_(torch.stack([token.rows[key] for token in tailoring.tokens]))
