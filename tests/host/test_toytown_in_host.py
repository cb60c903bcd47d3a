"""The toy town model in the real host: stock nodes, this pack's nodes and the shipped workflow work on it unchanged."""

import io

import numpy as np
import pytest
from PIL import Image

from magictailor.config import TailorConfig
from toytown.analyser import analysed, load_analyser
from toytown.demo import WORKFLOW, add_requests, in_toy_town, saved_pictures, wanted_pictures
from toytown.pairs import SHOWN, write_folder
from toytown.settings import GUIDANCE, SAMPLER_STEPS, SETTINGS
from toytown.tailoring import drawn, trainable

PROMPT = "a red house with a blue roof on the beach"


def drawing(model, clip, seed=1, prompt=PROMPT):
    """Stock nodes that draw with outputs (id, number) of the nodes that give MODEL and CLIP."""
    sampler = {"seed": seed, "steps": SAMPLER_STEPS, "cfg": GUIDANCE, "denoise": 1.0}
    sampler |= {"sampler_name": "ddim", "scheduler": "normal"}
    links = {"model": model, "positive": ["positive", 0], "negative": ["negative", 0], "latent_image": ["latents", 0]}
    return {
        "town": {"class_type": "ToyTownLoader", "inputs": {}},
        "positive": {"class_type": "CLIPTextEncode", "inputs": {"clip": clip, "text": prompt}},
        "negative": {"class_type": "CLIPTextEncode", "inputs": {"clip": clip, "text": ""}},
        "latents": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "sampler": {"class_type": "KSampler", "inputs": sampler | links},
        "picture": {"class_type": "VAEDecode", "inputs": {"samples": ["sampler", 0], "vae": ["town", 2]}},
        "save": {"class_type": "SaveImage", "inputs": {"images": ["picture", 0], "filename_prefix": "toytown"}},
    }


def only_picture(server, entry):
    (image,) = server.images(entry)
    return np.array(Image.open(io.BytesIO(server.fetch_image(image))).convert("RGB"))


def test_stock_nodes_draw_what_the_prompt_says(server):
    pictures = [only_picture(server, server.run(drawing(["town", 0], ["town", 1], seed))) for seed in range(4)]
    found = analysed(load_analyser(), np.stack(pictures))
    right = [(f.kind, f.background, f.body_colour, f.part_colour) == ("house", "beach", "red", "blue") for f in found]
    assert sum(right) >= 3, found


def test_stock_nodes_draw_what_the_library_draws(server):
    """From the same noise, by nearly the same noise levels."""
    graph = drawing(["town", 0], ["town", 1], 2)
    graph["sampler"]["inputs"] |= {"scheduler": "ddim_uniform", "steps": 50}
    (ours,) = drawn(trainable(["house", "roof"], TailorConfig(**SETTINGS)), [PROMPT], [2], steps=50)
    difference = np.abs(only_picture(server, server.run(graph)).astype(int) - ours).mean()
    assert difference < 1  # of 255; with heads of another width it is 10


@pytest.fixture(scope="module")
def tailored(frontend, server, base_dir):
    """The graph of the shipped workflow in toy town, with the demo's pictures added, and its run after a few steps."""
    write_folder(SHOWN, base_dir / "input")
    graph = in_toy_town(frontend.api_graph(WORKFLOW), SHOWN)
    for node in graph.values():
        if node["class_type"] == "MagicTailorSettings":
            small = {"phase1_train_steps": 3, "phase2_train_steps": 2, "preview_steps": 2}
            small |= {"phase1_learning_rate": 0.01, "phase2_learning_rate": 0.01}
            node["inputs"] |= {f"preset.{name}": value for name, value in small.items()}
        if node["class_type"] == "MagicTailorSave":
            node["inputs"]["name"] = "toytown_tailoring"
    requests = wanted_pictures(SHOWN)
    prefixes = add_requests(graph, requests)
    pictures = saved_pictures(server, server.run(graph, timeout=600))
    return requests, [pictures[prefix] for prefix in prefixes]


def test_the_shipped_workflow_trains_saves_and_draws(tailored, base_dir):
    requests, pictures = tailored
    assert all(picture.shape == (64, 64, 3) and picture.std() > 10 for picture in pictures)
    assert len({picture.tobytes() for picture in pictures}) == len(requests)
    for folder, name in (("loras", "toytown_tailoring"), ("embeddings", "toytown_tailoring_v0")):
        assert (base_dir / "models" / folder / f"{name}.safetensors").is_file()


def test_the_saved_files_draw_the_same_with_stock_nodes(tailored, server):
    requests, pictures = tailored
    (number,) = [n for n, r in enumerate(requests) if r.prompt.startswith("<v0> with <v1> on the beach")]
    names = {f"<v{n}>": f" embedding:toytown_tailoring_v{n} " for n in (0, 1)}
    prompt = requests[number].prompt
    for token, name in names.items():
        prompt = prompt.replace(token, name)
    graph = drawing(["lora", 0], ["lora", 1], requests[number].seed, prompt)
    graph["lora"] = {
        "class_type": "LoraLoader",
        "inputs": {"model": ["town", 0], "clip": ["town", 1], "lora_name": "toytown_tailoring.safetensors"}
        | {"strength_model": 1.0, "strength_clip": 1.0},
    }
    assert np.abs(only_picture(server, server.run(graph)).astype(int) - pictures[number]).max() <= 1
