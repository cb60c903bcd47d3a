"""MagicTailor: component-controllable personalization of Stable Diffusion (arXiv 2410.13370)."""
