"""What is shipped is what runs: each workflow opened in the real frontend, serialised there, run by the real server."""

import io
import json
import types

import numpy as np
import pytest
import torch
from PIL import Image

from magictailor.masks.overlay import overlay
from magictailor.pictures import prepare
from magictailor.reference import Reference
from tools.blueprints import BLUEPRINTS
from tools.build_workflows import CANVASES, THUMBNAIL_SIZE, WORKFLOWS
from tools.comfyui import PACK_FOLDER, PACK_ROOT
from tools.public_models import MODELS
from tools.shipped_workflows import UPSCALER
from tools.small_runs import override, small_overrides
from tools.style_lora import make_style_lora
from tools.workflow import check_layout

SHIPPED = tuple(CANVASES)
TRAINING = tuple(name for name in SHIPPED if "_tailor_" in name)
SMALL = small_overrides(steps=(1, 1), resolution=64, sampler_steps=2, size=64)
# two steps at the paper's rates would not show in a picture
QUICK = SMALL | {
    "MagicTailorTrainV2": SMALL["MagicTailorTrainV2"] | {"phase1_learning_rate": 0.01, "phase2_learning_rate": 0.01}
}
TAILORING = "small_tailoring"
SHOW_TEXT = {"PreviewAny", "SaveText"}  # in widgets that the frontend adds to them


def written(name):
    return json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))


def test_every_workflow_is_described_and_has_a_small_thumbnail():
    names = sorted(path.stem for path in WORKFLOWS.glob("*.json"))
    assert names == sorted(SHIPPED)
    assert sorted(path.stem for path in WORKFLOWS.glob("*.jpg")) == names
    for path in WORKFLOWS.glob("*.jpg"):
        assert path.stat().st_size < 100_000
        with Image.open(path) as thumbnail:
            assert thumbnail.size == THUMBNAIL_SIZE


@pytest.mark.parametrize("name", SHIPPED)
def test_it_opens_with_all_its_nodes_and_values_and_nothing_overlaps(frontend, server, name, tmp_path):
    workflow = written(name)
    graph = frontend.api_graph(workflow)
    values = frontend.widget_values()
    for node in workflow["nodes"]:
        shown = [value for key, value in values[str(node["id"])].items() if not key.startswith("$$")]
        given = node.get("widgets_values", [])
        assert (shown[: len(given)] if node["type"] in SHOW_TEXT else shown) == given, node["type"]
    known = server.object_info()
    for node in graph.values():
        described = known[node["class_type"]]["input"]
        # of any number of inputs
        groups = {"components", "inputs", "encoders", "component_masks", "tailorings"}
        required, optional = (set(described.get(group, {})) - groups for group in ("required", "optional"))
        given = {name for name in node["inputs"] if name.partition(".")[0] not in groups}
        assert required <= given <= required | optional, node["class_type"]
    frontend.screenshot(tmp_path / f"{name}.png")
    assert check_layout(frontend.node_boxes()) == []


@pytest.mark.parametrize("name", SHIPPED)
def test_it_says_what_its_canvas_describes(frontend, name):
    """The frontend once took values over from a workflow opened before."""
    workflow = written(name)
    canvas = CANVASES[name]()
    described = [node for group in canvas.groups for column in group["columns"] for node in column["nodes"]]
    assert [node["type"] for node in workflow["nodes"]] == [node["type"] for node in described]
    frontend.load(workflow)
    for node, expected in zip(workflow["nodes"], described, strict=True):
        values = frontend.widget_values()[str(node["id"])]
        for widget, value in expected["widgets"].items():
            assert value == (values[widget] if widget else next(iter(values.values()))), (node["type"], widget)
    keys = {node["id"]: (expected["key"], node) for node, expected in zip(workflow["nodes"], described, strict=True)}
    links = {(keys[s][0], keys[t][0], keys[t][1]["inputs"][slot]["name"]) for _, s, _, t, slot, _ in workflow["links"]}
    assert links == {(source, target, name) for source, _, target, name in canvas.links}


@pytest.mark.parametrize("name", SHIPPED)
def test_its_training_seed_stays_fixed(frontend, name):
    """Else every press of Run would train again."""
    frontend.load(written(name))
    trains = [list(v.values()) for v in frontend.widget_values().values() if "phase1_train_steps" in v]
    assert len(trains) == (name in TRAINING)
    for values in trains:
        assert "fixed" in values and "randomize" not in values


