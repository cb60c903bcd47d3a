"""Modules of other libraries from state dicts in memory, sharing the caller's weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..errors import InputError

M = TypeVar("M", bound=nn.Module)


def shared(tensor: Tensor, dtype: torch.dtype | None = None, device: torch.device | None = None) -> Tensor:
    """The tensor on that device in that dtype: the same memory where both already fit or are None, otherwise a copy.

    A tensor made in inference mode cannot be saved for a backward pass; what is returned is an ordinary tensor on the
    same storage.
    """
    tensor = tensor.detach()
    dtype, device = dtype or tensor.dtype, device or tensor.device
    if tensor.is_inference() and tensor.dtype == dtype and tensor.device == device:
        return torch.empty(0, dtype=dtype, device=device).set_(
            tensor.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride()
        )
    return tensor.to(device=device, dtype=dtype)


def filled(module: M, state: Mapping[str, Tensor], field: str) -> M:
    """A module built without memory, given its weights as they are and frozen; `placement` brings it to its place.

    Args:
        field: the input that is to blame if they do not fit.

    Raises:
        InputError: weights are missing, left over or of other shapes.
    """
    placed = {key: shared(value) for key, value in state.items()}
    try:
        missing, unexpected = module.load_state_dict(placed, strict=False, assign=True)
    except RuntimeError as error:
        raise InputError(field, f"its weights do not have the shapes of its family: {str(error)[:300]}") from error
    if missing or unexpected:
        strange = ", ".join([f"missing {key}" for key in missing[:3]] + [f"unknown {key}" for key in unexpected[:3]])
        raise InputError(
            field,
            f"its weights are not those of its family ({len(missing)} missing, {len(unexpected)} unknown: {strange})",
        )
    return module.requires_grad_(False)


def below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose keys begin with a prefix, without it."""
    return {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
