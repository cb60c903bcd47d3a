"""A picture is enough to share how it was made: dropped on the canvas, it brings back the workflow that drew it."""

import json

import pytest
import torch

from magictailor.formats.tailoring_file import save_with_embeddings
from magictailor.tailoring import Tailoring, Token
from tools.build_workflows import WORKFLOWS

TAILORING = "shared_tailoring"
LAYER = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
# in the order of the widgets
SMALL = {
    "EmptyLatentImage": [64, 64, 1],
    "LoraLoader": [f"{TAILORING}.safetensors", 0.75, 1],
    "MagicTailorLoad": [f"{TAILORING}.safetensors"],
    "MagicTailorSampler": ["A drawing of <v1>, (roof:1.2)", "blurry", 11, "randomize", 2, 6.5, "ddim", "ddim_uniform"],
    "KSampler": [11, "randomize", 2, 6.5],
}

RUN_AS_A_PERSON_DOES = """async () => {
    const {app} = window, {api} = app;
    const drawn = new Promise((resolve, reject) => {
        api.addEventListener("executed", event => {
            const saved = event.detail.output?.images?.find(image => image.type === "output");
            if (saved) resolve(saved);
        });
        api.addEventListener("execution_error", event => reject(new Error(event.detail.exception_message)));
    });
    await app.queuePrompt(0);
    return await drawn;
}"""
DROP_ON_AN_EMPTY_CANVAS = """async image => {
    const {app} = window;
    app.graph.clear();
    const picture = await (await fetch("/view?" + new URLSearchParams(image))).blob();
    const dropped = new DataTransfer();
    dropped.items.add(new File([picture], "from a friend.png", {type: "image/png"}));
    app.canvas.canvas.dispatchEvent(new DragEvent("drop", {dataTransfer: dropped, bubbles: true, cancelable: true}));
}"""
ON_THE_CANVAS = """() => {
    const {nodes, links, groups} = window.app.graph.serialize();
    return {
        nodes: nodes.map(node => [node.id, node.type, node.title, node.mode]),
        links: links.map(link => [...link]),
        groups: groups.map(group => group.title),
    };
}"""


@pytest.fixture(scope="module")
def saved(base_dir):
    """A tailoring that nobody had to train."""
    generator = torch.Generator().manual_seed(0)
    lora = {f"{LAYER}.lora_{part}.weight": torch.randn(*size, generator=generator)
            for part, size in (("down", (4, 320)), ("up", (320, 4)))}  # fmt: skip
    tokens = tuple(
        Token(f"<v{number}>", word, {"clip_l": torch.randn(1, 768, generator=generator)})
        for number, word in enumerate(("house", "roof"))
    )
    tailoring = Tailoring("sd1", lora | {f"{LAYER}.alpha": torch.tensor(4.0)}, tokens, None, None)
    models = base_dir / "models"
    return save_with_embeddings(tailoring, TAILORING, models / "loras", models / "embeddings")


def shipped(name, checkpoint_name):
    """A shipped workflow with values of one's own, small ones."""
    workflow = json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
    for node in workflow["nodes"]:
        values = (SMALL | {"CheckpointLoaderSimple": [checkpoint_name]}).get(node["type"], [])
        if values:
            node["widgets_values"] = values + node["widgets_values"][len(values) :]
    return workflow


@pytest.mark.parametrize("name", ["06_draw_component_alone", "02_use_saved_tailoring"])
def test_a_saved_picture_restores_the_workflow_that_drew_it(frontend, checkpoint_name, saved, name):
    workflow = shipped(name, checkpoint_name)
    frontend.load(workflow)
    frontend.evaluate(DROP_ON_AN_EMPTY_CANVAS, frontend.evaluate(RUN_AS_A_PERSON_DOES))
    count = len(workflow["nodes"])
    frontend.on_page(lambda page: page.wait_for_function(f"() => window.app.graph._nodes.length === {count}"))

    restored = frontend.evaluate(ON_THE_CANVAS)
    expected = [[node["id"], node["type"], node.get("title"), node["mode"]] for node in workflow["nodes"]]
    for (*node, title, mode), (*wanted, wanted_title, wanted_mode) in zip(restored["nodes"], expected, strict=True):
        assert node == wanted and mode == wanted_mode
        assert wanted_title in (None, title)
    assert sorted(restored["links"]) == sorted(workflow["links"])
    assert restored["groups"] == [group["title"] for group in workflow["groups"]]
    values = frontend.widget_values()
    for node in workflow["nodes"]:
        shown = [value for key, value in values[str(node["id"])].items() if not key.startswith("$$")]
        assert shown == (node.get("widgets_values") or []), node["type"]