FIRST, SECOND = SHIPPED[:2]
MASKS_FROM_WORDS = {"MagicTailorGroundedSAMLoader", "MagicTailorGroundedSAM", "MagicTailorReference"}
# clicks the title of the group that is switched off, as it stands on the screen
GROUP_TITLE = """() => {
    const {canvas, graph} = window.app, group = graph._groups.find(group => group.title.includes("off"));
    const [x, y] = canvas.ds.convertOffsetToCanvas([group.pos[0] + 60, group.pos[1] + 12]);
    const {left, top} = canvas.canvas.getBoundingClientRect();
    return [left + x, top + y];
}"""


def class_types(graph):
    return {node["class_type"] for node in graph.values()}


def test_the_first_two_run_one_after_the_other_and_draw_the_same(frontend, server, base_dir):
    pictures = []
    for name in (FIRST, SECOND):
        graph = override(frontend.api_graph(written(name)), SMALL)
        assert not class_types(graph) & MASKS_FROM_WORDS
        entry = server.run(graph, timeout=1200)
        pictures += saved_pictures(server, entry)
        if name == FIRST:
            shown = {graph[node]["class_type"]: output for node, output in entry["outputs"].items()}
            assert shown["LossGraphNode"]["images"]
            assert "my_tailoring.safetensors" in shown["MagicTailorSave"]["text"][0]
    assert (base_dir / "models" / "loras" / "my_tailoring.safetensors").is_file()
    first, second = pictures
    assert np.array_equal(first, second)


@pytest.fixture(scope="module")
def short_pair(base_dir, rendered_pair):
    """A folder with one picture of each and no masks; in strips, which Grounding DINO does not enlarge as much."""
    folder = base_dir / "input" / "house_c+roof_c"
    folder.mkdir()
    for source in ("0_house_a0", "1_roof_a0"):
        with Image.open(rendered_pair / f"{source}.jpg") as picture:
            strip = picture.resize((320, 48))
        strip.save(folder / f"{source.replace('_a', '_c')}.jpg")
    return folder.name


def test_one_entry_of_a_menu_switches_to_masks_from_words(frontend, server, short_pair):
    frontend.load(written(FIRST))
    x, y = frontend.evaluate(GROUP_TITLE)

    def switch(page):
        page.mouse.click(x, y, button="right")
        page.get_by_text("Set Group Nodes to Always").click()
        page.wait_for_function("() => window.app.graph._nodes.every(node => node.mode === 0)")

    frontend.on_page(switch)
    graph = frontend.evaluate("async () => (await window.app.graphToPrompt()).output")
    assert class_types(graph) >= MASKS_FROM_WORDS
    (train,) = (node for node in graph.values() if node["class_type"] == "MagicTailorTrainV2")
    assert graph[train["inputs"]["concept"][0]]["class_type"] == "MagicTailorReference"
    # the component's alone: SAM takes its time, and other tests train
    (masks,) = (k for k, n in graph.items() if n["inputs"].get("exclude") == "")
    (reference,) = (k for k, n in graph.items() if n["inputs"].get("masks") == [masks, 0])
    sources = {link[0] for k in (masks, reference) for link in graph[k]["inputs"].values() if isinstance(link, list)}
    shown = {k for k, n in graph.items() if n["inputs"].get("images") in ([masks, 1], [reference, 1])}
    part = {k: graph[k] for k in {masks, reference} | sources | shown}
    entry = server.run(override(part, SMALL | {"MagicTailorLoadPair": {"folder": short_pair}}), timeout=1200)
    assert {k: len(output["images"]) for k, output in entry["outputs"].items() if k in shown} == dict.fromkeys(shown, 1)
    assert len(shown) == 2


def test_a_workflow_opens_where_it_begins_and_large_enough_to_read(frontend):
    frontend.load(written(FIRST))
    scale, left, top = frontend.evaluate(
        "() => { const {ds} = window.app.canvas; return [ds.scale, ...ds.convertOffsetToCanvas([0, 0])]; }"
    )
    assert scale >= 0.75
    assert 0 <= left < 400 and 0 <= top < 400


