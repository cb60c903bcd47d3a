"""Scores: the measures on vectors worked out by hand, the regions they look at, and transformers' own embeddings."""

import dataclasses
import importlib
import json
import math
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTokenizer,
    Dinov2Config,
    Dinov2Model,
)

from magictailor.errors import InputError
from magictailor.reference import Reference
from magictailor.scores.encoders import CLIP_MEAN, VisionEncoder, load_encoder, prepared
from magictailor.scores.measures import agreement, likeness, merit, nearest, spread, standardised
from magictailor.scores.perceptual import DREAMSIM, LPIPS, WEIGHTS, require_perceptual
from magictailor.scores.regions import around, cut_out, is_there
from magictailor.scores.table import BACKGROUND, COMPONENT, CONCEPT, Column, ScoreTable, scored
from toytown.model import TOKENIZER

GRAY = torch.full((3,), 0.5)
RIGHT, UP, BETWEEN = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 3.0]]), torch.tensor([[1.0, 1.0]])
HALF = math.sqrt(0.5)


def test_likeness_is_the_mean_cosine_and_nearest_the_largest():
    references = torch.cat([RIGHT, UP])
    drawn = torch.cat([RIGHT, BETWEEN, -UP])
    assert torch.allclose(likeness(drawn, references), torch.tensor([0.5, HALF, -0.5]))
    assert torch.allclose(nearest(drawn, references), torch.tensor([1.0, HALF, 0.0]))
    assert torch.allclose(agreement(torch.cat([RIGHT, UP]), torch.cat([BETWEEN, UP])), torch.tensor([HALF, 1.0]))


def test_references_are_compared_with_the_others_only():
    assert spread(torch.cat([RIGHT, UP, BETWEEN])) == pytest.approx(2 * HALF / 3)
    assert spread(RIGHT) is None


def test_no_unit_counts_more_than_another():
    small, large = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([300.0, 100.0, 200.0])
    assert torch.allclose(standardised(small), torch.tensor([-1.0, 0.0, 1.0]) * math.sqrt(1.5))
    assert not standardised(torch.ones(3)).any()
    found = merit({"a": small, "b": large}, {"a": 1.0, "b": 1.0})
    assert torch.allclose(found, torch.tensor([0.0, -1.0, 1.0]) * math.sqrt(1.5), atol=1e-6)
    assert torch.equal(merit({"a": small, "b": large}, {"b": -1.0}).argsort(), torch.tensor([0, 2, 1]))


def test_a_region_is_cut_out_square_and_alone():
    picture, mask = torch.rand(3, 40, 60), torch.zeros(40, 60)
    mask[5:25, 30:40] = 1
    cut = cut_out(picture, mask, GRAY)
    assert cut.shape == (3, 24, 24)
    assert torch.equal(cut[:, 2:22, 7:17], picture[:, 5:25, 30:40])
    cut[:, 2:22, 7:17] = 0.5
    assert (cut == 0.5).all()


def test_a_region_at_the_edge_keeps_its_place():
    picture, mask = torch.rand(3, 40, 60), torch.zeros(40, 60)
    mask[20:, :10] = 1
    cut = cut_out(picture, mask, GRAY)
    assert torch.equal(cut[:, 2:22, 7:17], picture[:, 20:, :10]) and (cut[:, :, :7] == 0.5).all()


def test_what_is_around_leaves_nothing_of_the_thing():
    picture, mask = torch.rand(3, 64, 64), torch.zeros(64, 64)
    mask[20:30, 20:30] = 1
    behind = around(picture, mask, GRAY)
    assert (behind[:, 19:31, 19:31] == 0.5).all()
    assert torch.equal(behind[:, :18], picture[:, :18])
    assert is_there(mask) and not is_there(torch.zeros(64, 64)) and not is_there(mask * 0.4)


class Colours:
    """Sees the mean colour of a picture and nothing else."""

    name, colour = "mean", torch.zeros(3)

    def pictures(self, pictures):
        return torch.stack([picture.mean(dim=(1, 2)) for picture in pictures])


def thing(colour, behind, place):
    picture = torch.tensor(behind)[:, None, None].repeat(1, 64, 64)
    mask = torch.zeros(64, 64)
    mask[place] = 1
    return picture * (1 - mask) + torch.tensor(colour)[:, None, None] * mask, mask


RED, GREEN, BLUE, WHITE = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (1.0, 1.0, 1.0)
TOP, LEFT = (slice(0, 20), slice(20, 50)), (slice(30, 60), slice(5, 25))


@pytest.fixture
def references():
    return [
        Reference(word, *([one] for one in thing(colour, GREEN, place)))
        for word, colour, place in (("house", RED, LEFT), ("roof", BLUE, TOP))
    ]


