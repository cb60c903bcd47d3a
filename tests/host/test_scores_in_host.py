"""Score and Pick in the real host: its CLIP_VISION and CLIP give transformers' vectors, and its graphs the table."""

import dataclasses
import importlib
import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig, Dinov2Config, Dinov2Model

from tools.comfyui import PromptError
from toytown.pairs import SHOWN, write_folder
from toytown.scoring import load_encoder
from toytown.tailoring import references

SMALL = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZED = {"image_size": 56, "patch_size": 14, "num_channels": 3}


@pytest.fixture(scope="module")
def encoders(host, nodes):
    return importlib.import_module(f"{nodes.__name__}.bridge.encoders")


@pytest.fixture(scope="module")
def pictures():
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(3, height, 70, generator=generator) for height in (56, 90)]


def host_vision(config, network, folder):
    """What the stock loader makes of the file that transformers writes, in a small size."""
    from comfy.clip_vision import ClipVisionModel

    network.save_pretrained(folder)
    loaded = ClipVisionModel(config)
    missing, _ = loaded.load_sd(load_file(folder / "model.safetensors"))
    assert not missing
    return loaded


def seeded(make):
    """With weights that the host's 16 bits hold too."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().eval().half().float()


def transformers_vectors(network, pictures, encoder):
    from magictailor.scores.encoders import prepared

    vision = encoder.clip_vision
    read = torch.stack([prepared(p, vision.image_size, vision.image_mean, vision.image_std) for p in pictures])
    with torch.no_grad():
        return network(read)


def test_clip_and_dinov2_are_transformers_own(encoders, pictures, tmp_path):
    ids = {"bos_token_id": 0, "eos_token_id": 1, "vocab_size": 8}
    both = CLIPConfig(text_config=SMALL | ids, vision_config=SMALL | SIZED, projection_dim=24)
    clip = seeded(lambda: CLIPModel(both))
    dino = seeded(lambda: Dinov2Model(Dinov2Config(**SMALL | SIZED, mlp_ratio=4)))
    activation = {"hidden_act": CLIPVisionConfig().hidden_act}
    cases = {
        "CLIP": (
            SMALL | SIZED | activation | {"model_type": "clip_vision_model", "projection_dim": 24},
            clip,
            lambda pixels: clip.visual_projection(clip.vision_model(pixel_values=pixels).pooler_output),
        ),
        "DINOv2": (
            SMALL | SIZED | {"model_type": "dinov2", "layer_norm_eps": 1e-6, "use_swiglu_ffn": False},
            dino,
            lambda pixels: dino(pixels).pooler_output,
        ),
    }
    for name, (config, network, vectors) in cases.items():
        encoder = encoders.HostEncoder(host_vision(config, network, tmp_path / name))
        assert encoder.name == name
        with torch.inference_mode():
            found = encoder.pictures(pictures)
        assert torch.allclose(found, transformers_vectors(vectors, pictures, encoder), atol=1e-4), name


def test_texts_and_pictures_of_a_clip_are_the_librarys(encoders, toy_town_vision, pictures):
    (encoder,) = encoders.encoders_of({"clip_vision 1": toy_town_vision[0]}, toy_town_vision[1])
    texts = ["a coral house", "a zigzag dark lime roof on the beach"]
    known = load_encoder()
    with torch.inference_mode():
        assert torch.allclose(encoder.texts(texts), known.texts(texts), atol=1e-4)
        assert torch.allclose(encoder.pictures(pictures), known.pictures(pictures), atol=1e-4)


def test_a_clip_of_another_space_is_refused(library, encoders, toy_town_vision, loaded_checkpoint):
    with pytest.raises(library.errors.InputError, match="clip: .*no space in common"):
        encoders.encoders_of({"clip_vision 1": toy_town_vision[0]}, loaded_checkpoint[1])


def as_images(pictures):
    return [picture.movedim(0, -1)[None] for picture in pictures]


@pytest.fixture(scope="module")
def given(library, toy_town_vision):
    """Inputs of Score, as a host gives them to a node that takes lists."""
    known = [library.Reference(r.class_word, r.images, r.masks) for r in references(SHOWN)]
    return {
        "images": as_images([*known[0].images, *known[1].images]),
        "concept": [known[0]],
        "components": {"component 1": [known[1]]},
        "encoders": {"clip_vision 1": [toy_town_vision[0]]},
        "prompt": ["<v0> with <v1>"],
    }


def score(nodes, given, **changes):
    with torch.inference_mode():
        return nodes.MagicTailorScore.execute(**given | changes).args


def test_each_picture_is_most_like_what_it_shows(nodes, toy_town_vision, given):
    concept, component = given["concept"][0], given["components"]["component 1"][0]
    nothing = torch.zeros(1, 64, 64)
    masks = {
        "concept_masks": [*(m[None] for m in concept.masks), nothing, nothing, nothing],
        "component_masks": {"component 1 masks": [nothing.repeat(3, 1, 1), torch.stack(component.masks)]},
    }
    scores, text, csv, likeness = score(nodes, given, clip=[toy_town_vision[1]], **masks)
    rows = scores.rows()
    among = scores.among
    for number, row in enumerate(rows):
        own, other = ("CLIP house", "CLIP roof")[:: 1 if number < 3 else -1]
        assert row[other] == 0.0 and row[own] >= among[own] - 0.2
        assert likeness[number] == pytest.approx(row[own] / 2)
    assert text.splitlines()[0].split() == ["picture", *"CLIP house CLIP roof CLIP background CLIP prompt".split()]
    lines = csv.splitlines()
    assert lines[0] == "picture,CLIP house,CLIP roof,CLIP background,CLIP prompt" and len(lines) == 1 + len(rows)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"components": {"component 2": [1]}}, "component 1 is not connected"),
        ({"component_masks": {"component 2 masks": [torch.ones(1, 64, 64)]}}, "component 2 masks"),
        ({"concept": [1, 2]}, "concept: is a list of 2"),
        ({"concept_masks": [torch.ones(2, 64, 64)]}, "2 masks for 6"),
        ({"prompt": ["<v2>"], "clip": [None]}, "only house, roof"),
        ({"further_measures": ["LPIPS"]}, "further_measures: LPIPS needs the package lpips; pip install lpips"),
    ],
)
def test_what_does_not_belong_together_is_told(nodes, toy_town_vision, given, changes, told):
    changes = changes | ({"clip": [toy_town_vision[1]]} if "clip" in changes else {})
    with pytest.raises(ValueError, match=f"^MagicTailor Score, .*{told}"):
        score(nodes, given, **changes)


def tailoring_of(library, given, **changes):
    known = [given["concept"][0], given["components"]["component 1"][0]]
    tokens = tuple(library.tailoring.Token(f"<v{n}>", k.class_word, {}) for n, k in enumerate(known))
    small = library.formats.small_references.small_references(known)
    return dataclasses.replace(library.tailoring.Tailoring("sd1", {}, tokens, None, None, pictures=small), **changes)


def test_a_tailoring_stands_in_for_the_references_it_was_learned_from(nodes, library, given):
    tailoring = tailoring_of(library, given)
    alone = given | {"concept": [None], "components": None, "tailoring": [tailoring]}
    found, wanted = (score(nodes, inputs)[0] for inputs in (alone, given))
    assert [c.title for c in found.columns] == [c.title for c in wanted.columns]
    for one, other in zip(found.columns, wanted.columns, strict=True):
        assert one.values == pytest.approx(other.values, abs=0.05)
    # what is connected counts
    other = tailoring_of(library, given, pictures=tailoring.pictures[::-1])
    assert score(nodes, given, tailoring=[other])[1] == score(nodes, given)[1]
    assert score(nodes, alone, tailoring=[other])[1] != score(nodes, alone)[1]
    without = tailoring_of(library, given, pictures=())
    for changes, told in (
        ({"tailoring": [None]}, "is not connected; connect all references, or none and a tailoring"),
        ({"tailoring": [without]}, "carries no pictures .*saved with reference_pictures"),
        ({"components": given["components"]}, "is not connected; connect all references"),
    ):
        with pytest.raises(ValueError, match=f"^MagicTailor Score, concept: .*{told}"):
            score(nodes, alone, **changes)


def test_compare_takes_the_pictures_that_all_its_tailorings_carry(host, nodes, library, given):
    compare = importlib.import_module(f"{nodes.__name__}.compare")
    tailoring = tailoring_of(library, given)
    seeing = {name: vision[0] for name, vision in given["encoders"].items()}
    pictures = [image[0].movedim(-1, 0) for image in given["images"]]
    with torch.inference_mode():
        found = compare.scorer(None, {}, seeing, [tailoring, tailoring.labelled("again")])(pictures)
    assert found.text == score(nodes, given | {"concept": [None], "components": {}, "tailoring": [tailoring]})[1]
    assert compare.scorer(None, {}, {}, [tailoring])(pictures) is None
    other = tailoring_of(library, given, pictures=tailoring.pictures[::-1])
    with pytest.raises(library.errors.InputError, match="^concept: .*not all learned from the same pictures"):
        compare.scorer(None, {}, seeing, [tailoring, other])
    with pytest.raises(library.errors.InputError, match="^encoders: is not connected, but concept is"):
        compare.scorer(given["concept"][0], {}, {}, [tailoring])


def test_a_snapshot_of_a_run_comes_with_what_the_run_was_learned_from(nodes, library, given, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.import_module(f"{nodes.__name__}.runs"), "runs_folder", lambda: tmp_path)
    stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    lora = {f"{stem}.lora_down.weight": torch.ones(1, 4), f"{stem}.lora_up.weight": torch.ones(4, 1)}
    tailoring = tailoring_of(library, given, lora=lora | {f"{stem}.alpha": torch.ones(())})
    tokens = tuple(dataclasses.replace(token, rows={"clip_l": torch.ones(1, 8)}) for token in tailoring.tokens)
    file, state = tmp_path / "a" / "snapshot_000001.safetensors", library.formats.run_state
    library.formats.tailoring_file.save_tailoring(dataclasses.replace(tailoring, tokens=tokens), file)
    words, config = ("house", "roof"), library.config.TailorConfig()
    record = state.RunRecord("sd1", words, config, {}, 0, pictures=tailoring.pictures)
    left = {"lora": lora, "tokens": {}, "momentum": None, "optimizer": {}, "scaler": {}, "history": []}
    state.write_state(file.with_name("state_000000.safetensors"), record, left)
    found, *_ = nodes.MagicTailorRuns.execute(f"a/{file.name}").args
    assert found.words == tailoring.words and found.pictures == tailoring.pictures


def pick(nodes, images, scores, **changes):
    weights = {"concept": 1.0, "component": 0.0, "background": 0.0, "prompt": 0.0} | changes
    with torch.inference_mode():
        return nodes.MagicTailorPick.execute(images, [scores], [2], **{k: [v] for k, v in weights.items()}).args


def test_the_best_are_kept_and_the_best_is_the_first(nodes, library):
    column = library.scores.table.Column
    table = library.scores.table.ScoreTable(
        (column("a", "concept", (0.1, 0.3, 0.2)), column("b", "background", (0.0, 0.9, 0.0)))
    )
    images = [torch.full((2, 8, 8, 3), 0.25), torch.full((1, 8, 8, 3), 0.5)]
    images[0][1] = 0.75
    (kept,), scores, text = pick(nodes, images, table)
    assert kept[:, 0, 0, 0].tolist() == [0.75, 0.5]
    assert scores.columns[0].values == (0.3, 0.2) and text.startswith("kept 2, 3 of 3\n")
    (kept,), *_ = pick(nodes, images, table, background=-3.0)
    assert kept[:, 0, 0, 0].tolist() == [0.5, 0.25]
    of_two_sizes = [images[0], torch.zeros(1, 9, 8, 3)]
    assert [len(one) for one in pick(nodes, of_two_sizes, table)[0]] == [1, 1]
    with pytest.raises(ValueError, match="^MagicTailor Pick, images: there are 2, and the scores are of 3; connect"):
        pick(nodes, images[:1], table)
    with pytest.raises(ValueError, match="^MagicTailor Pick, count: is a list of 2"):
        nodes.MagicTailorPick.execute(images, [table], [1, 2], [1.0], [0.0], [0.0], [0.0])


def test_a_graph_scores_lists_and_picks(server, base_dir, nodes, given):
    name = f"to_score/{write_folder(SHOWN, base_dir / 'input' / 'to_score').name}"
    graph = {
        "pair": {"class_type": "MagicTailorLoadPair", "inputs": {"folder": name, "component_number": 1}},
        "vision": {"class_type": "ToyTownVisionLoader", "inputs": {}},
        "score": {
            "class_type": "MagicTailorScore",
            "inputs": {
                "images": ["pair", 3],
                "concept": ["pair", 0],
                "components.component 1": ["pair", 1],
                "encoders.clip_vision 1": ["vision", 0],
                "clip": ["vision", 1],
                "prompt": "<v0> with <v1>",
            },
        },
        "pick": {
            "class_type": "MagicTailorPick",
            "inputs": {"images": ["pair", 3], "scores": ["score", 0], "count": 2, "concept": 0, "component": 1}
            | {"background": 0, "prompt": 0},
        },
        "shown": {"class_type": "PreviewImage", "inputs": {"images": ["pick", 0]}},
        "text": {"class_type": "PreviewAny", "inputs": {"source": ["score", 1]}},
    }  # fmt: skip
    entry = server.run(graph, timeout=300)
    assert len(entry["outputs"]["shown"]["images"]) == 2
    lines = entry["outputs"]["text"]["text"][0].splitlines()
    assert len(lines) == 1 + 3 + 2
    # unmasked: whole pictures against what is inside the masks
    wanted = score(nodes, given, images=given["images"][3:])[0].columns[1].values
    assert [float(line.split()[2]) for line in lines[1:4]] == pytest.approx(wanted, abs=2e-3)


def test_every_pair_is_queued_once_and_done_in_turn(server, base_dir):
    root = base_dir / "input" / "to_queue"
    names = [write_folder(dataclasses.replace(SHOWN, seed=seed), root).name for seed in (1, 2, 3)]
    graph = {
        "queue": {"class_type": "MagicTailorQueuePairs", "inputs": {"pairs": "to_queue/*_[12], none", "only": ""}},
        "pair": {"class_type": "MagicTailorLoadPair", "inputs": {"folder": ["queue", 0], "component_number": 1}},
        "shown": {"class_type": "PreviewImage", "inputs": {"images": ["pair", 2]}},
        "name": {"class_type": "PreviewAny", "inputs": {"source": ["queue", 1]}},
    }
    entry = server.run(graph, timeout=300)
    assert "shown" not in entry["outputs"] and "name" not in entry["outputs"]
    graph["queue"]["inputs"]["pairs"] = "nothing"
    # the queue is done in turn: what was queued before this is done when this is
    with pytest.raises(PromptError, match="Queue Pairs, pairs: no pair folder is called 'nothing'; there are"):
        server.run(graph, timeout=300)
    of_graph = [e for e in json.loads(server.get("/history")).values() if graph.keys() == e["prompt"][2].keys()]
    done = sorted((e for e in of_graph if e["outputs"].get("shown")), key=lambda e: e["prompt"][0])
    assert [e["outputs"]["name"]["text"] for e in done] == [[name.replace("+", "_")] for name in names[:2]]
    assert [len(e["outputs"]["shown"]["images"]) for e in done] == [3, 3]
