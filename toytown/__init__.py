"""Toy town: a world of rendered pictures and a small Stable Diffusion that was trained on nothing else."""
