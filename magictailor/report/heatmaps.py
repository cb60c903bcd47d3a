"""Where a network looks for a word: its attention as a picture."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from ..backbones.protocol import Backbone
from ..errors import InputError
from ..sampling import whole_picture
from .fitting import shortened
from .fonts import log_missing, pillow_font

# perceptually uniform, readable without colour vision and in print
COLOURS = matplotlib.colormaps["inferno"]
OPACITY = 0.65


@torch.no_grad()
def word_attention(
    model: Backbone, latents: Tensor, noise: Tensor, noise_level: float, prompt: str, words: Sequence[str]
) -> Tensor:
    """How much of the network's attention words of a prompt get while it looks at a noisy picture.

    The average over heads and over the layers the attention loss reads; a word of several pieces gets their sum. Leaves
    the model as it was.

    Args:
        latents: (1, C, h, w) of the picture, as the network sees them.
        noise: (1, C, h, w) standard normal.
        noise_level: 0 to 1, how noisy.
        words: W ordinary words, or token names.

    Returns:
        (W, h', w') in [0, 1], float32.

    Raises:
        InputError: a word does not stand in the prompt; names "words".
    """
    places = [require_positions(model.positions(prompt, word), word) for word in words]
    columns = torch.tensor([column for place in places for column in place], device=model.device)
    timestep = model.timestep_at(noise_level)
    noisy, _ = model.noised(latents, noise, timestep[None])
    maps = model.predict(
        noisy.expand(len(columns), -1, -1, -1),
        timestep,
        model.encode_prompts([prompt] * len(columns)),
        sizes=whole_picture(model, noisy, len(columns)),
        watch=columns[:, None],
    ).maps
    assert maps is not None
    return torch.stack([pieces.sum(0) for pieces in maps.split([len(place) for place in places])])


def require_positions(positions: Sequence[int], word: str) -> Sequence[int]:
    """Refuse a word that does not stand in the prompt.

    Raises:
        InputError: names "words".
    """
    if not positions:
        raise InputError("words", f"{word} does not stand in the prompt; write it there, or leave it out here")
    return positions


def heat_map(picture: Tensor, attention: Tensor) -> Tensor:
    """Attention as colours over a greyed picture, from dark (none) to bright yellow (its own largest value).

    Args:
        picture: (3, H, W) in [0, 1].
        attention: (h, w), not negative.

    Returns:
        (3, H, W) in [0, 1] on the CPU.
    """
    attention = attention.detach().float().cpu()
    share = attention / attention.max().clamp_min(torch.finfo(torch.float32).tiny)
    large = F.interpolate(share[None, None], picture.shape[-2:], mode="bicubic", antialias=True)[0, 0].clamp(0.0, 1.0)
    colours = torch.from_numpy(COLOURS(large.numpy())[..., :3]).float().movedim(-1, 0)
    grey = (picture.float().cpu() * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0, keepdim=True)
    return torch.lerp(grey.expand(3, -1, -1), colours, OPACITY).clamp(0.0, 1.0)


def captioned(picture: Tensor, text: str) -> Tensor:
    """The picture (3, H, W) in [0, 1] below a dark strip with a text; the strip's height depends on W alone.

    Where the text is too long for that, its middle is left out.
    """
    height, width = picture.shape[-2:]
    size = max(10, round(width / 22))
    log_missing(text)
    font = pillow_font(text, size)
    while size > 6 and font.getlength(text) > width - size:
        size -= 1
        font = pillow_font(text, size)
    text = shortened(text, font, width - size)
    strip = Image.new("RGB", (width, max(18, round(width / 12))), "black")
    ImageDraw.Draw(strip).text((width / 2, strip.height / 2), text, font=font, fill="white", anchor="mm")
    top = torch.from_numpy(np.array(strip)).movedim(-1, 0).float() / 255
    return torch.cat([top, picture.float().cpu()], dim=1)
