"""How the tensors of a LoRA are called in files, and in peft."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LoraLayout:
    """The keys of a LoRA in files.

    Attributes:
        prefix: before every layer's path.
        separator: what stands in the path between the names of modules.
        down, up: after the path of the two matrices.
        alpha: after the path of the layer's alpha; "": files hold none and alpha is the rank.
    """

    prefix: str
    separator: str
    down: str
    up: str
    alpha: str

    def names_of(self, peft_name: str) -> tuple[str, str]:
        """The stem, and the ending of one of the two matrices, that a tensor of peft's name is stored under."""
        path, _, part = peft_name.partition(".lora_")
        return self.prefix + path.replace(".", self.separator), {"A": self.down, "B": self.up}[part[0]]

    def stored(self, lora: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
        """Rename peft's tensors to the keys of files.

        Args:
            lora: by `<path>.lora_A.weight` and `<path>.lora_B.weight`, with or without the adapter's name before
                `.weight`.
            alpha: of the LoRA; its scale is alpha / rank.

        Returns:
            float32 copies on the CPU. Where files hold no alpha, the scale is in the second matrix.
        """
        renamed: dict[str, Tensor] = {}
        for name, tensor in lora.items():
            stem, ending = self.names_of(name)
            copy = tensor.detach().float().cpu().clone()
            if self.alpha:
                renamed[stem + self.alpha] = torch.tensor(float(alpha))
            elif ending == self.up:
                copy *= alpha / copy.shape[1]
            renamed[stem + ending] = copy
        return renamed

    def stems(self, keys: Iterable[str]) -> set[str]:
        """The layers that some keys of a file name."""
        return {key[: -len(ending)] for key in keys for ending in self.endings if key.endswith(ending)}

    @property
    def endings(self) -> tuple[str, ...]:
        """Of the keys that every layer has."""
        return tuple(filter(None, (self.down, self.up, self.alpha)))

    def rank(self, lora: Mapping[str, Tensor]) -> int:
        """Of a stored LoRA; 0 if it is empty."""
        return next((len(tensor) for key, tensor in lora.items() if key.endswith(self.down)), 0)

    def scale(self, lora: Mapping[str, Tensor], stem: str) -> float:
        """By which a layer's product of matrices is multiplied: alpha / rank."""
        if not self.alpha:
            return 1.0
        return float(lora[stem + self.alpha]) / len(lora[stem + self.down])


KOHYA_UNET = LoraLayout("lora_unet_", "_", ".lora_down.weight", ".lora_up.weight", ".alpha")
"""Of U-Nets: ComfyUI, A1111 and kohya's scripts read it."""

DIFFUSERS_TRANSFORMER = LoraLayout("transformer.", ".", ".lora_A.weight", ".lora_B.weight", "")
"""Of transformers: diffusers writes it, ComfyUI reads it."""
