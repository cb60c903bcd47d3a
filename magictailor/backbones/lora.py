"""Adding a LoRA to a frozen network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers.loaders.peft import PeftAdapterMixin
from peft import LoraConfig
from peft.tuners.lora import Conv2d, Linear
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from ..draws import step_generator


def add_lora(network: PeftAdapterMixin, targets: Sequence[str], rank: int, seed: int) -> None:
    """Give a diffusers network a trainable LoRA, whose alpha is its rank.

    Args:
        targets: endings of the names of the layers that get one.
        seed: of its first values: normal with a deviation of 1 / rank, and zeros.
    """
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(targets))
    # peft would ask every quantization package that it knows first, and an old torchao makes it give up
    config._register_custom_module({nn.Linear: Linear, nn.Conv2d: Conv2d})
    # peft's own first values come from the global generator, which is the host's
    with torch.random.fork_rng():
        network.add_adapter(config)
    for module in network.modules():
        if isinstance(module, BaseTunerLayer):
            # autocast does it; by way of peft's 32 bits each LoRA would keep a copy of the input of its own
            module.cast_input_dtype_enabled = False
    generator = step_generator(seed, 0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if ".lora_A." in name:
                parameter.data = parameter.data.float()
                parameter.copy_(torch.empty(parameter.shape).normal_(std=1.0 / rank, generator=generator))
            elif ".lora_B." in name:
                parameter.data = torch.zeros_like(parameter, dtype=torch.float32)


def lora_of(network: nn.Module) -> dict[str, nn.Parameter]:
    """The LoRA's tensors by their name in the network."""
    return {name: p for name, p in network.named_parameters() if ".lora_" in name}