@pytest.mark.parametrize("name", SHIPPED)
def test_every_model_it_names_has_an_address_that_the_frontend_offers(name):
    for node in written(name)["nodes"]:
        named = {value for value in node.get("widgets_values", []) if str(value) in MODELS}
        offered = {model["name"]: model for model in node["properties"].get("models", [])}
        assert named == offered.keys(), node["type"]
        for model in offered.values():
            known = MODELS[model["name"]]
            assert (model["url"], model["directory"]) == (known.url, known.folder)
            # others the frontend shows, but does not fetch
            assert model["url"].startswith("https://huggingface.co/") or model["name"] == UPSCALER


@pytest.mark.parametrize("page", ["README.md", "web/docs/MagicTailorGroundedSAMLoader.md"])
def test_pages_name_the_addresses_and_sizes_of_the_mask_models(page):
    text = (PACK_ROOT / page).read_text(encoding="utf-8")
    for model in MODELS.values():
        if model.folder in ("grounding-dino", "sams", "bert-base-uncased"):
            assert f"[{model.name}]({model.url}) ({model.size})" in text


# --- the other ones start from one small tailoring of three tokens


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=np.int16)


def saved_pictures(server, entry):
    """The saved pictures of a run, each of which shows something."""
    pictures = [pixels(server.fetch_image(image)) for image in server.images(entry)]
    assert pictures and all(picture.std() > 1 for picture in pictures)
    return pictures


@pytest.fixture(scope="module")
def inputs(base_dir, input_pictures):
    """What the workflows ask of a user: pictures, painted masks, a folder of references, a style LoRA."""
    make_style_lora(base_dir / "models" / "loras" / "my_style.safetensors")
    return input_pictures


@pytest.fixture(scope="module")
def opened(frontend, inputs):
    """The graph of a shipped workflow with small values, opened once: call with its name."""
    graphs = {}

    def open_once(name):
        if name not in graphs:
            changes = QUICK | {"MagicTailorSave": {"name": f"{TAILORING}_of_{name}"}}
            changes["MagicTailorLoad"] = {"tailoring": f"{TAILORING}.safetensors"}
            graphs[name] = override(frontend.api_graph(written(name)), changes)
        return graphs[name]

    return open_once


@pytest.fixture(scope="module")
def run(server, opened):
    """Runs a graph and gives its saved pictures and previews, by the title of the node that shows them."""

    def run_graph(graph):
        entry = server.run(graph, timeout=600)
        shown = {
            graph[node]["_meta"]["title"]: [pixels(server.fetch_image(image)) for image in output.get("images", [])]
            for node, output in entry["outputs"].items()
        }
        return types.SimpleNamespace(pictures=saved_pictures(server, entry), shown=shown, entry=entry)

    return run_graph


@pytest.fixture(scope="module")
def two_components(opened, run):
    """The run of the workflow that trains one concept with two components; saves what the others draw with."""
    return run(override(opened("03_tailor_two_components"), {"MagicTailorSave": {"name": TAILORING}}))


@pytest.fixture(scope="module")
def drawn(opened, run, two_components):
    """The run of a shipped workflow as it is, once: call with its name."""
    runs = {}

    def run_once(name):
        if name not in runs:
            runs[name] = run(opened(name))
        return runs[name]

    return run_once


def rewired(graph, title, links):
    """A copy of a graph in which inputs of the node called `title` are connected to (title, output) instead."""
    changed = override(graph, {})
    for name, (source, output) in links.items():
        changed[node_id(graph, title)]["inputs"][name] = [node_id(graph, source), output]
    return changed


def node_id(graph, title):
    (found,) = [key for key, node in graph.items() if node["_meta"]["title"] == title]
    return found


def difference(first, second):
    return np.abs(first - second).mean()


def resized(picture, size):
    return np.asarray(Image.fromarray(picture.astype(np.uint8)).resize(size, Image.Resampling.BOX), dtype=np.int16)


def input_picture(folder, name):
    """A picture of the input folder, (H, W, 3) in 0 ... 255, and what is painted on it, (H, W) in 0 ... 1."""
    rgba = np.asarray(Image.open(folder / name).convert("RGBA"), dtype=np.int16)
    return rgba[..., :3], 1 - rgba[..., 3] / 255


