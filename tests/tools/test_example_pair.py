"""The committed example references are what the renderer makes."""

import numpy as np
import pytest
from PIL import Image

from tools.example_pair import HOUSE_SHOTS, ROOF_SHOTS, write_pair
from tools.scene import BACKGROUND, BODY, Camera, Canvas


@pytest.fixture(scope="module")
def fresh_pair(tmp_path_factory):
    return write_pair(tmp_path_factory.mktemp("examples"))


def pixels(path) -> np.ndarray:
    return np.asarray(Image.open(path), dtype=np.float32)


def test_rendering_again_gives_the_committed_pictures_and_exactly_the_masks(fresh_pair, rendered_pair):
    committed = sorted(path.relative_to(rendered_pair) for path in rendered_pair.rglob("*.*"))
    assert committed == sorted(path.relative_to(fresh_pair) for path in fresh_pair.rglob("*.*"))
    assert len(committed) == 12
    for name in committed:
        fresh, kept = pixels(fresh_pair / name), pixels(rendered_pair / name)
        assert fresh.shape == kept.shape
        if name.suffix == ".png":
            assert np.array_equal(fresh, kept)
        else:
            assert np.abs(fresh - kept).mean() < 2


def test_masks_have_the_size_of_their_pictures_and_show_a_part_of_them(rendered_pair):
    shots = dict(zip(("0_house_a", "1_roof_a"), (HOUSE_SHOTS, ROOF_SHOTS), strict=True))
    for stem, series in shots.items():
        for index, shot in enumerate(series):
            mask = pixels(rendered_pair / "masks" / f"{stem}{index}.png")
            assert mask.shape == shot.size[::-1] == pixels(rendered_pair / f"{stem}{index}.jpg").shape[:2]
            assert set(np.unique(mask)) == {0, 255}
            assert 0.04 < mask.mean() / 255 < 0.5


def test_a_polygon_fills_exactly_its_pixels():
    canvas = Canvas((8, 8), Camera(0, 10, 1, 1, 0.5))
    scale = canvas.size[0] / 8
    canvas.fill(np.array([(2, 1), (6, 1), (6, 4), (2, 4)]) * scale, (1, 0, 0), BODY)
    expected = np.zeros((8, 8))
    expected[1:4, 2:6] = 255
    assert np.array_equal(np.asarray(canvas.mask(BODY)), expected)
    assert np.array_equal(np.asarray(canvas.mask(BACKGROUND)), 255 - expected)
