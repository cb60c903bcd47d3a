"""Graphs made with the first release still open, say what they said, and give the same training."""

import json
import pathlib

import pytest
import torch

from magictailor.formats.tailoring_file import load_tailoring
from tools.small_runs import override

FIRST_RELEASE = pathlib.Path(__file__).parents[1] / "data" / "first_release"
# inputs that came later, last in their node, and leave what it does as it was
ADDED = {"MagicTailorSave": {"reference_pictures": False}, "MagicTailorGroundedSAMLoader": {"device": "auto"}}
WORKFLOWS = ("tailor_concept_and_component", "tailor_two_components")


def read(name):
    return json.loads((FIRST_RELEASE / f"{name}.json").read_text(encoding="utf-8"))


def of_type(graph, *types):
    return [node["inputs"] for node in graph.values() if node["class_type"] in types]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_opens_with_every_node_link_and_value(frontend, name):
    workflow = read(name)
    graph = frontend.api_graph(workflow)
    values = frontend.widget_values()
    for node in workflow["nodes"]:
        shown = [value for key, value in values[str(node["id"])].items() if not key.startswith("$$")]
        given = node.get("widgets_values", [])
        assert shown == [*given, *ADDED.get(node["type"], {}).values()], node["type"]
    sent = {int(node): [v for v in made["inputs"].values() if isinstance(v, list)] for node, made in graph.items()}
    linked = {link[3] for link in workflow["links"]}
    assert {node for node, sources in sent.items() if sources} == linked & sent.keys()


def test_a_workflow_is_sent_as_it_was(frontend):
    sent, was = (
        {key: (node["class_type"], node["inputs"]) for key, node in graph.items()}
        for graph in (frontend.api_graph(read("tailor_two_components")), read("tailor_two_components_api"))
    )
    assert sent == {key: (kind, inputs | ADDED.get(kind, {})) for key, (kind, inputs) in was.items()}


def saved_by(server, base_dir, checkpoint_name, graph, name):
    """The tailoring that a graph trains and saves, from the small checkpoint and with a quick autoencoder."""
    changes = {"CheckpointLoaderSimple": {"ckpt_name": checkpoint_name}, "MagicTailorSave": {"name": name}}
    drawing = ("MagicTailorSampler", "VAEDecode", "SaveImage", "PreviewImage")
    graph = {key: node for key, node in override(graph, changes).items() if node["class_type"] not in drawing}
    graph["taesd"] = {"class_type": "VAELoader", "inputs": {"vae_name": "taesd"}}
    for inputs in of_type(graph, "MagicTailorTrain", "MagicTailorTrainV2"):
        inputs["vae"] = ["taesd", 0]
    server.run(graph, timeout=600)
    return load_tailoring(base_dir / "models" / "loras" / f"{name}.safetensors")


def test_an_old_graph_trains_what_a_new_one_with_its_values_does(server, base_dir, checkpoint_name, input_pictures):
    old = read("tailor_two_components_api")
    new = override(old, {})
    (key,) = [key for key, node in new.items() if node["class_type"] == "MagicTailorTrain"]
    given = new[key]["inputs"]
    shown = server.pack_nodes()["MagicTailorTrainV2"]["input"]
    on_train = {name for group in ("required", "optional") for name in shown.get(group, {})}
    first, second = (given[f"components.component{n}"] for n in (0, 1))
    # one choice took the place of two switches
    assert given["low_memory"] and given["gradient_checkpointing"]
    same_name = {n: v for n, v in given.items() if n not in ("low_memory", "gradient_checkpointing")}
    beside = {n: v for n, v in same_name.items() if n not in on_train and not n.startswith("components.")}
    assert len(beside) > 10
    new["settings"] = {
        "class_type": "MagicTailorSettings",
        "inputs": {"preset": "paper"} | {f"preset.{name}": value for name, value in beside.items()},
    }
    new[key]["class_type"] = "MagicTailorTrainV2"
    new[key]["inputs"] = {n: v for n, v in same_name.items() if n in on_train} | {
        "memory": "small",
        "components.component 1": first,
        "components.component 2": second,
        "settings": ["settings", 0],
        "resume": "start over",  # else the same training is taken from disk
    }
    was = saved_by(server, base_dir, checkpoint_name, old, "by_the_old_node")
    now = saved_by(server, base_dir, checkpoint_name, new, "by_the_new_node")
    assert was.config == now.config and was.words == now.words == "<v0> = tower, <v1> = roof, <v2> = door"
    trained_with = was.config.to_dict()
    assert {name: trained_with[name] for name in trained_with.keys() & given.keys()} == {
        name: given[name] for name in trained_with.keys() & given.keys()
    }
    assert was.lora.keys() == now.lora.keys()
    assert [name for name in was.lora if not torch.equal(was.lora[name], now.lora[name])] == []
    for mine, other in zip(was.tokens, now.tokens, strict=True):
        assert torch.equal(mine.rows["clip_l"], other.rows["clip_l"]), mine.name
