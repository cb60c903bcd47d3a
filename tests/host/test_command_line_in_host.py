"""The command line and the node are the same trainer: one checkpoint, folder and seed, the same bits."""

import os
import subprocess
import sys

import torch

from magictailor.formats.tailoring_file import load_tailoring
from tools.comfyui import PACK_ROOT

# rates at which two steps change every tensor, and a seed that draws noise levels whose rounding is seen
SETTINGS = {
    "phase1_train_steps": 1,
    "phase2_train_steps": 1,
    "phase1_learning_rate": 0.01,
    "phase2_learning_rate": 0.01,
    "resolution": 64,
    "lora_rank": 4,
    "seed": 6,
}
NAME = "same_on_both_ways"


def trained_by_the_node(server, base_dir, checkpoint_name, one_each):
    server.run(
        {
            "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": checkpoint_name}},
            "2": {"class_type": "MagicTailorLoadPair", "inputs": {"folder": one_each.name, "component_number": 1}},
            "3": {
                "class_type": "MagicTailorTrainV2",
                "inputs": server.default_inputs("MagicTailorTrainV2")
                | SETTINGS
                | {"model": ["1", 0], "clip": ["1", 1], "vae": ["1", 2], "preview_every": 0}
                | {"concept": ["2", 0], "components.component 1": ["2", 1]},
            },
            "4": {"class_type": "MagicTailorSave", "inputs": {"tailoring": ["3", 0], "name": NAME}},
        }
    )
    return load_tailoring(base_dir / "models" / "loras" / f"{NAME}.safetensors")


def trained_by_the_command(comfy_root, checkpoint, pair, output):
    arguments = {
        "pretrained_model_name_or_path": checkpoint,
        "tokenizer": comfy_root / "comfy" / "sd1_tokenizer",
        "instance_data_dir": pair,
        "output_dir": output,
        "device": "cpu",
    }
    flags = [str(part) for name, value in (arguments | SETTINGS).items() for part in (f"--{name}", value)]
    # a process of its own, in which nothing of the host is set
    subprocess.run(
        [sys.executable, "-m", "magictailor", "train", *flags],
        cwd=PACK_ROOT, env=os.environ | {"HF_HUB_OFFLINE": "1"}, check=True,
    )  # fmt: skip
    return load_tailoring(output / f"{pair.name}.safetensors")


def test_the_same_seed_gives_the_same_weights_as_the_node(
    server, base_dir, comfy_root, checkpoint_name, one_each, tmp_path
):
    node = trained_by_the_node(server, base_dir, checkpoint_name, one_each)
    checkpoint = base_dir / "models" / "checkpoints" / checkpoint_name
    command = trained_by_the_command(comfy_root, checkpoint, one_each, tmp_path)
    assert command.config == node.config and command.words == node.words and command.finished and node.finished
    assert command.lora.keys() == node.lora.keys()
    assert [key for key in node.lora if not torch.equal(command.lora[key], node.lora[key])] == []
    for mine, other in zip(command.tokens, node.tokens, strict=True):
        assert torch.equal(mine.rows["clip_l"], other.rows["clip_l"]), mine.name
    assert all(t.any() for key, t in node.lora.items() if key.endswith("lora_up.weight"))
