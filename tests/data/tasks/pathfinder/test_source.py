import numpy as np
import pytest

from nip.data import SPLITS, open_split, read_manifest, verify
from nip.data.tasks.build import build
from nip.data.tasks.pathfinder import draw

TASK = "pathfinder32-curv_contour_length_9"
SIZES = {"train": 700, "dev": 20, "test": 30}  # more than one portion of train


def test_a_set_is_drawn_in_order(tmp_path):
    told = []
    assert build(TASK, tmp_path, seed=3, parameters=SIZES, progress=told.append)
    assert verify(TASK, tmp_path) == SIZES
    number = 0
    for split in SPLITS:
        examples = open_split(TASK, split, tmp_path)
        for i in {0, len(examples) // 2, len(examples) - 1}:
            expected = draw("curv_contour_length_9", number + i, seed=3)
            assert np.array_equal(examples.sequence(i), expected.picture.ravel())
            assert examples.labels[i] == expected.label
        number += len(examples)
    assert told == sorted(told)
    assert told[-1] == 750
    assert not build(TASK, tmp_path, seed=3, parameters=SIZES)


def test_the_manifest_tells_how_it_was_made(tmp_path):
    build(TASK, tmp_path, seed=1, parameters={"train": 3, "dev": 2, "test": 1})
    manifest = read_manifest(TASK, tmp_path)
    assert manifest["source"] == "drawn by nip"
    assert manifest["parameters"] == {"seed": 1, "train": 3, "dev": 2, "test": 1}
    with pytest.raises(ValueError, match="seed is 1 there and 2 here"):
        build(TASK, tmp_path, seed=2, parameters={"train": 3, "dev": 2, "test": 1})


@pytest.mark.parametrize("size", [0, -1, 2.5, "many"])
def test_bad_sizes_are_refused(size, tmp_path):
    with pytest.raises(ValueError, match="'dev' parameter of Pathfinder must be an integer of at least 1"):
        build(TASK, tmp_path, parameters={"dev": size})
    assert not list(tmp_path.iterdir())
