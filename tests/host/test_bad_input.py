"""What cannot be used is refused with the node's and the input's name, and nothing is written."""

import os
import re
import shutil

import pytest
import torch

IMAGES = torch.rand(2, 64, 80, 3)
MASKS = torch.zeros(2, 64, 80)
MASKS[:, 10:40, 10:40] = 1.0


@pytest.fixture(autouse=True)
def nothing_written(base_dir):
    def files():
        return {p for folder in ("models", "output") for p in (base_dir / folder).rglob("*") if p.is_file()}

    before = files()
    yield
    assert files() == before


@pytest.fixture(scope="module")
def reference(nodes):
    return nodes.MagicTailorReference.execute([IMAGES], [MASKS], ["tower"]).args[0]


def train(nodes, model, clip, vae, reference, **settings):
    settings = {"phase1_train_steps": 1, "phase2_train_steps": 0, "resolution": 64, "lora_rank": 1} | settings
    settings = {"resume": "start over"} | settings
    with torch.inference_mode():
        return nodes.MagicTailorTrainV2.execute(
            model, clip, vae, reference, {"component 1": reference}, **settings
        ).args


@pytest.mark.parametrize(
    ("images", "masks", "word", "message"),
    [
        (IMAGES, MASKS[:1], "tower", "masks: there are 1 masks for 2 pictures of tower"),
        (IMAGES, MASKS * 0, "tower", "masks: mask 1 is empty"),
        (torch.rand(1, 8, 8, 3), torch.ones(1, 8, 8), "tower", "images: picture 1 has 8x8 pixels"),
        (IMAGES, MASKS, "", "class_word: is empty"),
        (IMAGES * float("nan"), MASKS, "tower", "images: picture 1 holds NaN"),
        (IMAGES * 2 - 1, MASKS, "tower", "images: a picture has values from -1 to 1, and those of an IMAGE"),
        (IMAGES * 255, MASKS, "tower", "images: a picture has values from .* to 25"),
        (IMAGES[..., :2], MASKS, "tower", r"images: the shape is \(2, 64, 80, 2\), and an IMAGE has"),
        (IMAGES, MASKS[:, None, None], "tower", r"masks: the shape is \(2, 1, 1, 64, 80\), and a MASK has"),
        (IMAGES, torch.zeros(2, 64, 64), "tower", "masks: a mask has 64x64 pixels and its picture 80x64.*Load Image"),
    ],
)
def test_reference(nodes, images, masks, word, message):
    with torch.inference_mode(), pytest.raises(ValueError, match=f"^MagicTailor Reference, {message}"):
        nodes.MagicTailorReference.execute([images], [masks], [word])


def test_pictures_and_masks_are_taken_as_other_packs_hand_them_on(nodes):
    eight_bits, soft = (IMAGES * 255).round(), MASKS * 0.6

    def reference(images, masks):
        with torch.inference_mode():
            return nodes.MagicTailorReference.execute(images, masks, ["tower"]).args[0]

    plain = reference([eight_bits / 255], [soft])
    for images, masks in (
        ([eight_bits], [soft * 255]),
        ([eight_bits.byte()], [soft[..., None]]),
        (list(eight_bits / 255), [soft[:, None]]),
        ([eight_bits.double() / 255], list((soft * 255).round().byte())),
    ):
        same = reference(images, masks)
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(same.images, plain.images, strict=True))
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(same.masks, plain.masks, strict=True))
    overshot, summed = IMAGES * 1.1 - 0.02, MASKS * 2
    sharpened = reference([overshot], [summed])
    assert torch.equal(sharpened.images[0], overshot[0].movedim(-1, 0).clamp(0, 1))
    assert torch.equal(sharpened.masks[0], MASKS[0])


def test_what_lies_on_the_graphics_card_is_fetched(nodes):
    from torch._subclasses import FakeTensorMode

    convert = nodes.bridge.convert
    with FakeTensorMode():
        images = torch.empty(2, 8, 8, 3, dtype=torch.uint8, device="cuda")
        masks = torch.empty(2, 8, 8, device="cuda")
        found = [*convert.images_to_library([images]), *convert.images_with_alpha([images])]
        found += convert.masks_to_library([masks])
        assert {tensor.device.type for tensor in found} == {"cpu"} and len(found) == 6


def test_a_list_of_words_is_not_taken_for_its_first(nodes):
    with torch.inference_mode(), pytest.raises(ValueError, match="^MagicTailor Reference, class_word: is a list of 2"):
        nodes.MagicTailorReference.execute([IMAGES], [MASKS], ["tower", "roof"])


