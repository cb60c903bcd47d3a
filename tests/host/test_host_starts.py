"""The real server starts with this pack installed, and still does its ordinary work on the small checkpoint."""

import io

import numpy as np
import pytest
from PIL import Image

from tools.comfyui import PromptError


def stock_graph(checkpoint: str, prompt: str) -> dict:
    """Text to a 64x64 picture in two steps, with stock nodes only."""
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": checkpoint}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": prompt}},
        "3": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": ""}},
        "4": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "5": {
            "class_type": "KSampler",
            "inputs": {
                "model": ["1", 0],
                "positive": ["2", 0],
                "negative": ["3", 0],
                "latent_image": ["4", 0],
                "seed": 1,
                "steps": 2,
                "cfg": 7.5,
                "sampler_name": "ddim",
                "scheduler": "normal",
                "denoise": 1.0,
            },
        },
        "6": {"class_type": "VAEDecode", "inputs": {"samples": ["5", 0], "vae": ["1", 2]}},
        "7": {"class_type": "SaveImage", "inputs": {"images": ["6", 0], "filename_prefix": "stock"}},
    }


def picture(server, graph: dict, on_progress=None) -> np.ndarray:
    entry = server.run(graph, on_progress=on_progress)
    (image,) = server.images(entry)
    return np.asarray(Image.open(io.BytesIO(server.fetch_image(image))), dtype=np.float32) / 255


def test_server_starts_with_the_pack_and_without_import_errors(server):
    # what other tests make the server say comes after this line
    log, ready, _ = server.log().partition("To see the GUI go to")
    assert ready
    assert "ComfyUI-MagicTailor" in log
    assert "IMPORT FAILED" not in log
    assert "Traceback" not in log


def test_object_info_lists_stock_nodes_and_the_nodes_of_the_pack(server):
    names = server.object_info().keys()
    assert {"CheckpointLoaderSimple", "KSampler", "LoraLoader"} <= names
    assert any(name.startswith("MagicTailor") for name in names)


def test_small_checkpoint_makes_a_picture_that_depends_on_the_prompt(server, checkpoint_name):
    progress = []
    tower = picture(server, stock_graph(checkpoint_name, "a tower"), on_progress=lambda *event: progress.append(event))
    roof = picture(server, stock_graph(checkpoint_name, "a red roof on the beach"))

    assert tower.shape == (64, 64, 3)
    saturated = np.mean((tower <= 0) | (tower >= 1))
    assert tower.std() > 0.02 and saturated < 0.5
    assert np.abs(tower - roof).mean() > 0.01
    assert ("KSampler", 2, 2) in progress


def test_a_graph_that_the_host_refuses_raises_with_node_and_reason(server):
    with pytest.raises(PromptError, match="CheckpointLoaderSimple.*ckpt_name.*no_such_file"):
        server.run(stock_graph("no_such_file.safetensors", "a tower"))
