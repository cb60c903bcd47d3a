"""Pictures and masks as people bring them: one row for each format with what is odd about it."""

import io
import struct
import sys
import zlib

import numpy as np
import pillow_heif
import pytest
import torch
from PIL import Image, ImageCms

from magictailor.errors import InputError
from magictailor.formats import picture_file
from magictailor.formats.pair_folder import files_of_pair, load_pair
from magictailor.formats.picture_file import FORMATS, SUFFIXES, read_mask, read_picture

HEIGHT, WIDTH = 40, 60
ORANGE = (230, 120, 30)
ORIENTATION = 0x0112


def orange(mode="RGB", size=(WIDTH, HEIGHT)):
    return Image.new("RGB", size, ORANGE).convert(mode)


def png(samples, bits, kind, *chunks):
    """A PNG file written by hand, for what Pillow does not write; samples (H, W, C) of 8 or 16 bits."""
    rows = samples.astype(">u2" if bits == 16 else "u1")
    height, width = samples.shape[:2]
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)), *chunks, (b"IDAT", pixels)]
    chunks = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in (*parts, (b"IEND", b""))
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def eight_bits(*chunks):
    return png(np.array(orange()), 8, 2, *chunks)


def encoded(picture, kind, **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def with_orientation(orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def with_exif(contents):
    return encoded(orange(), "JPEG", quality=95, exif=b"Exif\0\0" + contents)


def sixteen_bit_colours():
    return np.broadcast_to(np.array(ORANGE) * 257, (HEIGHT, WIDTH, 3))


def palette_with_transparency():
    picture = orange().quantize(4)
    picture.info["transparency"] = 255
    return picture


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
LONG = b"Comment\0" + b"\0" + zlib.compress(b"x" * 3_000_000)

# file name, contents
ORANGES = {
    "jpeg": ("a.jpg", lambda: encoded(orange(), "JPEG", quality=95)),
    "upper case": ("a.JPEG", lambda: encoded(orange(), "JPEG", quality=95)),
    "jfif": ("a.jfif", lambda: encoded(orange(), "JPEG", quality=95)),
    "progressive jpeg": ("a.jpg", lambda: encoded(orange(), "JPEG", quality=95, progressive=True)),
    "cmyk jpeg": ("a.jpg", lambda: encoded(orange("CMYK"), "JPEG", quality=95)),
    "png": ("a.png", lambda: encoded(orange(), "PNG")),
    "interlaced palette png": ("a.png", lambda: encoded(orange().quantize(4), "PNG")),
    "png under a jpeg's name": ("a.jpg", lambda: encoded(orange(), "PNG")),
    "16-bit rgb png": ("a.png", lambda: png(sixteen_bit_colours(), 16, 2)),
    "srgb profile": ("a.png", lambda: encoded(orange(), "PNG", icc_profile=SRGB)),
    "huge compressed text": ("a.png", lambda: eight_bits((b"zTXt", LONG))),
    "very much text": ("a.png", lambda: eight_bits(*[(b"tEXt", b"workflow\0" + b"x" * 9_000_000)] * 8)),
    "damaged profile": ("a.png", lambda: eight_bits((b"iCCP", b"name\0\0not deflated"))),
    "a profile that is none": ("a.jpg", lambda: encoded(orange(), "JPEG", quality=95, icc_profile=b"x" * 200)),
    "huge profile": ("a.png", lambda: eight_bits((b"iCCP", b"n\0\0" + zlib.compress(b"\0" * 40_000_000)))),
    "malformed exif": ("a.jpg", lambda: with_exif(b"MM\0*\0\0\xff\xffgarbage")),
    "exif of another kind": ("a.jpg", lambda: with_exif(b"II*\0\x08\0\0\0\x01")),
    "webp": ("a.webp", lambda: encoded(orange(), "WEBP", quality=95)),
    "tiff": ("a.tif", lambda: encoded(orange(), "TIFF")),
    "tiff, lzw": ("a.tiff", lambda: encoded(orange(), "TIFF", compression="tiff_lzw")),
    "lab tiff": ("a.tif", lambda: encoded(as_lab(), "TIFF")),
    "bmp": ("a.bmp", lambda: encoded(orange(), "BMP")),
    "gif": ("a.gif", lambda: encoded(orange(), "GIF")),
    "opaque alpha": ("a.png", lambda: encoded(orange("RGBA"), "PNG")),
    "palette with transparency": ("a.png", lambda: encoded(palette_with_transparency(), "PNG")),
    "animation": ("a.gif", lambda: animation("GIF")),
    "animated webp": ("a.webp", lambda: animation("WEBP", quality=95)),
    "animated png": ("a.png", lambda: animation("PNG")),
    "phone's mpo": ("a.jpg", lambda: animation("MPO", quality=95)),
}  # fmt: skip


def as_lab():
    return ImageCms.profileToProfile(
        orange(), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )


def animation(kind, **options):
    others = [Image.new("RGB", (WIDTH, HEIGHT), colour) for colour in ("blue", "green")]
    return encoded(orange(), kind, save_all=True, append_images=others, **options)


@pytest.fixture
def write(tmp_path):
    def write(name, contents):
        path = tmp_path / name
        path.write_bytes(contents)
        return path

    return write


def is_orange(picture, tolerance=0.03):
    wanted = torch.tensor(ORANGE)[:, None, None] / 255
    return (picture.image - wanted).abs().max() < tolerance


@pytest.mark.parametrize("oddity", ORANGES)
def test_the_same_colour_whatever_the_file(write, oddity):
    name, contents = ORANGES[oddity]
    picture = read_picture(write(name, contents()))
    assert picture.image.shape == (3, HEIGHT, WIDTH) and picture.image.dtype == torch.float32
    assert is_orange(picture)
    assert picture.alpha is None


@pytest.mark.parametrize("oddity", ["animation", "animated webp", "animated png"])
def test_the_first_picture_of_an_animation_is_taken_and_that_is_said(write, oddity):
    name, contents = ORANGES[oddity]
    assert read_picture(write(name, contents())).notes == (f"{name} holds 3 pictures, of which the first is taken",)


def test_the_second_picture_of_a_phone_is_not_worth_a_word(write):
    name, contents = ORANGES["phone's mpo"]
    assert read_picture(write(name, contents())).notes == ()


@pytest.mark.parametrize("oddity", ["damaged profile", "a profile that is none", "huge profile"])
def test_a_profile_that_cannot_be_used_is_left_out_and_that_is_said(write, oddity):
    name, contents = ORANGES[oddity]
    assert read_picture(write(name, contents())).notes == (
        f"the colour profile of {name} cannot be used and is left out",
    )


@pytest.mark.skipif("AVIF" not in Image.registered_extensions().values(), reason="this Pillow reads no AVIF")
def test_avif(write):
    assert is_orange(read_picture(write("a.avif", encoded(orange(), "AVIF", quality=95))))


def test_heic_turned_by_its_camera(tmp_path):
    path = tmp_path / "a.HEIC"
    picture = corner((WIDTH, HEIGHT)).convert("RGB")
    pillow_heif.from_pillow(picture).save(path, quality=95, exif=with_orientation(6).tobytes())
    image = read_picture(path).image[0]
    assert image.shape == (WIDTH, HEIGHT)
    assert image[0, -1] > 0.9 and max(image[0, 0], image[-1, 0], image[-1, -1]) < 0.1


def test_heic_without_its_package(write, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(InputError, match="^folder: a.heic needs the package pillow-heif"):
        read_picture(write("a.heic", b"\0\0\0\x18ftypheic"))


def wide_gamut():
    """A profile of RGB whose red and green are exchanged: no accident gives its colours."""
    profile = bytearray(SRGB)
    tags = {profile[132 + 12 * n : 136 + 12 * n].decode(): 132 + 12 * n for n in range(profile[131])}
    red, green = (slice(tags[name] + 4, tags[name] + 12) for name in ("rXYZ", "gXYZ"))
    profile[red], profile[green] = profile[green], profile[red]
    return bytes(profile)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_colours_are_converted_by_the_profile(write, kind):
    exchanged = Image.new("RGB", (WIDTH, HEIGHT), (ORANGE[1], ORANGE[0], ORANGE[2]))
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    name = f"a.{kind.lower()}"
    assert is_orange(read_picture(write(name, encoded(exchanged, kind, icc_profile=wide_gamut(), **options))), 0.04)


def test_a_profile_of_megabytes_is_used(write):
    padded = wide_gamut() + bytes(2**21)
    padded = struct.pack(">I", len(padded)) + padded[4:]
    exchanged = np.array(Image.new("RGB", (WIDTH, HEIGHT), (ORANGE[1], ORANGE[0], ORANGE[2])))
    contents = png(exchanged, 8, 2, (b"iCCP", b"name\0\0" + zlib.compress(padded)))
    assert is_orange(read_picture(write("a.png", contents)), 0.04)


def test_grey_with_a_profile_of_colours(write):
    grey = Image.new("L", (WIDTH, HEIGHT), 128)
    picture = read_picture(write("a.jpg", encoded(grey, "JPEG", icc_profile=SRGB)))
    assert picture.notes == () and (picture.image - 128 / 255).abs().max() < 0.02


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("a.png", lambda values: png(values[..., None], 16, 0)),
        ("a.tif", lambda values: encoded(Image.fromarray(values.astype(np.uint16)), "TIFF")),
        ("a.tif", lambda values: encoded(Image.fromarray((values / 65535).astype(np.float32)), "TIFF")),
    ],
    ids=["png", "tiff", "tiff of floats"],
)
def test_sixteen_bits_of_grey_are_scaled(write, name, make):
    values = np.full((HEIGHT, WIDTH), int(0.53 * 65535))
    values[:, :10] = int(0.005 * 65535)
    path = write(name, make(values))
    mask = read_mask(path, read_picture(write("b.png", encoded(orange(), "PNG"))))
    assert mask[0, 0] == pytest.approx(0.005, abs=1e-4) and mask[0, -1] == pytest.approx(0.53, abs=1e-4)
    image = read_picture(path).image
    assert image[:, 0, 0].tolist() == pytest.approx([0.005] * 3, abs=3e-3)
    assert image[:, 0, -1].tolist() == pytest.approx([0.53] * 3, abs=3e-3)


def test_numbers_that_are_no_brightness_are_refused(write):
    values = np.full((HEIGHT, WIDTH), 3.5, dtype=np.float32)
    with pytest.raises(InputError, match="^folder: a.tif holds values from 3.5 to 3.5 in place of 0 to 1"):
        read_picture(write("a.tif", encoded(Image.fromarray(values), "TIFF")))


def cut_out(mode="RGBA"):
    """Orange in its left half; the right half is transparent, and blue underneath."""
    picture = Image.new("RGBA", (WIDTH, HEIGHT), (*ORANGE, 255))
    picture.paste((0, 0, 255, 0), (WIDTH // 2, 0, WIDTH, HEIGHT))
    return picture.convert(mode)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_what_lies_under_transparent_pixels_is_not_seen(write, kind):
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    picture = read_picture(write(f"a.{kind.lower()}", encoded(cut_out(), kind, **options)))
    assert (picture.image[:, :, WIDTH // 2 :] == 1.0).all()
    assert picture.alpha[:, : WIDTH // 2].min() == 1.0 and picture.alpha[:, WIDTH // 2 :].max() == 0.0
    assert picture.image[:, 0, 0].tolist() == pytest.approx([c / 255 for c in ORANGE], abs=1e-3)


def test_a_picture_that_is_all_transparent_is_refused(write):
    with pytest.raises(InputError, match="^folder: a.png is transparent everywhere"):
        read_picture(write("a.png", encoded(Image.new("RGBA", (WIDTH, HEIGHT)), "PNG")))


SHAPE = Image.new("L", (WIDTH, HEIGHT))
SHAPE.paste(255, (10, 10, 30, 30))
NOT_SHAPE = SHAPE.point(lambda value: 255 - value)
RED = Image.new("RGB", (WIDTH, HEIGHT), (255, 0, 0))


def with_alpha(colour, alpha):
    return Image.merge("RGBA", (*Image.new("RGB", (WIDTH, HEIGHT), colour).split(), alpha))


MASKS = {
    "white on black": ("m.png", SHAPE),
    "jpeg": ("m.JPG", SHAPE),
    "webp": ("m.webp", SHAPE.convert("RGB")),
    "bmp of one bit": ("m.bmp", SHAPE.convert("1")),
    "palette": ("m.png", SHAPE.convert("P")),
    "white everywhere, the shape in alpha": ("m.png", with_alpha((255, 255, 255), SHAPE)),
    "black everywhere, the shape in alpha": ("m.png", with_alpha((0, 0, 0), SHAPE)),
    "painted in red on transparent": ("m.png", with_alpha((255, 0, 0), SHAPE)),
    "grey and alpha": ("m.png", Image.merge("LA", (SHAPE, Image.new("L", SHAPE.size, 255)))),
    "white on black with alpha": ("m.png", Image.merge("RGBA", (SHAPE, SHAPE, SHAPE, SHAPE))),
    "half the size": ("m.png", SHAPE.resize((WIDTH // 2, HEIGHT // 2))),
    "twice the size": ("m.png", SHAPE.resize((WIDTH * 2, HEIGHT * 2))),
}


@pytest.mark.parametrize("oddity", MASKS)
def test_the_same_shape_whatever_the_mask(write, oddity):
    name, mask = MASKS[oddity]
    kind = {"jpg": "JPEG"}.get(name[2:].lower(), name[2:].upper())
    picture = read_picture(write("b.png", encoded(orange(), "PNG")))
    read = read_mask(write(name, encoded(mask, kind)), picture)
    assert read.shape == (HEIGHT, WIDTH)
    wanted = torch.from_numpy(np.array(SHAPE)) > 127
    assert ((read > 0.5) == wanted).float().mean() > 0.98


def test_a_mask_of_other_proportions_is_refused(write):
    picture = read_picture(write("b.png", encoded(orange(), "PNG")))
    with pytest.raises(InputError, match="^folder: the mask m.png has 40x40 pixels and its picture 60x40"):
        read_mask(write("m.png", encoded(Image.new("L", (40, 40)), "PNG")), picture)


def corner(size):
    """White in the upper left."""
    picture = Image.new("L", size)
    picture.paste(255, (0, 0, size[0] // 2, size[1] // 2))
    return picture


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_stands_as_its_camera_says(write, kind, orientation):
    options = {"lossless": True} if kind == "WEBP" else {}
    contents = encoded(corner((WIDTH, HEIGHT)).convert("RGB"), kind, exif=with_orientation(orientation), **options)
    image = read_picture(write(f"a.{kind.lower()}", contents)).image[0]
    white = {
        1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)
    }[orientation]  # fmt: skip
    assert image.shape == ((HEIGHT, WIDTH) if orientation < 5 else (WIDTH, HEIGHT))
    corners = {(y, x): bool(image[y, x] > 0.5) for y in (0, -1) for x in (0, -1)}
    assert [place for place, bright in corners.items() if bright] == [white]


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("drawn_on", ["what is seen", "what is stored", "what is stored, with the entry"])
def test_a_mask_fits_the_picture_as_seen_or_as_stored(write, orientation, drawn_on):
    exif = with_orientation(orientation)
    stored = corner((WIDTH, HEIGHT))
    path = write("a.png", encoded(stored.convert("RGB"), "PNG", exif=exif))
    picture = read_picture(path)
    seen = Image.fromarray((picture.image[0].numpy() * 255).astype(np.uint8))
    mask, options = {
        "what is seen": (seen, {}),
        "what is stored": (stored, {}),
        "what is stored, with the entry": (stored, {"exif": exif}),
    }[drawn_on]
    read = read_mask(write("m.png", encoded(mask, "PNG", **options)), picture)
    assert torch.equal(read > 0.5, picture.image[0] > 0.5)


def test_an_entry_that_does_not_belong_to_the_mask_is_left_out(write):
    picture = read_picture(write("a.png", encoded(orange(), "PNG")))
    mask = encoded(corner((WIDTH, HEIGHT)), "PNG", exif=with_orientation(6))
    assert read_mask(write("m.png", mask), picture)[0, 0] == 1.0


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_large_picture_is_shrunk(write, kind, monkeypatch):
    monkeypatch.setattr(picture_file, "KEPT_PIXELS", 1000)
    picture = read_picture(write(f"a.{kind.lower()}", encoded(orange(), kind)))
    height, width = picture.image.shape[1:]
    assert 900 < height * width <= 1000 and width / height == pytest.approx(1.5, rel=0.05)
    assert is_orange(picture)
    mask = read_mask(write("m.png", encoded(SHAPE, "PNG")), picture)
    assert mask.shape == (height, width) and mask.mean() == pytest.approx(400 / 2400, rel=0.1)


def test_a_hundred_million_pixels_are_shrunk_while_they_are_decoded(write, monkeypatch):
    sizes = []
    resize = Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda self, *a, **k: sizes.append(self.size) or resize(self, *a, **k))
    picture = read_picture(write("a.jpg", encoded(Image.new("L", (12_500, 8_000), 77), "JPEG")))
    assert 16e6 < picture.image[0].numel() <= 4096 * 4096
    assert sizes == [(6250, 4000)]


@pytest.mark.parametrize("limit", [None, Image.MAX_IMAGE_PIXELS])
def test_a_thousand_million_pixels_are_refused_before_they_are_decoded(write, monkeypatch, limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    contents = bytearray(png(np.zeros((1, 1, 1)), 8, 0))
    contents[16:24] = struct.pack(">II", 40_000, 25_000)
    contents[29:33] = struct.pack(">I", zlib.crc32(contents[12:29]))
    with pytest.raises(InputError, match="^folder: a.png has .*more than the 178 million that are read"):
        read_picture(write("a.png", bytes(contents)))


@pytest.mark.parametrize(
    ("name", "contents"),
    [
        ("a.png", b""),
        ("a.png", b"\x89PNG\r\n\x1a\n"),
        ("a.png", encoded(orange(), "PNG")[:60]),
        ("a.jpg", b"\xff\xd8 no"),
        ("a.jpg", encoded(orange(), "JPEG")[:300]),
        ("a.webp", b"RIFF\x10\0\0\0WEBPVP8 "),
        ("a.tif", b"II*\0\xff\xff\xff\xff"),
        ("a.gif", b"GIF89a"),
        ("a.bmp", b"BM" + b"\xff" * 60),
        ("a.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
    ],
)
def test_what_cannot_be_read_is_named(write, name, contents):
    with pytest.raises(InputError, match=f"^folder: {name} cannot be read as a picture"):
        read_picture(write(name, contents))


def test_every_format_has_a_suffix_and_every_suffix_a_format():
    Image.init()
    known = {suffix for suffix, kind in Image.EXTENSION.items() if kind in FORMATS}
    assert {suffix for suffix in SUFFIXES if suffix not in picture_file.HEIF_SUFFIXES} - known <= {".avif"}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "tower_a+roof_b"
    (folder / "masks").mkdir(parents=True)
    for stem in ("0_a", "1_a"):
        orange().save(folder / f"{stem}.jpg")
        SHAPE.save(folder / "masks" / f"{stem}.png")
    return folder


@pytest.mark.parametrize("name", ["0_A.PNG", "0_a.jpg", "0_a.webp", "0_A.Bmp"])
def test_a_mask_is_found_whatever_its_case_and_format(folder, name):
    (folder / "masks" / "0_a.png").unlink()
    SHAPE.save(folder / "masks" / name)
    assert load_pair(folder)[0].masks[0].mean() == pytest.approx(400 / 2400, rel=0.05)


def test_the_masks_folder_may_be_in_capitals(folder):
    (folder / "masks").rename(folder / "Masks")
    assert load_pair(folder)[0].without_mask == ()


def test_of_two_masks_the_better_named_is_taken_and_that_is_said(folder):
    Image.new("L", (WIDTH, HEIGHT), 255).save(folder / "masks" / "0_a.bmp")
    concept, _ = load_pair(folder)
    assert concept.masks[0].mean() < 0.5
    assert concept.notes == ("0_a.jpg has several masks, of which 0_a.png is taken",)


def test_alpha_is_the_mask_where_there_is_none(folder):
    (folder / "masks" / "0_a.png").unlink()
    (folder / "0_a.jpg").unlink()
    cut_out().save(folder / "0_a.png")
    concept, _ = load_pair(folder)
    assert torch.equal(concept.reference().masks[0][:, : WIDTH // 2], torch.ones(HEIGHT, WIDTH // 2))
    assert concept.masks[0].mean() == 0.5
    assert concept.notes == ("0_a.png has no mask, so all of it that is not transparent is learned",)


def test_a_mask_never_reaches_over_transparent_pixels(folder):
    (folder / "0_a.jpg").unlink()
    cut_out().save(folder / "0_a.png")
    Image.new("L", (WIDTH, HEIGHT), 255).save(folder / "masks" / "0_a.png")
    concept, _ = load_pair(folder)
    assert concept.masks[0].mean() == 0.5 and concept.notes == ()


def test_hardly_transparent_is_no_mask(folder):
    (folder / "masks" / "0_a.png").unlink()
    (folder / "0_a.jpg").unlink()
    with_alpha(ORANGE, Image.new("L", (WIDTH, HEIGHT), 250)).save(folder / "0_a.png")
    assert load_pair(folder)[0].without_mask == ("0_a.png",)


def test_files_that_cannot_be_read_are_named(folder):
    (folder / "0_b.psd").write_bytes(b"8BPS")
    concept, component = load_pair(folder)
    assert concept.notes == ("0_b.psd is left out: it is not a picture of a format that is read",)
    assert component.notes == ()
    (folder / "0_a.jpg").unlink()
    with pytest.raises(InputError, match=r"no picture of tower \(0_b.psd cannot be read\)"):
        load_pair(folder)


def test_only_files_that_are_read_count(folder):
    before = files_of_pair(folder)
    assert [path.name for path in before] == ["0_a.jpg", "0_a.png", "1_a.jpg", "1_a.png"]
    for name in (".DS_Store", "Thumbs.db", "notes.txt", "0_notes.txt", "masks/Thumbs.db", "masks/0_b.png", "._0_a.jpg"):
        (folder / name).write_bytes(b"x")
    assert files_of_pair(folder) == before
