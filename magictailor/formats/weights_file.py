"""Files of tensors: reading those of models, saying what a wrong one looks like, writing new ones."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError

from ..errors import InputError
from .new_file import new_file

# A file in a foreign layout is named by a weight that only its kind has; the first match counts.
_KINDS = (
    ("mask_decoder.hf_token.weight", "an HQ-SAM file"),
    ("image_encoder.patch_embed.seq.0.c.weight", "a MobileSAM file"),
    ("image_encoder.trunk.patch_embed.proj.weight", "a SAM 2 file"),
    ("image_encoder.pos_embed", "a Segment Anything file"),
    ("transformer.level_embed", "a Grounding DINO file"),
    ("model.diffusion_model.input_blocks.0.0.weight", "a Stable Diffusion checkpoint"),
    ("embeddings.word_embeddings.weight", "a BERT file"),
)


def read_weights(path: str | Path, field: str) -> dict[str, torch.Tensor]:
    """The tensors in a .safetensors file or a torch checkpoint, by name, on the CPU.

    A dict below "model", "state_dict" or "string_to_param" is unpacked, a "module." prefix removed. Nothing but tensors
    and plain containers is ever unpickled (torch.load, weights_only=True).

    Raises:
        InputError: naming `field`: the file is missing, damaged, or holds no tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(field, f"there is no file {path.name} in {path.parent}")
    try:
        if path.suffix.lower() in (".safetensors", ".sft"):
            content = safetensors.torch.load_file(path)
        else:
            _require_unpacked(path)
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            field,
            f"{path.name} cannot be read as model weights: it is damaged, or it holds program objects beside tensors, "
            "which are never loaded; download it again, as .safetensors if there is one",
        ) from error
    # both readers raise errors of any kind on damaged files
    except Exception as error:
        raise InputError(
            field,
            f"{path.name} cannot be read as model weights; it may be damaged or half downloaded; download it again",
        ) from error
    for key in ("model", "state_dict", "string_to_param"):
        inner = content.get(key) if isinstance(content, dict) else None
        if isinstance(inner, dict):
            content = inner
    if not isinstance(content, dict):
        raise InputError(field, f"{path.name} holds no model weights")
    weights = {
        str(name).removeprefix("module."): value for name, value in content.items() if isinstance(value, torch.Tensor)
    }
    if not weights:
        raise InputError(field, f"{path.name} holds no model weights")
    return weights


def in_full(tensor: torch.Tensor) -> torch.Tensor | None:
    """Real numbers of any kind in float32; None for complex ones, and for kinds that torch cannot convert."""
    if tensor.is_complex():
        return None
    try:
        return tensor.float()
    except NotImplementedError:  # two numbers in a byte
        return None


def are_finite(tensor: torch.Tensor) -> bool:
    """Whether a tensor is of floating-point numbers that torch can compute with, none of them infinite or NaN."""
    full = in_full(tensor) if tensor.is_floating_point() else None
    return full is not None and bool(full.isfinite().all())


def _require_unpacked(path: Path) -> None:
    """Refuse a checkpoint that gets larger when it is read; torch packs none."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("it is packed")


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Write a new .safetensors file, whole or not at all, see `new_file`.

    Raises:
        FileExistsError: the file is there already; it is left as it is.
        OSError: it cannot be written.
    """
    with new_file(path) as temporary:
        try:
            safetensors.torch.save_file(
                {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
                temporary,
                dict(metadata),
            )
        except SafetensorError as error:  # a full disk, for one
            raise OSError(f"{path} cannot be written: {error}") from error


def kind_of(weights: dict[str, torch.Tensor]) -> str:
    """What a set of weights looks like, for an error message."""
    for key, kind in _KINDS:
        if key in weights or f"model.{key}" in weights:
            return kind
    return "a model of a kind not known here"
