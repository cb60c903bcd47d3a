"""Adding a LoRA to a frozen network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.loaders.peft import PeftAdapterMixin
from peft import LoraConfig
from peft.tuners.lora import Conv2d, Linear
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from ..draws import step_generator


def add_lora(
    network: PeftAdapterMixin, targets: Sequence[str], rank: int, seed: int, device: torch.device | None = None
) -> None:
    """Give a diffusers network a trainable LoRA, whose alpha is its rank.

    Args:
        targets: endings of the names of the layers that get one.
        seed: of its first values: normal with a deviation of 1 / rank, and zeros.
        device: for the LoRA; None: the network's.
    """
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(targets))
    # peft would ask every quantization package that it knows first, and an old torchao makes it give up
    config._register_custom_module({nn.Linear: Linear, nn.Conv2d: Conv2d})
    # peft's own first values come from the global generator, which is the host's
    with torch.random.fork_rng():
        network.add_adapter(config)
    for module in network.modules():
        if isinstance(module, BaseTunerLayer):
            module.forward = _Added(module)
    generator = step_generator(seed, 0)
    with torch.no_grad():
        for name, module in network.named_modules():
            if ".lora_A." in name:
                first = torch.empty(module.weight.shape).normal_(std=1.0 / rank, generator=generator)
            elif ".lora_B." in name:
                first = torch.zeros(module.weight.shape)
            else:
                continue
            module.weight = nn.Parameter(first.to(device or module.weight.device))


class _Added:
    """Stands in for the forward pass of a peft layer: the frozen layer and its LoRA, in the number format of the input.

    Peft's own would compute the LoRA in 32 bits and keep the input in them; and it takes half as many operations again.
    """

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        ((self.adapter, _),) = layer.lora_A.items()

    def __call__(self, states: Tensor) -> Tensor:
        # looked up at every call: another LoRA may stand in for the trained one
        down, up = (part[self.adapter].weight.to(states.dtype) for part in (self.layer.lora_A, self.layer.lora_B))
        frozen: Tensor = self.layer.base_layer(states)
        if down.ndim == 4:
            return frozen + F.conv2d(F.conv2d(states, down), up)
        low = F.linear(states, down)
        return torch.addmm(frozen.flatten(0, -2), low.flatten(0, -2), up.t()).view_as(frozen)


def lora_of(network: nn.Module) -> dict[str, nn.Parameter]:
    """The LoRA's tensors by their name in the network."""
    return {name: p for name, p in network.named_parameters() if ".lora_" in name}
