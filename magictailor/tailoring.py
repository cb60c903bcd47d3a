"""What training leaves: a LoRA, the tokens, and how they were made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .config import TailorConfig
from .families import FAMILIES, Family
from .model import TailorModel
from .tokens import token_name

KOHYA_PREFIX = "lora_unet_"


@dataclass(frozen=True)
class Token:
    """A learned word.

    Attributes:
        name: `<v0>` for the concept, `<v1>`, `<v2>` ... for the components.
        class_word: the ordinary word it was learned as.
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
        config: it was trained with.
        steps_done: fewer than config.total_steps if training was stopped.
    """

    family_name: str
    lora: Mapping[str, Tensor]
    tokens: tuple[Token, ...]
    config: TailorConfig
    steps_done: int

    @property
    def family(self) -> Family:
        return FAMILIES[self.family_name]

    @property
    def finished(self) -> bool:
        return self.steps_done == self.config.total_steps

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
        lora: by name in a diffusers U-Net, `<path>.lora_A.default.weight` and `<path>.lora_B.default.weight`.
        alpha: of the LoRA; its scale is alpha / rank.

    Returns:
        float32 tensors on the CPU, three for each layer.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in lora.items():
        path, _, part = name.partition(".lora_")
        stem = KOHYA_PREFIX + path.replace(".", "_")
        direction = {"A": "lora_down", "B": "lora_up"}[part[0]]
        renamed[f"{stem}.{direction}.weight"] = tensor.detach().float().cpu().clone()
        renamed[f"{stem}.alpha"] = torch.tensor(float(alpha))
    return renamed
