"""Lets a workflow made for a real Stable Diffusion run on the small random models in seconds."""

from __future__ import annotations

from .models import SD1_CHECKPOINT


def small_overrides(steps: tuple[int, int], resolution: int, sampler_steps: int, size: int) -> dict[str, dict]:
    """Input values, by node type, that let a workflow made for a real SD 1.5 run on the small models.

    Args:
        steps: of warm-up and DS-Bal.
        resolution: of training, in pixels.
        sampler_steps: of every sampler. Training draws no samples.
        size: width and height of a drawn picture, in pixels.
    """
    return {
        "CheckpointLoaderSimple": {"ckpt_name": SD1_CHECKPOINT},
        "MagicTailorGroundedSAMLoader": {
            "grounding_dino": "groundingdino_swint_ogc.pth",
            "sam": "sam_vit_b_01ec64.pth",
        },
        "MagicTailorTrainV2": {
            "phase1_train_steps": steps[0],
            "phase2_train_steps": steps[1],
            "resolution": resolution,
            "preview_every": 0,
        },
        "MagicTailorSampler": {"steps": sampler_steps},
        "KSampler": {"steps": sampler_steps},
        "EmptyLatentImage": {"width": size, "height": size},
        "ImageScaleToTotalPixels": {"megapixels": max(0.01, size * size / 2**20)},
    }


def override(graph: dict, values: dict[str, dict]) -> dict:
    """A copy of an API graph with inputs replaced by node type. Raises KeyError for an input the node does not have."""
    changed = {node_id: node | {"inputs": dict(node["inputs"])} for node_id, node in graph.items()}
    for node in changed.values():
        for name, value in values.get(node["class_type"], {}).items():
            if name not in node["inputs"]:
                raise KeyError(f"{node['class_type']} has no input {name!r}; it has {sorted(node['inputs'])}.")
            node["inputs"][name] = value
    return changed
