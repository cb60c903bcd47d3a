"""Writes workflows/*.json: describes each canvas in Python and lets the real frontend make the file.

Run as `python -m tools.build_workflows` after a node's inputs have changed; the result is committed.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, field

from PIL import Image

from .comfyui import PACK_ROOT, ComfyServer, locate_comfyui, make_base_dir
from .workflow import Frontend, check_layout

WORKFLOWS = PACK_ROOT / "workflows"
CHECKPOINT = "v1-5-pruned-emaonly-fp16.safetensors"
THUMBNAIL_SIZE = (640, 400)
# only their names are needed, so that the canvas does not mark them as missing
LISTED_FILES = (
    f"checkpoints/{CHECKPOINT}",
    "grounding-dino/groundingdino_swint_ogc.pth",
    "sams/sam_vit_h_4b8939.pth",
    "loras/my_tailoring.safetensors",
)

MAKE_GRAPH = """({nodes, links, groups}) => {
    const graph = window.app.graph;
    graph.clear();
    const made = {};
    for (const {key, type, title, pos, size, widgets} of nodes) {
        const node = window.LiteGraph.createNode(type);
        if (!node) throw new Error("no node type " + type);
        if (title) node.title = title;
        node.pos = pos;
        graph.add(node);
        for (const [name, value] of Object.entries(widgets)) {
            const widget = name ? node.widgets.find(w => w.name === name) : node.widgets[0];
            if (!widget) throw new Error(type + " has no widget " + name);
            widget.value = value;
        }
        node.setSize([size[0], Math.max(size[1], node.computeSize()[1])]);
        made[key] = node;
    }
    for (const [from, output, to, input] of links) {
        const out = made[from].outputs.findIndex(o => (o.label || o.name) === output || o.name === output);
        const slot = made[to].inputs.findIndex(i => i.name === input);
        if (out < 0 || slot < 0)
            throw new Error([from, output, to, input, "outputs", made[from].outputs.map(o => o.name), "inputs",
                made[to].inputs.map(i => i.name)].join(" "));
        made[from].connect(out, made[to], slot);
    }
    for (const {title, bounding, color} of groups) {
        const group = new window.LiteGraph.LGraphGroup(title);
        group.color = color;
        group.pos = bounding.slice(0, 2);
        group.size = bounding.slice(2);
        graph.add(group);
    }
    return graph.serialize();
}"""


@dataclass
class Canvas:
    """A workflow as a person lays it out: nodes by a key of their own, links between named sockets, groups."""

    nodes: list[dict] = field(default_factory=list)
    links: list[tuple[str, str, str, str]] = field(default_factory=list)
    groups: list[dict] = field(default_factory=list)

    def node(
        self, key: str, type: str, pos: tuple[int, int], size: tuple[int, int] = (0, 0), title: str = "", **widgets
    ) -> str:
        width = size[0] or 320
        self.nodes.append(
            {"key": key, "type": type, "title": title, "pos": pos, "size": (width, size[1]), "widgets": widgets}
        )
        return key

    def link(self, source: str, target: str) -> None:
        """Connect "key.output" to "key.input"."""
        from_key, _, output = source.partition(".")
        to_key, _, input_name = target.partition(".")
        self.links.append((from_key, output, to_key, input_name))

    def note(self, key: str, pos: tuple[int, int], size: tuple[int, int], title: str, text: str) -> None:
        self.nodes.append(
            {"key": key, "type": "MarkdownNote", "title": title, "pos": pos, "size": size, "widgets": {"": text}}
        )

    def group(self, title: str, bounding: tuple[int, int, int, int], color: str) -> None:
        self.groups.append({"title": title, "bounding": bounding, "color": color})

    def as_dict(self) -> dict:
        return {"nodes": self.nodes, "links": self.links, "groups": self.groups}


def tailor_concept_and_component() -> Canvas:
    canvas = Canvas()
    canvas.note(
        "start",
        (0, 60),
        (400, 400),
        "1. What you need",
        "**Checkpoint**: Stable Diffusion 1.x, 2.x or SDXL in `models/checkpoints`. Choose it in *Load Checkpoint*; "
        "for SDXL set the size of *Empty Latent Image* to 1024.\n\n"
        "**Mask models**: `groundingdino_swint_ogc.pth` in `models/grounding-dino`, a SAM file such as "
        "`sam_vit_h_4b8939.pth` in `models/sams`, `vocab.txt` of bert-base-uncased in `models/bert-base-uncased`.\n\n"
        "**Pictures**: a folder `input/tower_a+roof_a` with about three pictures of the concept, named `0_...`, and "
        "three of the component, named `1_...`. The words before `_a` say what is in them. Press R and choose it in "
        "*Load MagicTailor Pair*. The example works without any of your own.\n\n"
        "Then press **Run**.",
    )
    canvas.node("checkpoint", "CheckpointLoaderSimple", (0, 530), (400, 0), ckpt_name=CHECKPOINT)
    canvas.node("pair", "MagicTailorLoadPair", (0, 720), (400, 0), folder="example: house_a+roof_a")
    canvas.node(
        "sam",
        "MagicTailorGroundedSAMLoader",
        (0, 1010),
        (400, 0),
        grounding_dino="groundingdino_swint_ogc.pth",
        sam="sam_vit_h_4b8939.pth",
    )
    canvas.group("1. Checkpoint, pictures, mask models", (-20, 0, 440, 1460), "#3f5159")

    canvas.note(
        "masks",
        (460, 60),
        (400, 150),
        "2. Look at the masks",
        "Red is what will be learned. Wrong? Change **find** or the **box_threshold**, or connect your own masks to "
        "*MagicTailor Reference*. The concept leaves the component's place out (**exclude**).",
    )
    for row, (name, images, word) in enumerate(
        (("concept", "concept_images", "concept_word"), ("component", "component_images", "component_word"))
    ):
        top = 270 + 620 * row
        masks = canvas.node(f"{name}_masks", "MagicTailorGroundedSAM", (460, top), (400, 0), f"Masks of the {name}")
        shown = canvas.node(f"{name}_shown", "PreviewImage", (460, top + 270), (400, 280), f"Masks of the {name}")
        reference = canvas.node(f"{name}_reference", "MagicTailorReference", (900, top), (380, 0), name.capitalize())
        crops = canvas.node(f"{name}_crops", "PreviewImage", (900, top + 180), (380, 370), f"{name}: what is learned")
        canvas.link("sam.grounded_sam", f"{masks}.grounded_sam")
        canvas.link(f"pair.{images}", f"{masks}.images")
        canvas.link(f"pair.{word}", f"{masks}.find")
        canvas.link(f"{masks}.overlay", f"{shown}.images")
        canvas.link(f"pair.{images}", f"{reference}.images")
        canvas.link(f"{masks}.masks", f"{reference}.masks")
        canvas.link(f"pair.{word}", f"{reference}.class_word")
        canvas.link(f"{reference}.overlay", f"{crops}.images")
    canvas.link("pair.component_word", "concept_masks.exclude")
    canvas.group("2. Masks", (440, 0, 860, 1460), "#88A")

    canvas.note(
        "training",
        (1340, 60),
        (400, 150),
        "3. Train",
        "500 steps: 200 of warm-up, 300 of DS-Bal. The defaults are the paper's. The **seed** stays fixed, so pressing "
        "Run again does not train again unless something here changes.",
    )
    canvas.node("train", "MagicTailorTrain", (1340, 270), (400, 0))
    canvas.node("save", "MagicTailorSave", (1340, 1030), (400, 0), name="my_tailoring")
    canvas.node("loss", "LossGraphNode", (1340, 1210), (400, 220))
    for socket in ("MODEL", "CLIP", "VAE"):
        canvas.link(f"checkpoint.{socket}", f"train.{socket.lower()}")
    canvas.link("concept_reference.reference", "train.concept")
    canvas.link("component_reference.reference", "train.components.component0")
    canvas.link("train.tailoring", "save.tailoring")
    canvas.link("train.loss_map", "loss.loss")
    canvas.group("3. Train and save", (1320, 0, 440, 1460), "#8A8")

    canvas.note(
        "drawing",
        (1800, 60),
        (420, 150),
        "4. Draw",
        "`<v0>` is the concept, `<v1>` the component: `<v0> with <v1>, at sunset`. What was saved also works without "
        "training: see the workflow *use_saved_tailoring*.",
    )
    canvas.node("latents", "EmptyLatentImage", (1800, 270), (420, 0), width=512, height=512, batch_size=1)
    canvas.node(
        "sampler",
        "MagicTailorSampler",
        (1800, 440),
        (420, 560),
        prompt="<v0> with <v1>",
        negative_prompt="",
        seed=0,
    )
    canvas.node("decode", "VAEDecode", (1800, 1060), (420, 0))
    canvas.node("image", "SaveImage", (2260, 60), (520, 700), filename_prefix="magictailor")
    canvas.link("checkpoint.MODEL", "sampler.model")
    canvas.link("checkpoint.CLIP", "sampler.clip")
    canvas.link("train.tailoring", "sampler.tailoring")
    canvas.link("latents.LATENT", "sampler.latent_image")
    canvas.link("sampler.latent", "decode.samples")
    canvas.link("checkpoint.VAE", "decode.vae")
    canvas.link("decode.IMAGE", "image.images")
    canvas.group("4. Draw", (1780, 0, 1020, 1460), "#b06634")
    return canvas


def use_saved_tailoring() -> Canvas:
    canvas = Canvas()
    canvas.note(
        "start",
        (0, 60),
        (420, 300),
        "A saved tailoring with stock nodes only",
        "*Save Tailoring* wrote `loras/my_tailoring.safetensors` and one embedding per token: "
        "`embeddings/my_tailoring_v0.safetensors` (the concept), `..._v1.safetensors` (the component).\n\n"
        "1. Choose the file in **Load LoRA**.\n"
        "2. In the prompt write `embedding:my_tailoring_v0` where you would write `<v0>`, with a space before "
        "`embedding:`. Weights work: `(embedding:my_tailoring_v1:1.2)`.\n\n"
        "This draws exactly what *Tailored Sampler* draws with `<v0> with <v1>`, the same seed and settings.",
    )
    canvas.node("checkpoint", "CheckpointLoaderSimple", (0, 430), (420, 0), ckpt_name=CHECKPOINT)
    canvas.node("lora", "LoraLoader", (0, 620), (420, 0), lora_name="my_tailoring.safetensors")
    canvas.node(
        "positive",
        "CLIPTextEncode",
        (480, 60),
        (420, 180),
        "Prompt",
        text="embedding:my_tailoring_v0 with embedding:my_tailoring_v1",
    )
    canvas.node("negative", "CLIPTextEncode", (480, 300), (420, 140), "Negative prompt", text="")
    canvas.node("latents", "EmptyLatentImage", (480, 500), (420, 0), width=512, height=512, batch_size=1)
    canvas.node(
        "sampler",
        "KSampler",
        (480, 670),
        (420, 0),
        seed=0,
        control_after_generate="fixed",
        steps=50,
        cfg=7.5,
        sampler_name="ddim",
        scheduler="ddim_uniform",
    )
    canvas.node("decode", "VAEDecode", (960, 60), (520, 0))
    canvas.node("image", "SaveImage", (960, 170), (520, 620), filename_prefix="saved_tailoring")
    canvas.link("checkpoint.MODEL", "lora.model")
    canvas.link("checkpoint.CLIP", "lora.clip")
    for prompt in ("positive", "negative"):
        canvas.link("lora.CLIP", f"{prompt}.clip")
        canvas.link(f"{prompt}.CONDITIONING", f"sampler.{prompt}")
    canvas.link("lora.MODEL", "sampler.model")
    canvas.link("latents.LATENT", "sampler.latent_image")
    canvas.link("sampler.LATENT", "decode.samples")
    canvas.link("checkpoint.VAE", "decode.vae")
    canvas.link("decode.IMAGE", "image.images")
    return canvas


CANVASES = {
    "tailor_concept_and_component": tailor_concept_and_component,
    "use_saved_tailoring": use_saved_tailoring,
}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        base = make_base_dir(folder)
        for name in LISTED_FILES:
            path = base / "models" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        with ComfyServer(locate_comfyui(), base) as server, Frontend(server.url) as frontend:
            for name, describe in CANVASES.items():
                workflow = frontend.evaluate(MAKE_GRAPH, describe().as_dict())
                path = WORKFLOWS / f"{name}.json"
                path.write_text(json.dumps(workflow, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
                frontend.load(path)
                picture = Image.open(frontend.screenshot(base / f"{name}.png")).convert("RGB")
                picture.resize(THUMBNAIL_SIZE, Image.Resampling.LANCZOS).save(path.with_suffix(".jpg"), quality=90)
                for fault in check_layout(frontend.node_boxes()):
                    print(f"{name}: {fault}")
                print(path)


if __name__ == "__main__":
    main()
