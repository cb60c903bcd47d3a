"""A picture drawn and written to a file, with the settings it was drawn with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from .backbones import Backbone
from .formats.drawn_picture import infotext, write_picture
from .sampling import require_numbers, sample, seeded_noise


def draw(
    model: Backbone,
    decode: Callable[[Tensor], Tensor],
    path: Path,
    prompt: str,
    seed: int,
    *,
    size: tuple[int, int],
    steps: int,
    cfg: float,
    negative_prompt: str,
    checkpoint: str,
    tailoring: str,
    after_step: Callable[[], None] = lambda: None,
) -> None:
    """Draw one picture into a new PNG file.

    One at a time: in a batch the other pictures decide how sums are rounded.

    Args:
        decode: latents (1, C, h, w) as the autoencoder gives them -> pictures (1, 3, H, W) in [0, 1].
        seed: of the noise, which is ComfyUI's for it.
        size: width and height in pixels, see `sampling.picture_size`.
        steps, cfg, negative_prompt: of DDIM.
        checkpoint, tailoring: names that the file says it was drawn with.
        after_step: called after every step.

    Raises:
        FileExistsError: the file is there already; it is left as it is.
        InputError: the picture would be black, see `require_numbers`.
    """
    width, height = size
    latents = sample(
        model,
        [prompt],
        seeded_noise(seed, model.latent_shape(height, width)),
        steps=steps,
        guidance=cfg,
        negative_prompt=negative_prompt,
        after_step=after_step,
    )
    (picture,) = decode(model.unscaled(latents))
    require_numbers(picture, latents)
    settings = {
        "Steps": steps,
        "Sampler": "DDIM",
        "CFG scale": cfg,
        "Seed": seed,
        "Size": f"{width}x{height}",
        "Model": checkpoint,
        "MagicTailor": tailoring,
    }
    write_picture(picture, path, infotext(prompt, negative_prompt, settings))
