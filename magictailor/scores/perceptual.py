"""DreamSim (Fu et al. 2023) and LPIPS (Zhang et al. 2018), by their own packages where those are installed.

Both packages download weights that they do not find; here nothing is downloaded, so the weights have to be there.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from ..errors import InputError
from .encoders import Encoder, prepared

DREAMSIM, LPIPS = "DreamSim", "LPIPS"
# as the packages name them, below the folder that is given
WEIGHTS = {
    DREAMSIM: (
        "dino_vitb16_pretrain.pth",
        "clip_vitb16_pretrain.pth.tar",
        "open_clip_vitb16_pretrain.pth.tar",
        "ensemble_lora",
    ),
    LPIPS: ("checkpoints/alexnet-owt-7be5be79.pth",),
}
_GREY = 0.5
_SIZE = 224  # that LPIPS is shown pictures at; DreamSim has its own preparation


class DreamSim:
    """DreamSim's ensemble: one less its distance is the cosine of its vectors. See `encoders.Encoder`."""

    name = DREAMSIM
    colour = torch.full((3,), _GREY)

    def __init__(self, folder: Path, device: torch.device) -> None:
        require_perceptual(DREAMSIM, folder)
        from dreamsim import dreamsim

        with redirect_stdout(StringIO()):
            self.network, self.preparation = dreamsim(pretrained=True, device=str(device), cache_dir=str(folder))
        self.device = device

    @torch.no_grad()
    def pictures(self, pictures: Sequence[Tensor]) -> Tensor:
        """(B, E) float32 on the CPU; one at a time, so that a vector does not depend on the others."""
        read = [self.preparation(to_pil_image(picture.float().cpu().clamp(0.0, 1.0))) for picture in pictures]
        return torch.cat([self.network.embed(one.to(self.device)).float().cpu() for one in read])


class Lpips:
    """LPIPS on AlexNet, as one less the distance; see `encoders.Encoder` and `encoders.ComparesItself`."""

    name = LPIPS
    colour = torch.full((3,), _GREY)

    def __init__(self, folder: Path, device: torch.device) -> None:
        require_perceptual(LPIPS, folder)
        import lpips

        before = torch.hub.get_dir()
        torch.hub.set_dir(str(folder))
        try:
            self.network = lpips.LPIPS(net="alex", verbose=False).to(device)
        finally:
            torch.hub.set_dir(before)
        self.device = device

    def pictures(self, pictures: Sequence[Tensor]) -> Tensor:
        """(B, 3 * S * S): the pixels from -1 to 1, for LPIPS has a distance of two pictures and no vector of one."""
        middle = (_GREY,) * 3
        return torch.stack([prepared(p.float().cpu(), _SIZE, middle, middle).flatten() for p in pictures])

    @torch.no_grad()
    def alike(self, some: Tensor, others: Tensor) -> Tensor:
        """(B, K), of each of B with each of K; 1 for the same."""
        shape = (1, 3, _SIZE, _SIZE)
        distances = [
            [float(self.network(one.reshape(shape).to(self.device), other.reshape(shape).to(self.device)))
             for other in others]
            for one in some
        ]  # fmt: skip
        return 1.0 - torch.tensor(distances).reshape(len(some), len(others))


PERCEPTUAL: dict[str, Callable[[Path, torch.device], Encoder]] = {DREAMSIM: DreamSim, LPIPS: Lpips}


def perceptual_of(folder: Path) -> str | None:
    """Which of them a folder has weights of, also if not all; None if of neither."""
    found = [name for name, files in WEIGHTS.items() if any((folder / file).exists() for file in files)]
    return found[0] if found else None


def require_perceptual(name: str, folder: Path) -> None:
    """Refuse to begin without the package, or without all weights: it would download them.

    Raises:
        InputError: something is missing; names "encoders".
    """
    package = name.lower()
    if importlib.util.find_spec(package) is None:
        raise InputError("encoders", f"{name} needs the package {package}; pip install {package} brings it")
    missing = [file for file in WEIGHTS[name] if not (folder / file).exists()]
    if missing:
        raise InputError(
            "encoders", f"{folder} lacks {', '.join(missing)}, which {name} needs; nothing is downloaded here"
        )
