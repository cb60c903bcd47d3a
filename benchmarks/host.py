"""A real host in this process, with a Stable Diffusion 1.x of random weights loaded by its stock loader."""

from __future__ import annotations

import dataclasses
import pathlib
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

import torch

from tools.checkpoint import SD1, make_checkpoint
from tools.comfyui import import_host, load_pack, locate_comfyui, make_base_dir

from .shapes import SHAPES
from .training_step import references

FULL_SIZE = dataclasses.replace(SD1.unet, channel_mult=(1, 2, 4, 4), res_blocks=2)
FAMILIES = {"small": SD1, "sd15": dataclasses.replace(SD1, unet=FULL_SIZE)}


@dataclass(frozen=True)
class Host:
    """The host's stock nodes, this pack, and what Load Checkpoint gives.

    Attributes:
        base: its folder with models, input and output.
        device: on which it computes.
    """

    nodes: types.ModuleType
    pack: types.ModuleType
    base: pathlib.Path
    device: torch.device
    model: Any
    clip: Any
    vae: Any

    def references(self) -> list[Any]:
        """Three pictures of a concept and three of a component, for MagicTailor Train."""
        reference = self.pack.magictailor.Reference
        return [reference(r.class_word, r.images, r.masks) for r in references(SHAPES["small"])]

    def train(self, **settings: Any) -> Any:
        """What MagicTailor Train gives for the references."""
        concept, component = self.references()
        with torch.inference_mode():
            node = self.pack.nodes.MagicTailorTrainV2
            components = {"component 1": component}
            settings = {"resume": "start over"} | settings
            return node.execute(self.model, self.clip, self.vae, concept, components, **settings).args


@contextmanager
def running_host(size: str, device: str) -> Iterator[Host]:
    """Start a host with a checkpoint of one of `FAMILIES`; its files are gone afterwards."""
    with TemporaryDirectory() as folder:
        base = make_base_dir(folder)
        nodes = import_host(locate_comfyui(), base, cpu=device == "cpu")
        import comfy.utils
        from comfy.model_management import get_torch_device

        comfy.utils.PROGRESS_BAR_ENABLED = False
        name = make_checkpoint(FAMILIES[size], base / "models" / "checkpoints" / f"{size}.ckpt").name
        loaded = nodes.CheckpointLoaderSimple().load_checkpoint(name)[:3]
        yield Host(nodes, load_pack(), base, get_torch_device(), *loaded)