def test_a_class_of_several_words_and_lists_of_different_sizes_work(nodes):
    with torch.inference_mode():
        reference, overlay = nodes.MagicTailorReference.execute(
            [IMAGES, torch.rand(1, 90, 70, 4)], [MASKS, torch.ones(90, 70)], ["old red roof"]
        ).args
    assert reference.class_word == "old red roof" and len(reference) == 3
    assert overlay.shape == (3, 512, 512, 3)


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("towers", "folder: 'towers' is not named"),
        ("../tower_a+roof_a", "folder: '../tower_a.roof_a' is not inside ComfyUI's input folder"),
        ("a/../../x+y", "folder: 'a/../../x.y' is not inside"),
        ("/etc/x+y", "folder: '/etc/x.y' is not inside"),
        ("tower_a+roof_a", "folder: there is no folder 'tower_a.roof_a'"),
        ("", "folder: '' is not inside"),
        ("a" * 5000 + "+b", "folder: 'aaaa.*' cannot be the name of a folder"),
        ("a\0+b", "folder: 'a.*' cannot be the name of a folder"),
        ("\ud800+b", "folder: '.*' cannot be the name of a folder"),
    ],
)
def test_load_pair(nodes, folder, message):
    assert nodes.MagicTailorLoadPair.validate_inputs(folder) is True
    nodes.MagicTailorLoadPair.fingerprint_inputs(folder, 1)
    with pytest.raises(ValueError, match=f"^Load MagicTailor Pair, {message}"):
        nodes.MagicTailorLoadPair.execute(folder, 1)


def test_a_component_the_folder_does_not_have(nodes):
    with pytest.raises(ValueError, match="^Load MagicTailor Pair, component_number: is 2"):
        nodes.MagicTailorLoadPair.execute("example: house_a+roof_a", 2)


@pytest.fixture(scope="module")
def without_masks(base_dir, rendered_pair):
    folder = base_dir / "input" / "house_b+roof_b"
    shutil.copytree(rendered_pair, folder, ignore=shutil.ignore_patterns("masks"))
    return folder


def test_of_a_pair_without_masks_only_the_references_are_refused(nodes, without_masks, loaded_checkpoint):
    folder = without_masks
    with torch.inference_mode():
        concept, component, images, others, *words = nodes.MagicTailorLoadPair.execute(folder.name, 1).args
    assert (len(images), len(others), words) == (3, 3, ["house", "roof"])
    said = "^Load MagicTailor Pair, folder: there is no mask for .*GroundedSAM"
    assert all(re.match(said, unmasked.complaint) for unmasked in (concept, component))
    with pytest.raises(RuntimeError, match=said):
        nodes.MagicTailorTrainV2.execute(*loaded_checkpoint[:3], concept, {"component 1": component})


def test_the_loader_is_blamed_for_masks_that_somebody_wants(nodes, without_masks):
    from comfy_api.v0_0_2 import io

    def loaded(output, socket="concept"):
        graph = {
            "1": {"inputs": {"folder": without_masks.name, "component_number": 1}},
            "2": {"inputs": {"width": 64, socket: ["1", output]}},
        }
        load = nodes.MagicTailorLoadPair
        # as the host does before it runs a node
        hidden = {io.Hidden.prompt: graph, io.Hidden.unique_id: "1"}
        return load.PREPARE_CLASS_CLONE({"hidden_inputs": hidden}).execute(without_masks.name, 1).args

    with torch.inference_mode():
        assert all(unmasked.complaint for unmasked in (*loaded(2)[:2], *loaded(0, "otherwise")[:2]))
        for output in (0, 1):
            with pytest.raises(ValueError, match="^Load MagicTailor Pair, folder: there is no mask for .*GroundedSAM"):
                loaded(output)


def test_notes_and_system_files_change_nothing(nodes, without_masks):
    load = nodes.MagicTailorLoadPair
    before = load.fingerprint_inputs(without_masks.name, 1)
    for name in (".DS_Store", "Thumbs.db", "notes.txt"):
        (without_masks / name).write_bytes(b"x")
    assert load.fingerprint_inputs(without_masks.name, 1) == before
    os.utime(without_masks / "0_house_a0.jpg", ns=(1, 1))
    assert load.fingerprint_inputs(without_masks.name, 1) != before


