"""GroundedSAM through groundingdino-py and segment-anything themselves, on random weights, without a network."""

import socket
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from transformers import BertConfig, BertModel

from magictailor.errors import InputError
from magictailor.masks import grounded_sam, large_pictures
from magictailor.masks.detections import Detections, no_detections
from magictailor.masks.grounded_sam import GroundedSAM, load_grounded_sam, load_sam
from magictailor.masks.grounding_dino import TextEncoder, detect, detector_package, load_grounding_dino, load_tokenizer
from tools.models import small_models

groundingdino = detector_package("models.GroundingDINO.groundingdino")
DINO, SAM, BERT = "grounding-dino/groundingdino_swint_ogc.pth", "sams/sam_vit_b_01ec64.pth", "bert-base-uncased"


@pytest.fixture(scope="module")
def models_dir():
    return small_models()


@pytest.fixture(scope="module")
def models(models_dir):
    return load_grounded_sam(models_dir / DINO, models_dir / SAM, models_dir / BERT)


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("tried to reach the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


# --- the whole chain


def test_the_real_packages_give_a_mask_without_the_excluded_part(models, no_network, monkeypatch):
    """On a picture that is too large to be looked at whole, of which the networks get a copy."""
    outlined, detected, enlarged = [], [], []
    postprocess = models.segmenter.postprocess_masks

    def recorded(*arguments):
        outlined.extend(segment(*arguments))
        return outlined

    segment = grounded_sam.segment

    def noted(coarse, given, size):
        enlarged.append((len(coarse.flatten(0, 1)), size))
        return postprocess(coarse, given, size)

    monkeypatch.setattr(grounded_sam, "segment", recorded)

    def proposed(model, image, *given):
        found = detect(model, image, *given)
        detected.append((image.shape, found.boxes))
        return found

    monkeypatch.setattr(grounded_sam, "detect", proposed)
    monkeypatch.setattr(models.segmenter, "postprocess_masks", noted)
    monkeypatch.setattr(large_pictures, "LONGEST", 120)
    # SAM looks at 1024 pixels whatever the picture's size; two of its twelve layers do so as well
    encoder = models.segmenter.image_encoder
    monkeypatch.setattr(encoder, "blocks", encoder.blocks[:2])
    # a strip: its longer side decides how much the detector enlarges it, and with it the time
    image = torch.rand(3, 4, 24, generator=torch.Generator().manual_seed(0))
    image = torch.nn.functional.interpolate(image[None], size=(40, 240), mode="bilinear")[0]
    (result,) = models.masks([image], "house", exclude="roof")
    (size, of_house), (other_size, _) = detected
    assert size == other_size == (3, 20, 120)
    # of the masks at the picture's size there is one at a time, however many are proposed
    assert [size for size in enlarged if size[1] == (40, 240)] == [(1, (40, 240))] * 2
    assert result.mask.shape == (40, 240)
    assert set(result.mask.unique().tolist()) == {0.0, 1.0}
    assert result.found.classes == ("house",)
    assert result.excluded.classes == ("roof",)
    assert result.found.boxes.min() >= 0
    assert (result.found.boxes.amax(0) <= torch.tensor([240, 40, 240, 40])).all()
    assert (result.found.boxes[0] == 2 * of_house).all(1).any(), "in pixels of the picture, not of its copy"
    assert result.found.scores.min() > 0.25
    house, roof = outlined
    assert torch.equal(result.mask.bool(), house & ~roof)
    assert not torch.equal(result.mask.bool(), house)


@pytest.mark.parametrize(
    ("choice", "there", "taken"),
    [("auto", "cuda", "cuda"), ("auto", "mps", "cpu"), ("cpu", "cuda", "cpu"), ("auto", "cpu", "cpu")],
)
def test_masks_are_made_where_the_user_chooses_and_results_are_right(choice, there, taken):
    moved = []
    part = SimpleNamespace(to=moved.append)
    GroundedSAM(part, part, choice).to(there)
    assert moved == [torch.device(taken)] * 2


def test_loading_fills_every_weight_from_the_files(models, models_dir):
    written = torch.load(models_dir / DINO, weights_only=True)["model"]
    loaded = models.detector.state_dict()
    assert all(torch.equal(loaded[name], written[name].to(loaded[name].dtype)) for name in loaded)
    written = torch.load(models_dir / SAM, weights_only=True)
    assert all(torch.equal(value, written[name].float()) for name, value in models.segmenter.state_dict().items())


def test_the_package_is_left_as_it_was(models):
    assert groundingdino.BertModelWarper.__module__.startswith("groundingdino.")
    assert groundingdino.get_tokenlizer.__name__ == "groundingdino.util.get_tokenlizer"


# --- the text encoder


@pytest.fixture(scope="module")
def bert():
    torch.manual_seed(0)
    config = BertConfig(num_hidden_layers=3, hidden_size=48, num_attention_heads=4, intermediate_size=96)
    return BertModel(config).eval()


def caption_inputs(tokenizer, caption):
    tokens = tokenizer(caption, return_tensors="pt")
    special = tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]", ".", "?"])
    mask, positions, _ = groundingdino.generate_masks_with_special_tokens_and_transfer_map(tokens, special, tokenizer)
    return tokens["input_ids"], mask, positions


