"""The number formats of a training."""

from __future__ import annotations

import torch


def precision_for(mixed_precision: str, device: torch.device) -> torch.dtype:
    """The dtype of a `TailorConfig.mixed_precision` on a device; a CPU computes in float32 unless told bf16."""
    if mixed_precision == "no" or (device.type == "cpu" and mixed_precision != "bf16"):
        return torch.float32
    if mixed_precision == "auto":
        return torch.bfloat16 if device.type != "cuda" or torch.cuda.is_bf16_supported() else torch.float16
    return {"bf16": torch.bfloat16, "fp16": torch.float16}[mixed_precision]


def encoding_dtype(precision: torch.dtype) -> torch.dtype:
    """What pictures are encoded in; float16 overflows in the autoencoders of Stable Diffusion."""
    return torch.float32 if precision == torch.float16 else precision