def test_each_thing_is_compared_in_its_own_region(references):
    right, mask = thing(RED, WHITE, LEFT)
    wrong, _ = thing(BLUE, GREEN, LEFT)
    table = scored([right, wrong], references, [Colours()], [[mask, mask], [mask, torch.zeros(64, 64)]])
    concept, component, background = table.columns
    assert [c.measure for c in table.columns] == [CONCEPT, COMPONENT, BACKGROUND]
    assert concept.title == "mean house" and concept.values == pytest.approx((1.0, 0.0))
    assert component.values == pytest.approx((0.0, 0.0)), "the second is not there"
    assert background.values[1] == pytest.approx(1.0) and background.values[0] < 0.7
    assert background.among == pytest.approx(1.0) and concept.among is None


def test_a_repeated_class_word_has_a_column_of_its_own(references):
    right, mask = thing(RED, WHITE, LEFT)
    two = [references[0], dataclasses.replace(references[1], class_word="house")]
    table = scored([right, right], two, [Colours(), Colours()], [None, [mask, mask]])
    titles = ["mean house", "mean house 2", "mean background", "mean 2 house", "mean 2 house 2", "mean 2 background"]
    assert [c.title for c in table.columns] == titles
    assert len(table.rows()[0]) == 6 and table.best(1, {COMPONENT: 1.0}) == [0]


def test_people_read_a_line_for_each_picture_and_what_the_references_are_among_themselves():
    table = ScoreTable((Column("a house", CONCEPT, (0.25, 0.75), 0.8), Column("a roof", COMPONENT, (0.5, 1.0))))
    assert [line.split() for line in table.text.splitlines()] == [
        ["picture", "a", "house", "a", "roof"],
        ["1", "0.250", "0.500"],
        ["2", "0.750", "1.000"],
        ["mean", "0.500", "0.750"],
        ["references", "among", "themselves", "0.800"],
    ]
    assert table.likeness == [0.375, 0.875]


def test_a_picture_that_shows_nothing_costs_the_others_nothing(references):
    right, wrong = thing(RED, WHITE, LEFT)[0], thing(BLUE, GREEN, LEFT)[0]
    black = torch.full_like(right, math.nan)
    table, without = (scored(some, references, [Colours()]) for some in ([wrong, black, right], [wrong, right]))
    assert table.best(3, {CONCEPT: 1.0, BACKGROUND: -0.5}) == [2, 0, 1]
    assert [c.values[::2] for c in table.columns] == [c.values for c in without.columns]
    assert all(map(math.isnan, table.rows()[1].values()))
    *lines, told = table.text.splitlines()
    assert told == "picture 2: not finite, seen as black, so not scored"
    assert [line for line in lines if line.startswith(("mean", "references"))] == without.text.splitlines()[-2:]


def test_without_masks_the_whole_picture_is_compared(references):
    red, _ = thing(RED, RED, LEFT)
    assert scored([red], references, [Colours()]).columns[0].values == pytest.approx((1.0,))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"pictures": []}, "no picture"),
        ({"encoders": []}, "at least one"),
        ({"masks": [[]]}, "0 masks for 1"),
        ({"prompts": ["a", "b"]}, "2 prompts for 1"),
    ],
)
def test_what_does_not_belong_together_is_refused(references, changes, told):
    given = {"pictures": [torch.rand(3, 64, 64)], "references": references, "encoders": [Colours()]}
    with pytest.raises(InputError, match=told):
        scored(**{**given, **changes})