def independent_bert(bert, ids, mask, positions):
    """BERT (Devlin et al. 2018) from its weights alone, one head at a time."""
    embeddings = bert.embeddings
    states = embeddings.word_embeddings.weight[ids[0]] + embeddings.position_embeddings.weight[positions[0]]
    states = embeddings.LayerNorm(states + embeddings.token_type_embeddings.weight[0])
    for layer in bert.encoder.layer:
        attention = layer.attention.self
        heads = []
        for rows in torch.arange(48).chunk(4):
            parts = (attention.query, attention.key, attention.value)
            query, key, value = (states @ part.weight[rows].T + part.bias[rows] for part in parts)
            scores = (query @ key.T / 12**0.5).masked_fill(~mask[0], -torch.inf)
            heads.append(scores.softmax(-1) @ value)
        out = layer.attention.output
        states = out.LayerNorm(out.dense(torch.cat(heads, -1)) + states)
        middle = torch.nn.functional.gelu(layer.intermediate.dense(states))
        states = layer.output.LayerNorm(layer.output.dense(middle) + states)
    return states


@torch.no_grad()
def test_the_text_encoder_obeys_the_mask_of_token_pairs(bert, models_dir):
    ids, mask, positions = caption_inputs(load_tokenizer(models_dir / BERT), "red house . front door .")
    states = TextEncoder(bert)(input_ids=ids, attention_mask=mask, position_ids=positions)["last_hidden_state"]
    torch.testing.assert_close(states[0], independent_bert(bert, ids, mask, positions), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_words_of_one_class_do_not_see_another_class(bert, models_dir):
    tokenizer = load_tokenizer(models_dir / BERT)
    states = []
    for caption in ("red house . front door .", "red house . old roof ."):
        ids, mask, positions = caption_inputs(tokenizer, caption)
        output = TextEncoder(bert)(input_ids=ids, attention_mask=mask, position_ids=positions)
        states.append(output["last_hidden_state"])
    assert torch.equal(states[0][0, 1:4], states[1][0, 1:4])
    assert not torch.allclose(states[0][0, 4:6], states[1][0, 4:6])


def test_the_vocabulary_is_that_of_bert(models_dir):
    tokenizer = load_tokenizer(models_dir / BERT)
    assert tokenizer("House . front doors .")["input_ids"] == [101, 2160, 1012, 2392, 4303, 1012, 102]


# --- one mask for each image, or one error


class Crafted(GroundedSAM):
    """Finds "house" on every image but the second (best score 0.21), and "roof" on the first."""

    def __init__(self, monkeypatch):
        super().__init__(detector=None, segmenter=None)
        monkeypatch.setattr(grounded_sam, "detect", self.detect)
        monkeypatch.setattr(grounded_sam, "segment", self.segment)

    def detect(self, _, image, classes, text_threshold, field):
        number = int(image[0, 0, 0] * 10)
        if classes == ("house",) and number != 2:
            return Detections(torch.tensor([[0.0, 0, 4, 4]]), torch.tensor([0.9]), classes, classes, 0.9)
        if classes == ("roof",) and number == 1:
            return Detections(torch.tensor([[0.0, 0, 4, 2]]), torch.tensor([0.8]), classes, classes, 0.8)
        if classes == ("wall",):
            return Detections(torch.tensor([[0.0, 0, 5, 5]]), torch.tensor([0.7]), classes, classes, 0.7)
        return no_detections(best_score=0.21)

    def segment(self, _, image, boxes, size):
        masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
        for mask, (x0, y0, x1, y1) in zip(masks, boxes.int().tolist(), strict=True):
            mask[y0:y1, x0:x1] = 1
        return masks


@pytest.fixture
def four_images():
    return [torch.full((3, 8, 6 + number), number / 10 + 0.01) for number in (1, 2, 3, 4)]


def test_four_images_give_four_masks_when_empty_ones_are_allowed(monkeypatch, four_images):
    done = []
    results = Crafted(monkeypatch).masks(
        four_images, "house", "roof", when_nothing_found="empty mask", on_image=done.append
    )
    assert [tuple(result.mask.shape) for result in results] == [(8, 7), (8, 8), (8, 9), (8, 10)]
    assert [int(result.mask.sum()) for result in results] == [8, 0, 16, 16]
    assert results[0].labels() == ["house 0.90", "not roof 0.80"]
    assert done == [0, 1, 2, 3, 4]


def test_each_image_can_have_words_of_its_own(monkeypatch, four_images):
    results = Crafted(monkeypatch).masks(four_images, ["house", "wall", "house", "wall"], ["roof", "", "", "house"])
    assert [int(result.mask.sum()) for result in results] == [8, 25, 16, 9]


def test_an_image_without_the_thing_stops_with_its_number_word_and_best_score(monkeypatch, four_images):
    with pytest.raises(InputError, match=r'^find: .*image 2 .*"house".*0\.21.*empty mask') as caught:
        Crafted(monkeypatch).masks(four_images, "house")
    assert caught.value.field == "find"


def test_nothing_left_after_the_exclusion_is_an_error_of_its_own(monkeypatch, four_images):
    crafted = Crafted(monkeypatch)
    with pytest.raises(InputError, match=r'^exclude: on image 1 nothing is left of "house" once "wall"'):
        crafted.masks(four_images, "house", "wall")
    results = crafted.masks(four_images, "house", "wall", when_nothing_found="empty mask")
    assert [int(result.mask.sum()) for result in results] == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"find": " "}, "find"),
        ({"exclude": ","}, "exclude"),
        ({"find": ["house", " ", "house", "house"]}, "find"),
        ({"exclude": ["roof", "roof"]}, "exclude"),
        ({"box_threshold": 1.2}, "box_threshold"),
        ({"when_nothing_found": "skip"}, "when_nothing_found"),
        ({"images": [torch.zeros(3, 8, 8), torch.full((3, 8, 8), torch.nan)]}, "images"),
        ({"images": [torch.zeros(4, 8, 8)]}, "images"),
    ],
)
def test_unusable_inputs_are_named_before_anything_runs(monkeypatch, four_images, change, field):
    crafted = Crafted(monkeypatch)
    with pytest.raises(InputError) as caught:
        crafted.masks(**{"images": four_images, "find": "house"} | change)
    assert caught.value.field == field


