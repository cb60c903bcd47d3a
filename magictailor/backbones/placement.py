"""Where the frozen weights of a network lie while it is trained: on the device, or away from it until they are used."""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input
from torch.utils.checkpoint import checkpoint

from .module_weights import shared

HOME = torch.device("cpu")
_LAYERS = (nn.Linear, nn.Conv2d)


def place(module: nn.Module, dtype: torch.dtype, device: torch.device, away: bool = False) -> None:
    """Bring the frozen weights of a module to a device in a dtype; what is trained stays as it is.

    Args:
        away: leave the matrices and convolutions on the CPU, from where each is brought for the time it is used, in the
            forward pass and again in the backward pass; gradients are the same. What is away already stays away.
    """
    last = torch.channels_last if device.type == "cuda" else torch.preserve_format
    placed: dict[int, nn.Parameter] = {}
    for layer in module.modules():
        if away and isinstance(layer, _LAYERS) and not layer.weight.requires_grad and not is_away(layer):
            _send_away(layer, dtype, device)
        for name, weight in layer._parameters.items():
            if weight is None or weight.requires_grad or (name == "weight" and is_away(layer)):
                continue
            if id(weight) not in placed:
                tensor = shared(weight.data, dtype if weight.is_floating_point() else None, device)
                if tensor.ndim == 4:
                    tensor = tensor.contiguous(memory_format=last) if last is torch.channels_last else tensor
                placed[id(weight)] = nn.Parameter(tensor, requires_grad=False)
            layer._parameters[name] = placed[id(weight)]
        for name, buffer in layer._buffers.items():
            if buffer is not None:
                layer._buffers[name] = shared(buffer, dtype if buffer.is_floating_point() else None, device)


def sizes(module: nn.Module, dtype: torch.dtype) -> tuple[int, int]:
    """Bytes of the frozen weights of a module in a dtype, and of what `place` leaves on the device with `away`."""
    whole = layers = 0
    seen = set()
    for layer in module.modules():
        for name, weight in (*layer._parameters.items(), *layer._buffers.items()):
            if weight is None or weight.requires_grad or id(weight) in seen:
                continue
            seen.add(id(weight))
            size = weight.numel() * (dtype.itemsize if weight.is_floating_point() else weight.dtype.itemsize)
            whole += size
            if name == "weight" and isinstance(layer, _LAYERS):
                layers += size
    return whole, whole - layers


def is_away(layer: nn.Module) -> bool:
    """Whether the weight of a layer lies away from the device."""
    return isinstance(getattr(layer, "forward", None), _Brought)


def _send_away(layer: Any, dtype: torch.dtype, device: torch.device) -> None:
    weight = layer.weight.data
    # what is no larger than it has to be is not copied: it may be the host's own
    home = shared(weight, None if weight.dtype.itemsize <= dtype.itemsize else dtype, HOME)
    layer.forward = _Brought(layer, home, dtype, device)
    # others still read its shape and dtype
    layer.weight = nn.Parameter(torch.empty(weight.shape, dtype=dtype, device="meta"), requires_grad=False)


class _Brought:
    """Stands in for the forward pass of a layer whose weight is away."""

    def __init__(self, layer: Any, home: Tensor, dtype: torch.dtype, device: torch.device) -> None:
        self.layer, self.home, self.dtype, self.device = layer, home, dtype, device

    def __call__(self, states: Tensor) -> Tensor:
        result: Tensor = _AwayLayer.apply(states, self)
        return result

    def brought(self) -> Tensor:
        # always a copy: on a CPU the same memory is counted and used as on a GPU
        return torch.empty_like(self.home, dtype=self.dtype, device=self.device).copy_(self.home)

    def forward(self, states: Tensor) -> Tensor:
        layer, weight = self.layer, self.brought()
        if isinstance(layer, nn.Conv2d):
            return F.conv2d(states, weight, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups)
        return F.linear(states, weight, layer.bias)

    def backward(self, shape: torch.Size, gradient: Tensor) -> Tensor:
        layer, weight = self.layer, self.brought()
        if isinstance(layer, nn.Conv2d):
            return conv2d_input(shape, weight, gradient, layer.stride, layer.padding, layer.dilation, layer.groups)
        return gradient @ weight


class _AwayLayer(torch.autograd.Function):
    """A layer that is linear in its input: neither pass has to remember anything but where the weight lies."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, layer: _Brought) -> Tensor:
        ctx.layer, ctx.shape = layer, states.shape
        return layer.forward(states)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.layer.backward(ctx.shape, gradient), None


def repeat_layers(network: Any, repeat: bool) -> None:
    """Whether a diffusers network forgets what happens inside its layers, and repeats them in the backward pass."""
    if not repeat:
        network.disable_gradient_checkpointing()
    elif signature(network.enable_gradient_checkpointing).parameters:
        network.enable_gradient_checkpointing(_repeated)
    else:
        # diffusers before 0.33 has a way of its own, which leaves a U-Net's attention out
        network.enable_gradient_checkpointing()


def _repeated(layer: nn.Module, *given: Any) -> Any:
    # nothing in these networks is random
    return checkpoint(layer, *given, use_reentrant=False, preserve_rng_state=False)
