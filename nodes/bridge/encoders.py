"""The host's CLIP_VISION and CLIP as scores ask for them."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ...magictailor.errors import InputError
from ...magictailor.reference import Reference
from ...magictailor.scores.encoders import Encoder
from ...magictailor.scores.perceptual import DREAMSIM, LPIPS, PERCEPTUAL
from ...magictailor.scores.table import COMPONENT, CONCEPT, scored
from . import host
from .backbones import text_encoders_of
from .model_folders import perceptual_folder

# by what the host calls the kind
NAMES = {"clip_vision_model": "CLIP", "dinov2": "DINOv2", "dinov3": "DINOv3"}
SIGLIP = "SigLIP"
FURTHER = {"none": (), DREAMSIM: (DREAMSIM,), LPIPS: (LPIPS,), f"{DREAMSIM} and {LPIPS}": (DREAMSIM, LPIPS)}


class HostEncoder:
    """A CLIP_VISION; see `magictailor.scores.encoders.Encoder`."""

    def __init__(self, clip_vision):
        self.clip_vision = clip_vision
        self.name = NAMES.get(clip_vision.model_type, SIGLIP)
        self.colour = torch.tensor(clip_vision.image_mean)

    def pictures(self, pictures: Sequence[Tensor]) -> Tensor:
        """(B, E) of B pictures (3, H, W); one at a time, so that a vector does not depend on the others."""
        return torch.cat([self._embedded(picture.movedim(0, -1)[None]) for picture in pictures])

    def _embedded(self, image: Tensor) -> Tensor:
        found = self.clip_vision.encode_image(image)["image_embeds"].float().cpu()
        # SigLIP gives a vector for each place
        return found.mean(dim=1) if found.ndim == 3 else found


class HostClip(HostEncoder):
    """A CLIP_VISION and the text encoder of a CLIP that was trained with it."""

    def __init__(self, clip_vision, clip, key: str):
        super().__init__(clip_vision)
        self.clip, self.key = clip, key

    def texts(self, texts: Sequence[str]) -> Tensor:
        """(B, E); what is longer than the encoder reads is cut off, as CLIP-T is measured."""
        self.clip.load_model()
        return torch.cat([self._read(text) for text in texts])

    def _read(self, text: str) -> Tensor:
        first_chunk = self.clip.tokenize(text)[self.key.removeprefix("clip_")][:1]
        encoder = getattr(self.clip.cond_stage_model, self.key)
        _, pooled, *_ = encoder.encode_token_weights(first_chunk)
        return pooled.float().cpu()


def encoders_of(clip_visions: Mapping[str, object], clip=None) -> list[Encoder]:
    """What scores ask.

    Args:
        clip_visions: CLIP_VISION by the name of its input.
        clip: reads the prompts for those of them with which it shares a space.

    Raises:
        InputError: it shares one with none; names "clip".
    """
    found: list[Encoder] = [_encoder(clip_vision, clip) for clip_vision in clip_visions.values()]
    if clip is not None and not any(isinstance(encoder, HostClip) for encoder in found):
        widths = ", ".join(sorted({str(width) for width in _projections(clip).values()})) or "none"
        raise InputError(
            "clip",
            f"its texts ({widths}) and these CLIP_VISIONs' pictures "
            f"({', '.join(str(_width(vision)) for vision in clip_visions.values())}) have no space in common",
        )
    return found


def further_of(chosen: str) -> list[Encoder]:
    """What one of `FURTHER` stands for.

    Raises:
        InputError: a package or weights are missing; names "further_measures".
    """
    try:
        return [PERCEPTUAL[name](perceptual_folder(name), host.torch_device()) for name in FURTHER[chosen]]
    except InputError as error:
        raise InputError("further_measures", error.message) from error


def judge_of(references: Sequence[Reference], clip_vision) -> Callable[[Tensor], list[float]]:
    """Says how alike a picture (3, H, W) in [0, 1], taken whole, is to each reference."""
    encoder = HostEncoder(clip_vision)

    def judge(picture: Tensor) -> list[float]:
        # the host's weights were made in this mode
        with torch.inference_mode():
            table = scored([picture], references, [encoder])
        return [column.values[0] for column in table.columns if column.measure in (CONCEPT, COMPONENT)]

    return judge


def _encoder(clip_vision, clip) -> HostEncoder:
    keys = [] if clip is None else [key for key, width in _projections(clip).items() if width == _width(clip_vision)]
    return HostClip(clip_vision, clip, keys[0]) if keys else HostEncoder(clip_vision)


def _width(clip_vision) -> int | None:
    """Of the space that pictures share with texts; None if there is none, as of DINOv2."""
    projection = getattr(clip_vision.model, "visual_projection", None)
    weight = getattr(projection, "weight", None)
    return None if weight is None else int(weight.shape[0])


def _projections(clip) -> dict[str, int]:
    """Widths of the spaces that texts are brought to, by text encoder."""
    found = {}
    for key in sorted(text_encoders_of(clip)):
        projection = getattr(getattr(clip.cond_stage_model, key).transformer, "text_projection", None)
        if projection is not None and _was_loaded(projection.weight):
            found[key] = int(projection.weight.shape[0])
    return found


def _was_loaded(weight: Tensor) -> bool:
    """Whether a file had this projection: SD 1.x checkpoints do not, and the host leaves what was in memory."""
    deviation = float(weight.float().std())
    return bool(torch.isfinite(weight).all()) and 1e-3 < deviation < 1.0
