"""The subgraphs that come with the pack, as the host offers them in its node library."""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import dataclass

from .canvas import GREY, MAKE_GRAPH, Canvas
from .workflow import Frontend

CATEGORY = "MagicTailor"
UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")

MAKE_SUBGRAPH = """async ({name, category, description, aliases, inputs, outputs}) => {
    const {graph} = window.app;
    const inside = [...graph._nodes];
    for (const group of [...graph._groups]) graph.remove(group);
    const {subgraph, node} = graph.convertToSubgraph(new Set(inside));
    const slot = (slots, name) => slots.findIndex(s => s.name === name || s.label === name);
    // the frontend has made some of these by itself, such as a seed's
    for (const input of [...subgraph.inputs]) subgraph.removeInput(input);
    for (const [place, input] of inputs) {
        const inner = subgraph.getNodeById(inside[place].id), found = inner.inputs[slot(inner.inputs, input)];
        subgraph.addInput(input, String(found.type)).connect(found, inner);
    }
    for (const [place, output] of outputs) {
        const inner = subgraph.getNodeById(inside[place].id), found = inner.outputs[slot(inner.outputs, output)];
        subgraph.addOutput(output, String(found.type)).connect(found, inner);
    }
    Object.assign(subgraph, {name, category});
    node.title = name;
    node.pos = [0, 0];
    node.setSize([320, node.computeSize()[1]]);
    const {nodes, links, version, definitions} = graph.serialize();
    for (const definition of definitions.subgraphs) Object.assign(definition, {category});
    return {
        revision: 0, last_node_id: node.id, last_link_id: 0, nodes, links, version, definitions,
        extra: {BlueprintDescription: description, BlueprintSearchAliases: aliases},
    };
}"""


@dataclass(frozen=True)
class Blueprint:
    """A subgraph with what it shows of the nodes inside.

    Attributes:
        description: what the node library says of it.
        aliases: what it is found by, besides its name.
        canvas: the nodes inside, in one group.
        inputs, outputs: "key.input" and "key.output" of those nodes; a widget's input shows the widget.
    """

    description: str
    aliases: tuple[str, ...]
    canvas: Canvas
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def made(self, frontend: Frontend) -> dict:
        """The blueprint's file, as the frontend writes it."""
        keys = [n["key"] for group in self.canvas.groups for column in group["columns"] for n in column["nodes"]]
        frontend.evaluate(MAKE_GRAPH, self.canvas.as_dict())
        shown = {"name": self.canvas.name, "category": CATEGORY, "description": self.description}
        for side in ("inputs", "outputs"):
            split = (text.split(".") for text in getattr(self, side))
            shown[side] = [[keys.index(key), name] for key, name in split]
        written = json.dumps(frontend.evaluate(MAKE_SUBGRAPH, shown | {"aliases": list(self.aliases)}))
        # the same name always gets the same ids, so that making it again changes nothing
        for number, known in enumerate(dict.fromkeys(UUID.findall(written))):
            written = written.replace(known, str(uuid.uuid5(uuid.NAMESPACE_URL, f"{self.canvas.name} {number}")))
        return json.loads(written)


def masks_from_words() -> Blueprint:
    canvas = Canvas("Masks from words")
    canvas.group("Masks from words", GREY)
    canvas.node(
        "models",
        "MagicTailorGroundedSAMLoader",
        grounding_dino="groundingdino_swint_ogc.pth",
        sam="sam_vit_h_4b8939.pth",
    )
    canvas.column()
    canvas.node("masks", "MagicTailorGroundedSAM")
    canvas.link("models.grounded_sam", "masks.grounded_sam")
    return Blueprint(
        "Finds what a word names in pictures and gives a mask for each, for MagicTailor Reference.",
        ("grounding dino", "segment anything", "mask from text"),
        canvas,
        ("masks.images", "masks.find", "masks.exclude", "masks.box_threshold", "models.grounding_dino", "models.sam"),
        ("masks.masks", "masks.overlay"),
    )


def tailor_a_pair() -> Blueprint:
    canvas = Canvas("Tailor a pair")
    canvas.group("Tailor a pair", GREY)
    canvas.node("pair", "MagicTailorLoadPair", folder="example: house_a+roof_a")
    canvas.column()
    canvas.node("train", "MagicTailorTrainV2")
    canvas.column()
    canvas.node("save", "MagicTailorSave", name="my_tailoring")
    canvas.link("pair.concept", "train.concept")
    canvas.link("pair.component", "train.components.component 1")
    canvas.link("train.tailoring", "save.tailoring")
    return Blueprint(
        "Learns the concept and the component of a folder with masks, and saves what was learned.",
        ("train lora", "dreambooth", "personalization"),
        canvas,
        (
            "train.model",
            "train.clip",
            "train.vae",
            "pair.folder",
            "save.name",
            "train.phase1_train_steps",
            "train.phase2_train_steps",
        ),
        ("train.tailoring", "train.report", "save.stock_prompt"),
    )


BLUEPRINTS = {made().canvas.name: made for made in (masks_from_words, tailor_a_pair)}
