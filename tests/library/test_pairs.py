import pytest
import torch
from PIL import Image

from magictailor.errors import InputError
from magictailor.formats.pair_folder import load_pair, pair_folders


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "sets" / "old tower_a+roof_b"
    (folder / "masks").mkdir(parents=True)
    for name, size in (("0_tower_a0.jpg", (80, 60)), ("0_tower_a1.png", (64, 64)), ("1_roof_b0.jpg", (64, 90))):
        Image.new("RGB", size, (255, 0, 0)).save(folder / name)
        mask = Image.new("L", size)
        mask.paste(255, (10, 10, 30, 30))
        mask.save(folder / "masks" / f"{name[:-4]}.png")
    (folder / "notes.txt").write_text("not a picture")
    return folder


def test_concept_and_component_with_masks(folder):
    concept, component = load_pair(folder)
    assert (concept.class_word, component.class_word) == ("old tower", "roof")
    assert concept.names == ("0_tower_a0.jpg", "0_tower_a1.png")
    assert [tuple(i.shape) for i in concept.images] == [(3, 60, 80), (3, 64, 64)]
    assert concept.masks[0].sum() == 400
    assert len(concept.reference()) == 2 and len(component.reference()) == 1


def test_a_missing_mask_is_told_when_the_reference_is_wanted(folder):
    (folder / "masks" / "0_tower_a1.png").unlink()
    concept, component = load_pair(folder)
    assert concept.without_mask == ("0_tower_a1.png",) and len(concept.images) == 2
    assert len(component.reference()) == 1
    with pytest.raises(InputError, match="no mask for 0_tower_a1.png"):
        concept.reference()


def test_several_components(folder):
    three = folder.rename(folder.with_name("tower_a+roof_b+big door"))
    Image.new("RGB", (64, 64)).save(three / "2_x.jpg")
    assert [part.class_word for part in load_pair(three)] == ["tower", "roof", "big door"]


def test_a_picture_is_turned_as_its_camera_says(folder):
    picture = Image.new("RGB", (80, 60))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(folder / "0_tower_a0.jpg", exif=exif)
    (folder / "masks" / "0_tower_a0.png").unlink()
    assert load_pair(folder)[0].images[0].shape == (3, 80, 60)


@pytest.mark.parametrize("name", ["tower", "+", "tower+", " +roof"])
def test_a_folder_not_named_like_a_pair(folder, name):
    with pytest.raises(InputError, match="^folder: .*is not named"):
        load_pair(folder.with_name(name))


def test_a_folder_that_is_not_there(folder):
    with pytest.raises(InputError, match="^folder: there is no folder"):
        load_pair(folder.with_name("a+b"))


@pytest.mark.parametrize("number", [0, 1])
def test_no_picture_of_one_of_them(folder, number):
    for path in folder.glob(f"{number}_*"):
        path.unlink()
    with pytest.raises(InputError, match=f"have to begin with {number}_"):
        load_pair(folder)


def test_a_file_that_is_no_picture(folder):
    (folder / "0_tower_a0.jpg").write_bytes(b"\xff\xd8 not a jpeg")
    with pytest.raises(InputError, match="0_tower_a0.jpg cannot be read"):
        load_pair(folder)


def test_a_mask_of_another_size(folder):
    Image.new("L", (10, 10)).save(folder / "masks" / "0_tower_a0.png")
    with pytest.raises(InputError, match="the mask 0_tower_a0.png has 10x10 pixels and its picture 80x60"):
        load_pair(folder)


def test_pair_folders_are_found_by_name(folder, tmp_path):
    (tmp_path / "no pair").mkdir()
    (tmp_path / "x_1+y_1").mkdir()
    # a Mac's archive, something thrown away
    for hidden in ("__MACOSX", ".Trash-1000"):
        (tmp_path / hidden / "x_1+y_1").mkdir(parents=True)
    assert list(pair_folders(tmp_path)) == ["sets/old tower_a+roof_b", "x_1+y_1"]
    assert list(pair_folders(tmp_path / "missing")) == []


def test_a_mask_is_found_however_its_accents_are_written(folder):
    (folder / "0_tower_a0.jpg").rename(folder / "0_t\u00f6wer.jpg")
    (folder / "masks" / "0_tower_a0.png").rename(folder / "masks" / "0_to\u0308wer.png")
    decomposed = folder.rename(folder.with_name("tu\u0308r_a+roof_b"))
    concept, _ = load_pair(decomposed)
    assert concept.without_mask == () and concept.class_word == "t\u00fcr"


def test_the_pairs_at_hand_load(pair_folder):
    concept, component = (part.reference() for part in load_pair(pair_folder))
    assert len(concept) == len(component) == 3
    assert all(torch.isfinite(image).all() for image in concept.images)
    assert all(0.01 < mask.mean() < 0.9 for mask in (*concept.masks, *component.masks))