def test_the_best_have_the_concept_and_not_the_background():
    table = ScoreTable(
        (
            Column("a house", CONCEPT, (0.1, 0.9, 0.5)),
            Column("b house", CONCEPT, (0.1, 0.5, 0.9)),
            Column("a background", BACKGROUND, (0.0, 1.0, 0.0)),
        )
    )
    assert table.best(2, {CONCEPT: 1.0, BACKGROUND: -1.0}) == [2, 0]
    assert table.best(9, {CONCEPT: 1.0}) == [1, 2, 0]
    assert table.of([2]).rows() == [{"a house": 0.5, "b house": 0.9, "a background": 0.0}]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Small kin of CLIP and DINOv2 with random weights, as transformers stores them."""
    root = tmp_path_factory.mktemp("encoders")
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = {**size, **ids, "vocab_size": len(tokenizer)}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        clip = CLIPModel(
            CLIPConfig(text_config=text, vision_config={**size, "image_size": 56, "patch_size": 14}, projection_dim=24)
        )
        dino = Dinov2Model(Dinov2Config(image_size=56, patch_size=14, **size))
    clip.save_pretrained(root / "clip")
    tokenizer.save_pretrained(root / "clip")
    dino.save_pretrained(root / "dino")
    sized = {"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}}
    CLIPImageProcessor(**sized).save_pretrained(root / "clip")
    colours = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    CLIPImageProcessor(**sized, **colours).save_pretrained(root / "dino")
    return root, clip.eval(), dino.eval()


def test_clip_gives_transformers_own_embeddings(folders):
    root, clip, _ = folders
    pictures = [torch.rand(3, 56, 56).mul(255).round() / 255 for _ in range(2)]
    encoder = load_encoder(root / "clip")
    read = CLIPImageProcessor.from_pretrained(root / "clip")(
        [p.movedim(0, -1).mul(255).byte().numpy() for p in pictures], return_tensors="pt"
    )
    with torch.no_grad():
        wanted = clip(**read, **encoder.tokenizer(["a red house", "a roof"], padding=True, return_tensors="pt"))
    cosines = torch.nn.functional.normalize(encoder.pictures(pictures), dim=1)
    assert torch.allclose(cosines, wanted.image_embeds, atol=1e-4)
    texts = torch.nn.functional.normalize(encoder.texts(["a red house", "a roof"]), dim=1)
    assert torch.allclose(texts, wanted.text_embeds, atol=1e-4)


def test_dinov2_gives_transformers_own_embeddings(folders):
    root, _, dino = folders
    pictures = [torch.rand(3, 56, 56).mul(255).round() / 255 for _ in range(2)]
    read = CLIPImageProcessor.from_pretrained(root / "dino")(
        [p.movedim(0, -1).mul(255).byte().numpy() for p in pictures], return_tensors="pt"
    )
    with torch.no_grad():
        wanted = dino(**read).pooler_output
    assert torch.allclose(load_encoder(root / "dino").pictures(pictures), wanted, atol=1e-4)


def test_a_picture_is_prepared_as_clip_does():
    wide = torch.rand(3, 40, 100)
    assert torch.equal(prepared(wide, 40, (0, 0, 0), (1, 1, 1)), (wide[:, :, 30:70] * 255).round() / 255)
    assert prepared(torch.rand(3, 33, 90), 56, CLIP_MEAN, (1, 1, 1)).shape == (3, 56, 56)


def test_a_smaller_picture_is_the_one_pillow_makes():
    # away from black and white, where Pillow cuts off what overshoots between its two passes
    levels = torch.randint(64, 192, (80, 120, 3), dtype=torch.uint8)
    wanted = np.asarray(Image.fromarray(levels.numpy()).resize((60, 40), Image.Resampling.BICUBIC))[:, 10:50]
    made = prepared(levels.movedim(-1, 0) / 255, 40, (0, 0, 0), (1, 1, 1))
    assert torch.allclose(made.movedim(0, -1), torch.from_numpy(wanted / 255).float(), atol=0.01)


def test_a_vector_does_not_depend_on_the_other_pictures(folders):
    encoder = load_encoder(folders[0] / "clip")
    pictures = [torch.rand(3, 56, 56) for _ in range(3)]
    assert torch.equal(encoder.pictures(pictures)[1:2], encoder.pictures(pictures[1:2]))


def test_a_folder_of_another_kind_is_refused(tmp_path):
    with pytest.raises(InputError, match="not a folder of transformers"):
        load_encoder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(InputError, match="bert"):
        load_encoder(tmp_path)


def test_an_encoder_needs_no_text():
    encoder = VisionEncoder("x", lambda pixels: pixels.mean(dim=(2, 3)), 8, (0, 0, 0), (1, 1, 1))
    reference = Reference("house", *([one] for one in thing(RED, GREEN, LEFT)))
    table = scored([torch.rand(3, 64, 64)], [reference], [encoder], prompts=["a"])
    assert [dataclasses.astuple(c)[1] for c in table.columns] == [CONCEPT, BACKGROUND]


LPIPS_STAND_IN = '''
import os
import torch


class LPIPS(torch.nn.Module):
    """Called as the package's own; half the mean square in place of AlexNet."""

    def __init__(self, pretrained=True, net="alex", version="0.1", lpips=True, spatial=False, verbose=True):
        super().__init__()
        assert net == "alex" and not verbose
        # where torchvision looks before it downloads
        self.factor = torch.load(os.path.join(torch.hub.get_dir(), "checkpoints", "alexnet-owt-7be5be79.pth"))

    def forward(self, in0, in1, retPerLayer=False, normalize=False):
        assert in0.shape == in1.shape == (1, 3, 224, 224) and -1 <= in0.min() <= in0.max() <= 1
        return self.factor * (in0 - in1).square().mean(dim=(1, 2, 3), keepdim=True)
