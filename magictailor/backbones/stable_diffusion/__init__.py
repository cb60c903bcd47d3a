"""Stable Diffusion 1.x, 2.x and XL: a U-Net that reads CLIP through cross-attention."""

from .family import SD1, SD2_BASE, SD2_V, SDXL, UNetFamily

FAMILIES = (SD1, SD2_BASE, SD2_V, SDXL)

__all__ = ["FAMILIES", "SD1", "SD2_BASE", "SD2_V", "SDXL", "UNetFamily"]
