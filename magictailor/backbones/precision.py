"""The number formats of a training."""

from __future__ import annotations

import torch


def precision_for(mixed_precision: str, device: torch.device) -> torch.dtype:
    """The dtype of a `TailorConfig.mixed_precision` on a device; a CPU computes in float32 unless told bf16."""
    if mixed_precision == "no" or (device.type == "cpu" and mixed_precision != "bf16"):
        return torch.float32
    if mixed_precision == "auto":
        return _fastest_dtype(device)
    return {"bf16": torch.bfloat16, "fp16": torch.float16}[mixed_precision]


def _fastest_dtype(device: torch.device) -> torch.dtype:
    if device.type == "cuda":
        # cards before Ampere only emulate bfloat16, slower than 32 bits
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    # of other devices it is not known what they compute in 16 bits, and how well
    return torch.bfloat16 if device.type in ("xpu", "meta") else torch.float32


def encoding_dtype(precision: torch.dtype) -> torch.dtype:
    """What pictures are encoded in; float16 overflows in the autoencoders of Stable Diffusion."""
    return torch.float32 if precision == torch.float16 else precision


def has_fused_adam(device: torch.device) -> bool:
    """Whether torch updates everything that is trained in one operation there."""
    return device.type in ("cpu", "cuda", "meta")
