import io
import re

import numpy as np
import pytest
from PIL import Image

from nip.data import TASKS, Examples
from nip.data.tasks import pictures


def images(n, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, n * 1024).astype(np.uint8)
    return Examples(TASKS["image"], "dev", pixels, np.arange(n + 1) * 1024, np.zeros(n, int))


@pytest.mark.parametrize(("n", "columns", "shape"), [(1, 10, (136, 136)), (7, 3, (400, 400)), (4, 4, (136, 532))])
def test_a_sheet_holds_every_picture(n, columns, shape, tmp_path):
    examples = images(9)
    chosen = [(2 * i) % 9 for i in range(n)]
    pictures.sheet(examples, chosen, tmp_path / "sheet.png", columns=columns)
    with Image.open(tmp_path / "sheet.png") as opened:
        sheet = np.asarray(opened)
    assert sheet.shape == shape
    left = np.ones(shape, bool)
    for place, index in enumerate(chosen):
        y, x = 4 + place // columns * 132, 4 + place % columns * 132
        part = sheet[y : y + 128, x : x + 128]
        for dy, dx in ((0, 0), (3, 3), (1, 2)):
            assert np.array_equal(part[dy::4, dx::4], pictures.image(examples, index))
        left[y : y + 128, x : x + 128] = False
    assert (sheet[left] == 128).all()


def test_a_terminal_shows_every_pixel():
    pixels = np.random.default_rng(1).integers(0, 256, (5, 3)).astype(np.uint8)
    lines = pictures.in_blocks(pixels).split("\n")
    levels = [[int(level) for level in re.findall(r"[34]8;2;(\d+);\1;\1m", line)] for line in lines]
    assert [row[0::2] for row in levels] == pixels[0::2].tolist()
    assert [row[1::2] for row in levels] == [*pixels[1::2].tolist(), [0, 0, 0]]


def test_letters_grow_with_the_level():
    (line,) = pictures.in_letters(np.arange(256, dtype=np.uint8)[None]).split("\n")
    assert line[::2] == line[1::2]
    assert len(set(line)) == 10 and line[0] == " " and line[-1] == "@"
    assert [line[::2].index(letter) for letter in dict.fromkeys(line)] == sorted(
        line[::2].index(letter) for letter in set(line)
    )


def test_what_is_no_image_is_not_drawn(small, tmp_path):
    with pytest.raises(ValueError, match="The examples of listops are not images"):
        pictures.sheet(small["dev"], [0], tmp_path / "sheet.png")
    with pytest.raises(ValueError, match="has the examples 0 … 8"):
        pictures.sheet(images(9), [9], tmp_path / "sheet.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_pixels_are_those_that_were_drawn(mode):
    shape = (4, 6) if mode == "L" else (4, 6, 3)
    drawn = np.random.default_rng(2).integers(0, 256, shape).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(drawn).save(file, format="PNG")
    for form in (file.getvalue(), {"bytes": file.getvalue(), "path": "x"}, Image.fromarray(drawn)):
        assert np.array_equal(pictures.pixels_of(form, "there", (4, 6), mode), drawn)
    jpeg = io.BytesIO()
    Image.fromarray(drawn).save(jpeg, format="JPEG")
    with pytest.raises(ValueError, match="there is truncated or not a PNG"):
        pictures.pixels_of(jpeg.getvalue(), "there", (4, 6), mode)
