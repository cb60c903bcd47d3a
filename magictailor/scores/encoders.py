"""Networks that say how alike pictures are, or a picture and a text, through transformers; nothing is downloaded."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError

CLIP_MEAN, CLIP_DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class Encoder(Protocol):
    """Turns pictures into vectors whose angles say how alike they are, unless it `ComparesItself`.

    Attributes:
        name: for people, "CLIP" or "DINOv2".
        colour: (3,) that is nothing to it, see `regions.cut_out`.
    """

    name: str
    colour: Tensor

    def pictures(self, pictures: Sequence[Tensor]) -> Tensor:
        """(B, E) float32 on the CPU, of B pictures (3, H, W) in [0, 1] of any sizes."""
        ...


@runtime_checkable
class ComparesItself(Protocol):
    """An encoder whose vectors are compared by something else than their angles."""

    def alike(self, some: Tensor, others: Tensor) -> Tensor:
        """See `measures.Alike`."""
        ...


@runtime_checkable
class ReadsText(Protocol):
    """An encoder whose space texts have a place in, too."""

    def texts(self, texts: Sequence[str]) -> Tensor:
        """(B, E) float32 on the CPU."""
        ...


def prepared(picture: Tensor, size: int, mean: Sequence[float], deviation: Sequence[float]) -> Tensor:
    """A picture (3, H, W) in [0, 1] as encoders read it, (3, size, size).

    The shorter side is brought to `size` and the middle is cut out, in 256 levels, as CLIP's own preparation does.
    """
    height, width = picture.shape[-2:]
    if (height, width) != (size, size):
        factor = size / min(height, width)
        scaled = (round(factor * height), round(factor * width))
        picture = F.interpolate(picture[None], scaled, mode="bicubic", antialias=True)[0]
        top, left = (scaled[0] - size) // 2, (scaled[1] - size) // 2
        picture = picture[:, top : top + size, left : left + size]
    picture = (picture * 255.0).clamp(0.0, 255.0).round() / 255.0
    return (picture - _column(mean)) / _column(deviation)


class VisionEncoder:
    """A network of transformers' that reads pictures.

    Args:
        name: for people.
        network: pixels (B, 3, size, size) -> (B, E).
        size: of the pictures it reads.
        mean, deviation: of the colours it was trained on.
    """

    def __init__(
        self,
        name: str,
        network: Callable[[Tensor], Tensor],
        size: int,
        mean: Sequence[float],
        deviation: Sequence[float],
        device: torch.device | None = None,
    ) -> None:
        self.name, self.network, self.size = name, network, size
        self.mean, self.deviation, self.device = mean, deviation, device or torch.device("cpu")
        self.colour = torch.tensor(mean)

    @torch.no_grad()
    def pictures(self, pictures: Sequence[Tensor]) -> Tensor:
        """See `Encoder.pictures`; one at a time, so that a vector does not depend on the others."""
        read = [prepared(picture.float().cpu(), self.size, self.mean, self.deviation) for picture in pictures]
        return torch.cat([self.network(one[None].to(self.device)).float().cpu() for one in read])


class ClipEncoder(VisionEncoder):
    """Both encoders of a CLIP.

    Args:
        clip: transformers' CLIPModel.
        tokenizer: its own.
        mean, deviation: of the colours it was trained on.
    """

    def __init__(
        self, name: str, clip: Any, tokenizer: Any, mean: Sequence[float] = CLIP_MEAN,
        deviation: Sequence[float] = CLIP_DEVIATION, device: torch.device | None = None,
    ) -> None:  # fmt: skip
        def network(pixels: Tensor) -> Tensor:
            return clip.visual_projection(clip.vision_model(pixel_values=pixels).pooler_output)

        super().__init__(name, network, clip.config.vision_config.image_size, mean, deviation, device)
        self.clip, self.tokenizer = clip, tokenizer

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """See `ReadsText.texts`; what is longer than the encoder reads is cut off, as CLIP-T is measured."""
        length = self.clip.config.text_config.max_position_embeddings
        read = self.tokenizer(list(texts), padding=True, truncation=True, max_length=length, return_tensors="pt")
        answer = self.clip.text_model(**{name: ids.to(self.device) for name, ids in read.items()})
        return self.clip.text_projection(answer.pooler_output).float().cpu()


def require_encoder(folder: Path) -> str:
    """What a folder has: "clip" or "dinov2" in transformers' layout, or one of `perceptual.WEIGHTS`.

    Raises:
        InputError: it is missing or of another kind, or the package for it is; names "encoders".
    """
    from .perceptual import perceptual_of, require_perceptual

    perceptual = perceptual_of(folder)
    if perceptual:
        require_perceptual(perceptual, folder)
        return perceptual
    try:
        described: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError("encoders", f"{folder} is not a folder of transformers' ({error})") from error
    kind: str = described.get("model_type", "")
    if kind not in ("clip", "dinov2"):
        raise InputError("encoders", f"{folder.name} is of the kind {kind!r}; CLIP and DINOv2 are known here")
    return kind


def load_encoder(folder: Path, device: torch.device | None = None) -> Encoder:
    """What a folder has, see `require_encoder`.

    Raises:
        InputError: it is missing, damaged or of another kind; names "encoders".
    """
    from transformers import AutoModel, CLIPModel, CLIPTokenizer

    from .perceptual import PERCEPTUAL

    kind = require_encoder(folder)
    place = device or torch.device("cpu")
    if kind in PERCEPTUAL:
        return PERCEPTUAL[kind](folder, place)
    preparation = folder / "preprocessor_config.json"
    try:
        described = json.loads(preparation.read_text(encoding="utf-8")) if preparation.is_file() else {}
    except (OSError, ValueError) as error:
        raise InputError("encoders", f"{preparation} cannot be read ({error})") from error
    colours = described.get("image_mean", CLIP_MEAN), described.get("image_std", CLIP_DEVIATION)
    try:
        if kind == "clip":
            clip = _still(CLIPModel.from_pretrained(folder, local_files_only=True), place)
            tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
            return ClipEncoder(folder.name, clip, tokenizer, *colours, device=place)
        network = _still(AutoModel.from_pretrained(folder, local_files_only=True), place)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError("encoders", f"{folder.name} cannot be read ({' '.join(str(error).split())})") from error
    crop = described.get("crop_size", {}).get("height", 224)
    return VisionEncoder(folder.name, lambda pixels: network(pixels).pooler_output, crop, *colours, device=place)


def _still(network: Any, device: torch.device) -> nn.Module:
    still: nn.Module = network.eval().requires_grad_(False).to(device)
    return still


def _column(values: Sequence[float]) -> Tensor:
    return torch.tensor(values)[:, None, None]
