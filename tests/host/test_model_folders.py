"""Mask models are found in ComfyUI's model folders, also in those that extra_model_paths.yaml names."""

import pytest
import torch


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

    def segment(model, image, boxes):
        masks = torch.zeros(len(boxes), *image.shape[1:])
        masks[:, 5:30, 5:30] = 1.0
        return masks

    monkeypatch.setattr(grounded_sam, "detect", detect)
    monkeypatch.setattr(grounded_sam, "segment", segment)
    models = grounded_sam.GroundedSAM(torch.nn.Identity(), torch.nn.Identity())

    def run(when_nothing_found):
        with torch.inference_mode():
            return nodes.MagicTailorGroundedSAM.execute(
                [models], pictures, ["house"], [""], [0.25], [0.25], [0.8], [when_nothing_found]
            ).args

    masks, overlays = run("empty mask")
    assert [m.shape[-2:] for m in masks] == [p.shape[1:3] for p in pictures]
    assert [bool(m.any()) for m in masks] == [True, False, True, True] and len(overlays) == 4
    with pytest.raises(ValueError, match="^GroundedSAM Masks, find: .* image 2 .*0.11"):
        run("stop")
