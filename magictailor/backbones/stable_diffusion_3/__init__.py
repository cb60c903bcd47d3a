"""Stable Diffusion 3 and 3.5: a transformer in which picture and prompt attend to each other (MM-DiT)."""

from .family import SD3_MEDIUM, SD35_LARGE, SD35_MEDIUM, TransformerFamily

FAMILIES = (SD3_MEDIUM, SD35_MEDIUM, SD35_LARGE)

__all__ = ["FAMILIES", "SD35_LARGE", "SD35_MEDIUM", "SD3_MEDIUM", "TransformerFamily"]
