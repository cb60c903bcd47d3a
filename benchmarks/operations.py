"""How many operations a U-Net's forward and backward pass launch: alone, with a LoRA as usual, and with it as here.

    python -m benchmarks.operations

Counted at full size for two pictures on tensors that have shapes and no values, see `meter`. An operation is one kernel
or more on a GPU. Alone, gradients go through the network to its input, and there is no LoRA to have any. "Usual" is
peft's own LoRA layers under autocast, norms in 32 bits, as training scripts have it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import diffusers
import torch
import torch.nn.functional as F
from peft import LoraConfig
from torch import Tensor
from torch.overrides import TorchFunctionMode

from magictailor.backbones.lora import add_lora
from magictailor.backbones.stable_diffusion.attention import watch_attention
from magictailor.backbones.stable_diffusion.backbone import LORA_TARGETS

from .meter import META, Meter, without_values
from .shapes import SHAPES, make_parts

WAYS = ("alone", "usual LoRA", "this pack's LoRA", "and watched tokens")
IN_16_BITS = (F.linear, F.conv2d, F.scaled_dot_product_attention, torch.bmm, torch.matmul)
IN_32_BITS = (F.group_norm, F.layer_norm)
RANK = 32
FAMILIES = {"SD 1.5": "sd15", "SDXL": "sdxl"}


class Autocast(TorchFunctionMode):
    """The casts of CUDA's autocast, which meta tensors have not: products in bfloat16, norms in float32."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        wanted = torch.bfloat16 if func in IN_16_BITS else torch.float32 if func in IN_32_BITS else None
        if wanted is None:
            return func(*args, **(kwargs or {}))

        def cast(given: Any) -> Any:
            return given.to(wanted) if isinstance(given, Tensor) and given.is_floating_point() else given

        return func(*map(cast, args), **{name: cast(given) for name, given in (kwargs or {}).items()})


def operations(name: str, way: str) -> int:
    """Of one pass forward and one backward.

    Args:
        name: of a shape.
        way: one of `WAYS`; the last has what the attention loss reads as well.
    """
    shape = SHAPES[name]
    side, half = shape.resolution // 8, {"device": META, "dtype": torch.bfloat16}
    with without_values():
        unet = make_parts(shape, torch.bfloat16, META).network
        noisy = torch.zeros(2, 4, side, side, **half, requires_grad=True)
        timesteps = torch.zeros(2, device=META)
        prompt = torch.zeros(2, 77, unet.config.cross_attention_dim, **half)
        sizes = {"text_embeds": torch.zeros(2, 1280, **half), "time_ids": torch.zeros(2, 6, device=META)}
        added = sizes if unet.config.addition_embed_type == "text_time" else None
        capture, autocast = None, Autocast() if way == WAYS[1] else nullcontext()
        if way == WAYS[1]:
            unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(LORA_TARGETS)))
        elif way in WAYS[2:]:
            add_lora(unet, LORA_TARGETS, RANK, seed=0, device=META)
            capture = watch_attention(unet)
        if way == WAYS[3]:
            assert capture is not None
            capture.start(torch.ones(2, 1, device=META, dtype=torch.long))
        meter = Meter()
        with meter:
            with autocast:
                answer = unet(noisy, timesteps, prompt, added_cond_kwargs=added).sample
            found = answer.float().sum()
            if way == WAYS[3]:
                assert capture is not None
                found = found + capture.mean_map((side, side)).sum()
            found.backward()
    return meter.launches.total()


def main() -> None:
    diffusers.logging.set_verbosity_error()
    print(f"{'':8}" + "".join(f"{way:>22}" for way in WAYS))
    for title, name in FAMILIES.items():
        print(f"{title:8}" + "".join(f"{operations(name, way):22,}" for way in WAYS), flush=True)


if __name__ == "__main__":
    main()