def shown_as_learned(pictures, masks):
    """What MagicTailor Reference shows of pictures and masks."""
    tensors = [torch.tensor(picture / 255, dtype=torch.float32).movedim(-1, 0) for picture in pictures]
    reference = Reference("thing", tuple(tensors), tuple(torch.tensor(mask, dtype=torch.float32) for mask in masks))
    cropped, small = prepare(reference, 512)
    return [(overlay(i, m[0]).movedim(0, -1) * 255).numpy() for i, m in zip(cropped, small, strict=True)]


def test_two_components_are_learned_saved_and_drawn(two_components, opened, run, base_dir):
    for number in range(3):
        assert (base_dir / "models" / "embeddings" / f"{TAILORING}_v{number}.safetensors").is_file()
    # drawn by the nodes that draw what is saved: the same picture, and another one without the second component
    graph = override(
        opened("06_draw_component_alone"),
        {"MagicTailorSampler": {"prompt": "<v0> with <v1> and <v2>", "negative_prompt": ""}},
    )
    assert np.array_equal(run(graph).pictures[0], two_components.pictures[0])
    fewer = override(graph, {"MagicTailorSampler": {"prompt": "<v0> with <v1>"}})
    assert not np.array_equal(run(fewer).pictures[0], two_components.pictures[0])


def test_masks_are_what_was_painted(drawn, inputs):
    shown = drawn("04_tailor_with_painted_masks").shown
    for name in ("concept", "component"):
        painted = [input_picture(inputs, f"{name}_{number}.png") for number in (1, 2)]
        expected = shown_as_learned(*zip(*painted, strict=True))
        previews = shown[f"{name.capitalize()}: what is learned"]
        assert len(previews) == 2
        for preview, wanted in zip(previews, expected, strict=True):
            assert np.abs(preview - wanted).max() <= 1


def test_sam3_masks_are_swapped_where_painted_and_leave_the_component_out(opened, run, inputs):
    """SAM 3 has no small version: stock nodes that give a mask for each picture stand in for it."""
    graph = override(opened("05_tailor_with_sam3_masks"), {})
    channels = {"Find the concept": "red", "Find the component on it": "blue", "Find the component": "red"}
    for title, channel in channels.items():
        node = graph[node_id(graph, title)]
        assert node["class_type"] == "SAM3_Detect"
        word = graph[graph[node["inputs"]["conditioning"][0]]["inputs"]["clip"][0]]
        assert word["_meta"]["title"] == "Load SAM 3" == graph[node["inputs"]["model"][0]]["_meta"]["title"]
        node["class_type"], node["inputs"] = "ImageToMask", {"image": node["inputs"]["image"], "channel": channel}
    shown = run(graph).shown
    for name in ("concept", "component"):
        pictures, masks = [], []
        for number in (1, 2):
            picture, painted = input_picture(inputs, f"{name}_{number}.png")
            found = picture[..., 0] / 255
            if name == "concept":
                found = np.clip(found - picture[..., 2] / 255, 0, 1)
            pictures.append(picture)
            masks.append(np.round(found) != np.round(painted))
        for preview, wanted in zip(
            shown[f"{name.capitalize()}: what is learned"], shown_as_learned(pictures, masks), strict=True
        ):
            assert np.abs(preview - wanted).max() <= 1


def test_the_component_is_drawn_alone(drawn, opened, run):
    graph = opened("06_draw_component_alone")
    (alone,) = drawn("06_draw_component_alone").pictures
    (prompt,) = [n["inputs"]["prompt"] for n in graph.values() if n["class_type"] == "MagicTailorSampler"]
    assert "<v1>" in prompt and "<v0>" not in prompt
    for other in (prompt.replace("<v1>", "<v0>"), prompt.replace("<v1>", "roof")):
        assert not np.array_equal(alone, run(override(graph, {"MagicTailorSampler": {"prompt": other}})).pictures[0])