def test_words_the_detector_cannot_use_are_refused(models):
    image = torch.zeros(3, 16, 16)
    with pytest.raises(InputError, match="^find: .*does not know any letter"):
        models.masks([image], "\u13a0\u13a1")
    with pytest.raises(InputError, match="^exclude: .*too long"):
        grounded_sam.detect(models.detector, image, ("thing " * 300,), 0.25, "exclude")


# --- files


def test_a_safetensors_file_without_aliases_loads_too(models_dir, tmp_path):
    written = torch.load(models_dir / SAM, weights_only=True)
    path = tmp_path / "sam_vit_b.safetensors"
    safetensors.torch.save_file({name: value.contiguous().clone() for name, value in written.items()}, path)
    loaded = load_sam(path).state_dict()
    assert all(torch.equal(loaded[name], value.float()) for name, value in written.items())


def test_files_of_the_wrong_model_are_named(models_dir):
    with pytest.raises(InputError, match="^grounding_dino: sam_vit_b_01ec64.pth looks like a Segment Anything file"):
        load_grounding_dino(models_dir / SAM, models_dir / BERT)
    with pytest.raises(InputError, match="^sam: groundingdino_swint_ogc.pth looks like a Grounding DINO file"):
        load_sam(models_dir / DINO)


def test_a_file_with_missing_weights_is_refused(models_dir, tmp_path):
    written = torch.load(models_dir / SAM, weights_only=True)
    del written["mask_decoder.iou_token.weight"]
    torch.save(written, tmp_path / "sam.pth")
    with pytest.raises(InputError, match="^sam: sam.pth does not hold all"):
        load_sam(tmp_path / "sam.pth")


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html>", b"PK\x03\x04 cut off"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_damaged_file_is_refused(tmp_path, content, suffix):
    path = tmp_path / f"sam{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match="^sam: .*cannot be read"):
        load_sam(path)


class Hostile:
    def __reduce__(self):
        return (print, ("code in a checkpoint was run",))


def test_code_in_a_checkpoint_is_not_run(tmp_path, capsys):
    torch.save({"model": Hostile()}, tmp_path / "sam.pth")
    with pytest.raises(InputError, match="cannot be read"):
        load_sam(tmp_path / "sam.pth")
    assert capsys.readouterr().out == ""


def test_a_missing_vocabulary_says_which_file_goes_where(tmp_path):
    with pytest.raises(InputError, match="^bert-base-uncased: .*vocab.txt.*" + tmp_path.name):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        load_tokenizer(tmp_path)