'''
DREAMSIM_STAND_IN = '''
import numpy as np
import torch


class Model:
    def embed(self, img):
        assert img.shape == (1, 3, 224, 224) and 0 <= img.min() <= img.max() <= 1
        return img.mean(dim=(2, 3)) + 0.1

    def __call__(self, a, b):
        return 1 - torch.nn.functional.cosine_similarity(self.embed(a), self.embed(b), dim=-1)


def dreamsim(pretrained=True, device="cuda", cache_dir="./models", normalize_embeds=True, dreamsim_type="ensemble",
             use_patch_model=False):
    """Called as the package's own; mean colours in place of three vision transformers."""
    print("Using cached", cache_dir)
    assert pretrained and (device, dreamsim_type) == ("cpu", "ensemble")

    def preprocess(picture):
        resized = np.array(picture.convert("RGB").resize((224, 224)))
        return torch.from_numpy(resized).permute(2, 0, 1)[None].float() / 255

    return Model(), preprocess
'''


@pytest.fixture
def stand_ins(tmp_path, monkeypatch):
    """Packages dreamsim and lpips, and a folder with what each takes for its weights."""
    for name, source in (("lpips", LPIPS_STAND_IN), ("dreamsim", DREAMSIM_STAND_IN)):
        (tmp_path / "packages").mkdir(exist_ok=True)
        (tmp_path / "packages" / f"{name}.py").write_text(source)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    (tmp_path / "lpips" / "checkpoints").mkdir(parents=True)
    torch.save(torch.tensor(0.5), tmp_path / "lpips" / "checkpoints" / "alexnet-owt-7be5be79.pth")
    (tmp_path / "dreamsim").mkdir()
    for file in WEIGHTS[DREAMSIM]:
        (tmp_path / "dreamsim" / file).touch()
    yield tmp_path
    for name in ("lpips", "dreamsim"):
        sys.modules.pop(name, None)


def test_lpips_is_one_less_the_distance_of_two_pictures(stand_ins, references):
    before = torch.hub.get_dir()
    encoder = load_encoder(stand_ins / "lpips")
    assert torch.hub.get_dir() == before
    one, other = torch.zeros(3, 64, 64), torch.full((3, 80, 70), 0.5)
    vectors = encoder.pictures([one, other])
    assert torch.allclose(encoder.alike(vectors, vectors), torch.tensor([[1.0, 0.5], [0.5, 1.0]]), atol=1e-2)
    red, mask = thing(RED, WHITE, LEFT)
    blue, _ = thing(BLUE, GREEN, LEFT)
    table = scored([red, blue], references, [encoder], [[mask, mask]])
    assert [c.title for c in table.columns] == ["LPIPS house", "LPIPS roof", "LPIPS background"]
    assert table.columns[0].values[0] == pytest.approx(1.0) and table.columns[0].values[1] < 0.95
    two = [dataclasses.replace(r, images=r.images * 2, masks=r.masks * 2) for r in references]
    assert scored([red], two, [encoder]).columns[0].among == pytest.approx(1.0)


def test_dreamsim_is_one_less_the_distance_of_two_pictures(stand_ins, capsys):
    encoder = load_encoder(stand_ins / "dreamsim")
    assert capsys.readouterr().out == ""
    some = [torch.rand(3, 64, 64), torch.rand(3, 90, 70) * torch.tensor([1.0, 0.2, 0.1])[:, None, None]]
    vectors = encoder.pictures(some)
    read = [encoder.preparation(Image.fromarray((p * 255).byte().permute(1, 2, 0).numpy())) for p in some]
    distance = encoder.network(*read)
    assert torch.allclose(likeness(vectors[:1], vectors[1:]), 1 - distance, atol=1e-3) and distance > 0.05


def test_a_measure_whose_package_or_weights_are_missing_is_told(stand_ins, monkeypatch):
    (stand_ins / "dreamsim" / "ensemble_lora").unlink()
    with pytest.raises(InputError, match="^encoders: .*lacks ensemble_lora, which DreamSim needs; nothing is"):
        load_encoder(stand_ins / "dreamsim")
    with pytest.raises(InputError, match="^encoders: .*lacks checkpoints/alexnet"):
        require_perceptual(LPIPS, stand_ins / "dreamsim")
    (stand_ins / "packages" / "lpips.py").unlink()
    importlib.invalidate_caches()
    with pytest.raises(InputError, match="^encoders: LPIPS needs the package lpips; pip install lpips brings it"):
        load_encoder(stand_ins / "lpips")