def test_a_style_lora_is_added_to_the_tailoring(drawn, opened, run):
    graph = opened("07_draw_with_style_lora")
    off = override(graph, {"LoraLoader": {"strength_model": 0.0, "strength_clip": 0.0}})
    without = rewired(graph, "Tailored Sampler", {"model": ("Load Checkpoint", 0), "clip": ("Load Checkpoint", 1)})
    (styled,), (switched_off,), (plain,) = (
        r.pictures for r in (drawn("07_draw_with_style_lora"), run(off), run(without))
    )
    assert np.array_equal(switched_off, plain)
    assert difference(styled, plain) > 1


def test_a_controlnet_shapes_the_picture(drawn, opened, run):
    graph = opened("08_draw_with_controlnet")
    off = override(graph, {"ControlNetApplyAdvanced": {"strength": 0.0}})
    without = rewired(graph, "KSampler", {"positive": ("Prompt", 0), "negative": ("Negative prompt", 0)})
    other = override(graph, {"LoadImage": {"image": "concept_1.png"}})
    untailored = override(graph, {"MagicTailorApply": {"strength": 0.0}})
    (shaped,), (switched_off,), (plain,) = (
        r.pictures for r in (drawn("08_draw_with_controlnet"), run(off), run(without))
    )
    assert np.array_equal(switched_off, plain)
    assert difference(shaped, plain) > 1
    for changed in (other, untailored):
        assert difference(shaped, run(changed).pictures[0]) > 0


def test_second_passes_enlarge_what_the_first_one_drew(drawn, opened, run):
    result = drawn("09_draw_larger")
    (first,) = result.shown["First pass"]
    (other,) = run(override(opened("09_draw_larger"), {"MagicTailorSampler": {"seed": 1}})).shown["First pass"]
    assert first.shape == (64, 64, 3)
    assert len(result.pictures) == 2 and not np.array_equal(*result.pictures)
    for larger in result.pictures:
        assert larger.shape == (96, 96, 3)
        assert difference(resized(larger, (64, 64)), first) < difference(resized(larger, (64, 64)), other)


def test_a_picture_is_redrawn_as_much_as_denoise_says(drawn, opened, run, inputs):
    picture, _ = input_picture(inputs, "example.png")
    graph = opened("10_redraw_picture")
    pictures = [
        run(override(graph, {"MagicTailorSampler": {"denoise": 0.2}})).pictures[0],
        drawn("10_redraw_picture").pictures[0],
        run(override(graph, {"MagicTailorSampler": {"denoise": 1.0}})).pictures[0],
    ]
    changed = [difference(drawn_over, picture) for drawn_over in pictures]
    assert changed == sorted(changed) and changed[0] < 0.8 * changed[-1], changed


def test_inpainting_leaves_everything_outside_the_painted_place(drawn, inputs):
    picture, painted = input_picture(inputs, "example.png")
    (inpainted,) = drawn("11_inpaint_component").pictures
    outside = painted == 0
    assert 0.5 < outside.mean() < 0.95
    assert np.array_equal(inpainted[outside], picture[outside])
    assert difference(inpainted[painted == 1], picture[painted == 1]) > 5


def test_before_and_after_differ_by_the_tailoring_alone(drawn, opened, run):
    graph = opened("12_compare_before_and_after")
    result = drawn("12_compare_before_and_after")
    before, after = np.split(result.pictures[0], 2, axis=1)
    assert np.array_equal(before, result.shown["Before"][0]) and np.array_equal(after, result.shown["After"][0])
    assert not np.array_equal(before, after)
    (words,) = [n["inputs"]["text"] for n in graph.values() if n["inputs"].get("text") == "house with roof"]
    same = override(graph, {"MagicTailorApply": {"strength": 0.0}})
    for node in same.values():
        if node["inputs"].get("text") == "<v0> with <v1>":
            node["inputs"]["text"] = words
    unchanged, no_longer_tailored = np.split(run(same).pictures[0], 2, axis=1)
    assert np.array_equal(unchanged, before) and np.array_equal(no_longer_tailored, before)