def test_transparency_of_an_image_is_neither_seen_nor_learned(nodes):
    cut_out = torch.rand(1, 64, 80, 4)
    cut_out[..., 3] = (torch.arange(80) < 25).float()
    with torch.inference_mode():
        reference = nodes.MagicTailorReference.execute([cut_out], [MASKS[:1]], ["tower"]).args[0]
    assert (reference.images[0][:, :, 25:] == 1.0).all() and reference.masks[0].sum() == 30 * 15


def test_a_gap_between_the_components(nodes, loaded_checkpoint, reference):
    with pytest.raises(ValueError, match="^MagicTailor Train, components: component 2 is not connected"):
        nodes.MagicTailorTrainV2.execute(
            *loaded_checkpoint[:3], reference, {"component 1": reference, "component 3": reference}
        )


@pytest.mark.parametrize(
    ("preset", "message"),
    [
        (None, "preset: has to be one of: paper"),
        ({"preset": "paper", "alpha": -1.0}, "alpha: has to be from 0"),
        ({"preset": "toy town", "phase1_train_steps": 0, "phase2_train_steps": 0}, "phase1_train_steps: both phases"),
    ],
)
def test_presets(nodes, preset, message):
    with pytest.raises(ValueError, match=f"^MagicTailor Settings, {message}"):
        nodes.MagicTailorSettings.execute(preset)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lora_rank": 0}, "lora_rank: has to be from 1"),
        ({"resolution": 100}, "resolution: has to be a multiple of 64"),
        ({"phase1_train_steps": 0}, "phase1_train_steps: both phases have 0 steps"),
        ({"phase1_learning_rate": float("nan")}, "phase1_learning_rate: "),
    ],
)
def test_settings(nodes, loaded_checkpoint, reference, settings, message):
    with pytest.raises(ValueError, match=f"^MagicTailor Train, {message}"):
        train(nodes, *loaded_checkpoint[:3], reference, **settings)


@pytest.fixture(scope="module")
def inpainting_model(host, loaded_checkpoint):
    """A checkpoint for inpainting: the stock loader gives a MODEL whose U-Net takes 9 channels."""
    import comfy.sd

    with torch.inference_mode():
        state = {f"model.{k}": v for k, v in loaded_checkpoint[0].model.state_dict().items() if "diffusion_model" in k}
        first = "model.diffusion_model.input_blocks.0.0.weight"
        state[first] = torch.cat([state[first], state[first], state[first][:, :1]], 1)
        return comfy.sd.load_diffusion_model_state_dict(
            {k.removeprefix("model.diffusion_model."): v for k, v in state.items()}
        )


def test_a_model_of_a_family_that_cannot_be_trained(nodes, loaded_checkpoint, reference, inpainting_model):
    _, clip, vae = loaded_checkpoint[:3]
    with pytest.raises(ValueError, match="^MagicTailor Train, model: its U-Net takes 9 channels.*Stable Diffusion 1.x"):
        train(nodes, inpainting_model, clip, vae, reference)


def test_something_else_than_an_autoencoder(nodes, host, loaded_checkpoint, reference):
    import copy

    model, clip, vae = loaded_checkpoint[:3]
    other = copy.copy(vae)
    other.patcher = clip.patcher
    with pytest.raises(ValueError, match="^MagicTailor Train, vae: is not an autoencoder"):
        train(nodes, model, clip, other, reference)


def test_a_diverging_training_says_where_and_keeps_what_it_learned(
    nodes, library, base_dir, loaded_checkpoint, taesd, reference
):
    settings = {"phase1_train_steps": 30, "phase1_learning_rate": 1.0, "lora_rank": 64}
    kept = base_dir / "output" / "loras" / "magictailor_unfinished"
    with pytest.raises(RuntimeError, match=r"^MagicTailor Train: .* stopped at step \d+.*learning rate") as caught:
        train(nodes, *loaded_checkpoint[:2], taesd, reference, **settings)
    (path,) = kept.iterdir()
    assert path.name in str(caught.value)
    tailoring = library.load_tailoring(path)
    assert not tailoring.finished and tailoring.steps_done >= 1
    run = library.runs.Runs(base_dir / "output" / "magictailor" / "runs").all()[0]
    assert run.record.steps_done == tailoring.steps_done
    run.delete()
    path.unlink()


def test_errors_reach_the_person_at_the_canvas(server):
    graph = {
        "1": {"class_type": "MagicTailorLoadPair", "inputs": {"folder": "towers", "component_number": 1}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 2]}},
    }
    with pytest.raises(RuntimeError, match="Load MagicTailor Pair, folder: 'towers' is not named"):
        server.run(graph)
