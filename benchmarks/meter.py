"""What a training step at full size needs, without a GPU and without computing it: on fake tensors.

Shapes, number formats, devices and storages of fake tensors are real, values are not. Live bytes are those that
torch.cuda.max_memory_allocated would show, without workspaces and fragmentation.
"""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.optim import optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakIdKeyDictionary

from magictailor.backbones import placement

META = torch.device("meta")
_PLAIN, _FUSED = F.scaled_dot_product_attention, torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
BLOCK = 512  # bytes; CUDA's allocator hands out multiples of it
# a GPU is waited for where the CPU needs a value
_WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "_unique2", "equal", "is_nonzero")
# these only look at memory in another way
_FREE = (
    "view", "_unsafe_view", "t", "transpose", "permute", "expand", "as_strided", "slice", "select", "detach", "alias",
    "unsqueeze", "squeeze", "split", "split_with_sizes", "unbind", "chunk", "empty", "empty_like", "empty_strided",
    "new_empty", "new_empty_strided", "lift_fresh", "_reshape_alias", "diagonal", "set_", "unfold", "is_pinned",
    "prim_device", "device", "_local_scalar_dense",
)  # fmt: skip

# what stands in for a GPU's fused attention
_FLOPS = flop_registry | {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[
        torch.ops.aten._scaled_dot_product_flash_attention
    ],
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        torch.ops.aten._scaled_dot_product_flash_attention_backward
    ],
}

_KNOWN: dict[Any, Any] = {}


class Meter(TorchDispatchMode):
    """Counts while it is entered.

    Attributes:
        live, peak: bytes of all tensors that were seen and still are there, and the most there ever were.
        flops: of matrix products, convolutions and attention.
        waits: how often the host waited for the device.
        launches: operations that are one kernel or more on a GPU, by name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = self.waits = self.flops = 0
        self.launches: Counter[str] = Counter()
        self.seen = WeakIdKeyDictionary()

    def hold(self, tensors: Iterable[Tensor]) -> None:
        """Count tensors that are on the device already."""
        for tensor in tensors:
            self._see(tensor)

    def from_here(self) -> None:
        """Look for the peak anew, from what is live now."""
        gc.collect()
        self.peak, self.waits, self.flops = self.live, 0, 0
        self.launches.clear()

    def _see(self, tensor: Any) -> None:
        if not isinstance(tensor, Tensor):
            return
        storage = tensor.untyped_storage()
        if storage in self.seen:
            return
        size = -(-storage.nbytes() // BLOCK) * BLOCK
        self.seen[storage] = size
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._gone, size)

    def _gone(self, size: int) -> None:
        self.live -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        name = func._schema.name.partition("::")[2]
        if name in _WAITS:
            self.waits += 1
        if name not in _FREE:
            self.launches[name] += 1
        if name == "_local_scalar_dense":
            # some value of that kind: a first reference, or a loss that is finite
            return 1.0 if args[0].is_floating_point() else 0
        if name == "_to_copy" and args[0].is_meta and (kwargs or {}).get("device") == torch.device("cpu"):
            self.waits += 1
            return torch.ones(args[0].shape, dtype=args[0].dtype)
        out = self._answered(func, args, kwargs or {})
        counted = _FLOPS.get(func._overloadpacket)
        if counted is not None:
            self.flops += counted(*args, **(kwargs or {}), out_val=out)
        for tensor in tree_leaves(out):
            self._see(tensor)
        return out

    def _answered(self, func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
        """What an operation gives; the same shapes give the same shapes, and need not be worked out again."""
        if func._schema.is_mutable or any(answer.alias_info for answer in func._schema.returns):
            return func(*args, **kwargs)
        leaves = tree_leaves((args, kwargs))
        key = (func, *map(_described, leaves))
        known = _KNOWN.get(key)
        if known is None:
            out = func(*args, **kwargs)
            tensors = out if isinstance(out, (tuple, list)) else (out,)
            aliases = {id(leaf) for leaf in leaves if isinstance(leaf, Tensor)}
            if out is not None and all(
                t is None or (isinstance(t, Tensor) and t.is_meta and id(t) not in aliases) for t in tensors
            ):
                described = [None if t is None else (t.shape, t.stride(), t.dtype) for t in tensors]
                _KNOWN[key] = (type(out), described)
            return out
        kind, described = known
        made = [None if d is None else torch.empty_strided(d[0], d[1], dtype=d[2], device=META) for d in described]
        return made[0] if issubclass(kind, Tensor) else kind(made)


def _described(leaf: Any) -> Any:
    return (leaf.shape, leaf.stride(), leaf.dtype) if isinstance(leaf, Tensor) else (type(leaf), str(leaf))


@contextmanager
def fake_tensors() -> Iterator[FakeTensorMode]:
    """Tensors made inside are fake, and what reads values off them is given some."""
    fake = FakeTensorMode()
    with ExitStack() as stack:
        # one look at the device for a whole list
        stack.enter_context(mock.patch.object(FakeTensor, "tolist", _values))
        # it would write real numbers into the generator's state
        stack.enter_context(mock.patch.object(torch.random, "fork_rng", lambda **named: ExitStack()))
        # the weights of a module cannot be swapped for others that are fake; the library places them itself
        stack.enter_context(mock.patch.object(nn.Module, "to", _stay))
        stack.enter_context(fake)
        yield fake


def given_fake_weights(module: nn.Module, device: torch.device) -> None:
    """Fake weights on a device in place of those that a module has on meta, inside `fake_tensors`."""
    placed: dict[int, Tensor] = {}
    for layer in module.modules():
        for tensors in (layer._parameters, layer._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    if id(tensor) not in placed:
                        made = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
                        placed[id(tensor)] = nn.Parameter(made, False) if isinstance(tensor, nn.Parameter) else made
                    tensors[name] = placed[id(tensor)]


def _stay(module: nn.Module, *given: Any, **named: Any) -> nn.Module:
    return module


def _values(tensor: Tensor) -> list[float]:
    value = tensor.flatten()[0].item()
    return [value] * tensor.numel()


@contextmanager
def without_values() -> Iterator[None]:
    """Meta tensors take a training step as they would on a GPU; they are faster than fake ones, and tell no devices."""
    with ExitStack() as stack:
        for target, name, stand_in in (
            (F, "scaled_dot_product_attention", _fused_attention),
            # weights that lie away from the device have no values either
            (placement, "HOME", META),
            (optimizer, "_get_fused_kernels_supported_devices", lambda: ["meta"]),
            (torch.random, "fork_rng", lambda **named: ExitStack()),
        ):
            stack.enter_context(mock.patch.object(target, name, stand_in))
        yield


def _fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **more: Any,
) -> Tensor:
    if attn_mask is not None:
        return _PLAIN(query, key, value, attn_mask, scale=scale)
    return _FUSED(query, key, value, dropout_p, is_causal, scale=scale)[0]