@pytest.mark.parametrize("name", BLUEPRINTS)
def test_a_blueprint_is_offered_and_shows_what_it_says(frontend, server, name):
    offered = {e["name"]: key for key, e in json.loads(server.get("/global_subgraphs")).items() if _ours(e)}
    assert sorted(offered) == sorted(BLUEPRINTS)
    workflow = json.loads(json.loads(server.get(f"/global_subgraphs/{offered[name]}"))["data"])
    described = BLUEPRINTS[name]()
    (node,) = workflow["nodes"]
    for side in ("inputs", "outputs"):
        assert [slot["name"] for slot in node[side]] == [text.partition(".")[2] for text in getattr(described, side)]
    # inside, the links of its canvas
    graph = frontend.api_graph(workflow)
    types = {key: node["class_type"] for key, node in graph.items()}
    kinds = {n["key"]: n["type"] for group in described.canvas.groups for c in group["columns"] for n in c["nodes"]}
    links = {
        (types[v[0]], types[k], n)
        for k, node in graph.items()
        for n, v in node["inputs"].items()
        if isinstance(v, list)
    }
    assert links == {(kinds[source], kinds[target], n) for source, _, target, n in described.canvas.links}


def _ours(entry):
    return entry["info"]["node_pack"] == f"custom_nodes.{PACK_FOLDER}"


def with_toy_town_vision(graph):
    """CLIP vision models of the stock loader's kinds have no small version: the toy town's stands in for one."""
    changed = override(graph, {})
    (loader,) = (node for node in changed.values() if node["class_type"] == "CLIPVisionLoader")
    loader |= {"class_type": "ToyTownVisionLoader", "inputs": {}}
    return changed


def test_the_best_two_of_eight_are_kept(opened, run, two_components):
    graph = with_toy_town_vision(opened("13_score_and_pick"))
    result = run(graph)
    lines = result.entry["outputs"][node_id(graph, "Scores")]["text"][0].splitlines()
    likeness = [[float(value) for value in line.split()[1:3]] for line in lines[1:9]]
    concept, component, background = np.array([line.split()[1:4] for line in lines[1:9]], dtype=float).T
    merit = sum(weight * (v - v.mean()) / v.std() for weight, v in ((1, concept), (1, component), (-0.5, background)))
    assert np.ptp(likeness) > 0
    every, best = result.shown["All eight"], result.shown["The best two"]
    for picture, number in zip(best, np.argsort(-merit)[:2], strict=True):
        assert np.array_equal(picture, every[number])


def test_every_strength_and_seed_has_its_place_on_the_sheet(opened, run, server, two_components, base_dir):
    small = {"MagicTailorCompare": {"steps": 2, "tile": 64, "strengths": "0.7, 1"}}
    graph = override(with_toy_town_vision(opened("14_compare_strengths")), small)
    result = run(graph)
    (file,) = result.entry["outputs"][node_id(graph, "Numbers")]["files"]
    head, *lines = (base_dir / "output" / file["filename"]).read_text(encoding="utf-8").splitlines()
    assert head.startswith("picture,tailoring,strength,prompt,seed,CLIP house,CLIP roof,CLIP background")
    drawn = [line.split(",")[2:5:2] for line in lines]
    assert drawn == [[f"{strength:g}", seed] for strength in (0.7, 1) for seed in "01"]
    # the place of strength 0.7 and seed 1, as Tailored Sampler draws it
    other = opened("06_draw_component_alone")
    changes = {"prompt": "<v0> with <v1>", "negative_prompt": "", "seed": 1, "strength": 0.7}
    (alone,) = run(override(other, {"MagicTailorSampler": changes})).pictures
    (sheet,) = result.pictures
    # a level is lost here and there, for the host cuts off what is left of a level
    begins = np.argwhere(np.abs(sheet[:-63, :-63] - alone[0, 0]).max(axis=-1) <= 2)
    found = [y for y, x in begins if np.abs(sheet[y : y + 64, x : x + 64] - alone).max() <= 2]
    # strengths go from left to right, seeds from top to bottom
    assert len(found) == 1 and found[0] > sheet.shape[0] / 2
    # a word that is not learned is told before anything is drawn
    (compare,) = (key for key, node in graph.items() if node["class_type"] == "MagicTailorCompare")
    seen = []
    with pytest.raises(RuntimeError, match="MagicTailor Compare, prompts: holds <v7>"):
        server.run(
            override(graph, {"MagicTailorCompare": {"prompts": "<v0>\n<v7>"}}),
            on_progress=lambda node, *step: seen.append(node),
        )
    assert compare not in seen
