"""Mask models are found in ComfyUI's model folders, also in those that extra_model_paths.yaml names."""

import os
import subprocess

import pytest
import torch


@pytest.fixture(params=["a file in its place", "a mount that is read-only"])
def cannot_be_written(request, tmp_path):
    folder = tmp_path / "cannot"
    if request.param == "a file in its place":
        folder.write_text("no folder")
        yield folder
        return
    if not hasattr(os, "getuid") or os.getuid() != 0:
        pytest.skip("only root may mount a disk that is read-only")
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("this system lets no disk be mounted")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_save_goes_on_to_the_next_folder_that_can_be_written_and_says_so(
    host, nodes, library, cannot_be_written, tmp_path, monkeypatch
):
    import folder_paths

    for kind in ("loras", "embeddings"):
        paths = [str(cannot_be_written / kind), str(tmp_path / kind)]
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, (paths, {".safetensors"}))
    stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    lora = {f"{stem}.lora_down.weight": torch.ones(1, 4), f"{stem}.lora_up.weight": torch.ones(4, 1)}
    token = library.tailoring.Token("<v0>", "house", {"clip_l": torch.ones(8)})
    tailoring = library.tailoring.Tailoring("sd1", lora | {f"{stem}.alpha": torch.ones(())}, (token,), None, None)
    saved = nodes.MagicTailorSave.execute(tailoring, "mine")
    assert [path.name for path in (tmp_path / "loras").iterdir()] == ["mine.safetensors"]
    assert [path.name for path in (tmp_path / "embeddings").iterdir()] == ["mine_v0.safetensors"]
    (shown,) = saved.ui.as_dict()["text"]
    assert "pictures" not in shown
    asked = nodes.MagicTailorSave.execute(tailoring, "asked", reference_pictures=True)
    assert "does not carry any" in asked.ui.as_dict()["text"][0]
    for path in (tmp_path / "embeddings").glob("asked*"):
        path.unlink()
    assert shown.count("the folder before it cannot be written") == 2 and str(tmp_path / "loras") in shown
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(cannot_be_written / "loras")], set()))
    with pytest.raises(ValueError, match="^Save Tailoring, loras: the files cannot be written .*nothing was saved"):
        nodes.MagicTailorSave.execute(tailoring, "again")
    assert len(list((tmp_path / "embeddings").iterdir())) == 1


@pytest.fixture
def listed(host):
    def listed():
        inputs = host.pack.nodes.MagicTailorGroundedSAMLoader.define_schema().inputs
        return {i.id: i.options for i in inputs}

    return listed


def test_files_of_the_models_folder_are_listed(listed):
    assert "groundingdino_swint_ogc.pth" in listed()["grounding_dino"]
    assert "sam_vit_b_01ec64.pth" in listed()["sam"]


def test_extra_model_paths_are_searched_too(listed, tmp_path):
    from utils.extra_config import load_extra_path_config

    for folder, name in (("dino", "my_dino.pth"), ("segment", "sam_vit_h.pth")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).touch()
    config = tmp_path / "extra_model_paths.yaml"
    config.write_text(f"mine:\n  base_path: {tmp_path}\n  grounding-dino: dino\n  sams: segment\n")
    load_extra_path_config(str(config))
    assert {"my_dino.pth", "groundingdino_swint_ogc.pth"} <= set(listed()["grounding_dino"])
    assert {"sam_vit_h.pth", "sam_vit_b_01ec64.pth"} <= set(listed()["sam"])


def test_four_pictures_of_different_sizes_give_four_masks_or_one_clear_error(host, monkeypatch, library):
    """The networks are replaced by one that finds nothing on the second picture; everything around them is real."""
    nodes = host.pack.nodes
    grounded_sam, detections = library.masks.grounded_sam, library.masks.detections
    pictures = [torch.rand(1, 40 + 10 * n, 60, 3) for n in range(4)]

    def detect(model, image, classes, *others, **more):
        missed = image.shape[1] == 50
        boxes = torch.empty(0, 4) if missed else torch.tensor([[5.0, 5.0, 30.0, 30.0]])
        count = len(boxes)
        return detections.Detections(boxes, torch.full((count,), 0.9), ("house",) * count, ("house",) * count, 0.11)

    def segment(model, image, boxes, size):
        masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
        masks[:, 5:30, 5:30] = True
        return masks

    monkeypatch.setattr(grounded_sam, "detect", detect)
    monkeypatch.setattr(grounded_sam, "segment", segment)
    models = grounded_sam.GroundedSAM(torch.nn.Identity(), torch.nn.Identity())

    def run(when_nothing_found, find=("house",), threshold=(0.25,)):
        with torch.inference_mode():
            return nodes.MagicTailorGroundedSAM.execute(
                [models], pictures, list(find), [""], list(threshold), [0.25], [0.8], [when_nothing_found]
            ).args

    masks, overlays = run("empty mask")
    assert [m.shape[-2:] for m in masks] == [p.shape[1:3] for p in pictures]
    assert [bool(m.any()) for m in masks] == [True, False, True, True] and len(overlays) == 4
    with pytest.raises(ValueError, match="^GroundedSAM Masks, find: .* image 2 .*0.11"):
        run("stop")
    # a list is never taken for its first value
    with pytest.raises(ValueError, match="^GroundedSAM Masks, find: is a list of 3 for 4 pictures"):
        run("empty mask", find=("house", "house", "roof"))
    with pytest.raises(ValueError, match="^GroundedSAM Masks, box_threshold: is a list of 2, and there can be only"):
        run("empty mask", threshold=(0.25, 0.3))
