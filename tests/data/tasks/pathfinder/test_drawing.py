"""Pictures against a slow twin that works on whole arrays, and labels against a checker that chains loose dashes."""

import hashlib
import random

import numpy as np
import pytest
from scipy import ndimage

from nip.data import SPLITS, open_split, read_manifest, verify
from nip.data.tasks.build import build
from nip.data.tasks.pathfinder import LEVELS, draw, draw_many
from nip.data.tasks.pathfinder.dashes import dashes

CROSS = ndimage.generate_binary_structure(2, 1)


class Twin:
    """The published rule in plain Python on the same random numbers; stamps and steps are tested elsewhere."""

    def __init__(self, level, index, seed):
        self.table = dashes()
        self.rule = LEVELS[level]
        number = list(LEVELS).index(level)
        self.rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(number, index))))

    def below(self, n):
        return int(self.rng.random() * n)

    @staticmethod
    def placed(stamp, place):
        """A stamp of 9 × 9 around a pixel of an empty picture."""
        canvas = np.zeros((48, 48), int)
        row, column = place
        canvas[8 + row - 4 : 8 + row + 5, 8 + column - 4 : 8 + column + 5] = stamp
        return canvas[8:40, 8:40]

    @staticmethod
    def inside(place):
        return bool((np.asarray(place) >= 0).all() and (np.asarray(place) < 32).all())

    def begin(self, occupied, border):
        taken = occupied > 76
        taken[:border] = taken[32 - border :] = taken[:, :border] = taken[:, 32 - border :] = True
        for _ in range(3):
            direction = self.below(360)
            struct = np.zeros((7, 7), bool)
            for row, column in self.table.solid[direction, : self.table.n_solid[direction]]:
                struct[3 - row, 3 - column] = True  # a dilation looks the other way
            room = np.argwhere(~ndimage.binary_dilation(taken, struct))
            if not len(room):
                return None
            tail = room[self.below(len(room))]
            if self.inside(tail + self.table.heads[direction]) and self.inside(tail + self.table.pivots[direction]):
                return tail, direction
        return None

    def begin_beside(self, first):
        for _ in range(3):
            direction = self.below(360)
            theta = np.radians(self.below(360))
            tail = first + np.round(np.round(7 * np.array([np.sin(theta), np.cos(theta)]), 6) - 1e-7).astype(int)
            if self.inside(tail + self.table.heads[direction]) and self.inside(tail + self.table.pivots[direction]):
                return tail, direction
        return None

    def extend(self, forbidden, pivot, direction):
        near = ndimage.grey_dilation(forbidden, footprint=CROSS, mode="nearest")
        places = pivot + self.table.turns
        weights = [
            (255 - near[tuple(place)]) * weight if self.inside(place) else 0
            for place, weight in zip(places, self.table.weights[direction], strict=True)
        ]
        sums = np.cumsum(weights)
        if sums[-1] == 0:
            return None
        for _ in range(3):
            k = int(np.argmax(sums > self.below(sums[-1])))
            if (forbidden + self.placed(self.table.zones[360 + k], places[k])).max() < 459:
                return places[k], 360 + k
        return None

    def zone(self, dash):
        return self.placed(self.table.zones[dash[1]], dash[0])

    def targets(self):
        """Both contours and the zones of all their dashes, or None where one cannot go on."""
        occupied = np.full((32, 32), 255)
        occupied[1:-1, 1:-1] = 0
        begun = self.begin(occupied, 14)
        if begun is None:
            return None
        contours = [[begun], []]
        begun = self.begin_beside(begun[0])
        if begun is None or (self.zone(contours[0][0]) + self.zone(begun)).max() >= 459:
            return None
        contours[1].append(begun)
        pivots = [each[0][0] + self.table.pivots[each[0][1]] for each in contours]
        for _ in range(self.rule.contour_length - 1):
            for s in range(2):
                pivots[s] = pivots[s] + self.table.onward[contours[s][-1][1]]
                forbidden = np.maximum(occupied, self.zone(contours[1 - s][-1]))
                found = self.extend(forbidden, pivots[s], contours[s][-1][1])
                if found is None:
                    return None
                occupied = np.maximum(occupied, self.zone(contours[s][-1]))
                contours[s].append(found)
        return contours, np.maximum.reduce([occupied, *(self.zone(each[-1]) for each in contours)])

    def distractor(self, occupied):
        if (occupied <= 76).sum() < 0.01 * 1024:
            return None
        begun = self.begin(occupied, 1)
        if begun is None:
            return None
        contour, forbidden = [begun], occupied
        pivot = begun[0] + self.table.pivots[begun[1]]
        for _ in range(self.rule.contour_length // 3 - 1):
            pivot = pivot + self.table.onward[contour[-1][1]]
            found = self.extend(forbidden, pivot, contour[-1][1])
            if found is None:
                return None
            forbidden = np.maximum(forbidden, self.zone(contour[-1]))
            contour.append(found)
        return contour, np.maximum(forbidden, self.zone(contour[-1]))

    def draw(self):
        label = self.below(2)
        while (grown := self.targets()) is None:
            pass
        contours, occupied = grown
        for _ in range(20 // (self.rule.contour_length // 3)):
            for _ in range(5):
                found = self.distractor(occupied)
                if found is not None:
                    contours.append(found[0])
                    occupied = found[1]
                    break
        begins = self.below(2)
        ends = begins if label else 1 - begins
        markers = [contours[begins][0][0], contours[ends][-1][0]]
        light = [
            self.placed(self.table.lines[direction], place) * (1.5 if number < 2 else 2.0)
            for number, contour in enumerate(contours)
            for place, direction in contour
        ]
        light += [self.placed(self.table.marker, place) * 1.0 for place in markers]
        picture = np.maximum.reduce(light)
        return np.floor(picture * 255 / picture.max() + 0.5).astype(np.uint8), label


@pytest.mark.parametrize("level", LEVELS)
def test_pictures_are_those_of_the_slow_twin(level):
    for index in range(3):
        picture, label = Twin(level, index, 5).draw()
        fast = draw(level, index, seed=5)
        assert fast.label == label
        assert np.array_equal(fast.picture, picture), index


def joined(drawing, length, rng):
    """Whether a chain of `length` dashes leads from one marker to the other, from where each lies and points to alone.

    A dash grows from a pivot three pixels behind its head; the next pivot is four pixels ahead of it, rounded up. The
    dashes are loose: in no order, and nothing says which contour they are of.
    """
    turns = np.array(sorted({(int(np.floor(3 * np.sin(t))), int(np.floor(3 * np.cos(t)))) for t in angles}))
    begin, end = map(tuple, drawing.markers.tolist())
    following = {}  # by pivot: the heads and next pivots of the dashes there
    pivot = None
    for row, column, direction in rng.permutation(drawing.dashes).tolist():
        if direction >= 360:
            step = turns[direction - 360]
            there = np.array([row, column]) - step
            following.setdefault(tuple(there), []).append(((row, column), tuple(there + up(4, np.arctan2(*step)))))
        elif (row, column) == begin:
            theta = np.radians(direction - 180)
            pivot = tuple(np.array([row, column]) + up(2, theta) + up(-3, theta) + up(4, theta))
    ways = [(begin, pivot)]
    for _ in range(length - 1):
        ways = [onward for _, pivot in ways for onward in following.get(pivot, [])]
    return end in [place for place, _ in ways]


angles = np.radians(np.arange(0, 360, 360 / (6 * np.pi)))


def up(distance, theta):
    return np.ceil(np.round(distance * np.array([np.sin(theta), np.cos(theta)]), 9)).astype(int)


def bright_discs(picture):
    """The two places in a picture that look most like a marker."""
    light = picture.astype(float)
    likeness = ndimage.minimum_filter(light, footprint=CROSS, mode="constant")  # a dash is too thin for this
    likeness += 0.2 * ndimage.uniform_filter(light, 3, mode="constant")
    first = np.unravel_index(likeness.argmax(), likeness.shape)
    likeness[max(0, first[0] - 2) : first[0] + 3, max(0, first[1] - 2) : first[1] + 3] = -np.inf
    return {tuple(map(int, first)), tuple(map(int, np.unravel_index(likeness.argmax(), likeness.shape)))}


@pytest.mark.parametrize("level", LEVELS)
def test_labels_say_whether_dashes_lead_from_marker_to_marker(level):
    rng = np.random.default_rng(0)
    seen = 0
    for index in range(200):
        drawing = draw(level, index, seed=1)
        assert joined(drawing, LEVELS[level].contour_length, rng) == bool(drawing.label), index
        near = bright_discs(drawing.picture)
        seen += all(
            min(abs(row - i) + abs(column - j) for i, j in near) <= 1 for row, column in drawing.markers.tolist()
        )
    assert seen >= 190  # the markers are in the picture; beside crowded dashes another place can look like one


@pytest.mark.parametrize("level", LEVELS)
def test_the_two_targets_do_not_touch(level):
    table = dashes()
    for index in range(60):
        drawing = draw(level, index, seed=2)
        zones = np.zeros((2, 32, 32), int)
        for contour, (row, column, direction) in zip(drawing.contours, drawing.dashes, strict=True):
            if contour < 2:
                zones[contour] = np.maximum(zones[contour], Twin.placed(table.zones[direction], (row, column)))
        assert zones.sum(axis=0).max() < 459  # 1.8 of 255


@pytest.mark.parametrize("level", LEVELS)
def test_the_rule_is_obeyed(level):
    rule = LEVELS[level]
    for index in range(100):
        drawing = draw(level, index)
        counts = np.bincount(drawing.contours)
        assert counts[:2].tolist() == [rule.contour_length] * 2
        assert set(counts[2:].tolist()) <= {0, rule.contour_length // 3}  # 0 where there was no room
        assert len(counts) - 2 <= 20 // (rule.contour_length // 3)
        tails = [drawing.dashes[drawing.contours == s][0, :2] for s in range(2)]
        assert 6 <= np.hypot(*(tails[0] - tails[1])) <= 8
        assert drawing.picture.dtype == np.uint8
        assert drawing.picture.max() == 255
        assert drawing.picture.min() == 0


def test_labels_are_balanced_and_brightness_does_not_tell_them():
    portions = list(draw_many("curv_baseline", 4000, seed=3))
    pictures, labels = (np.concatenate(each) for each in zip(*portions, strict=True))
    assert abs(labels.mean() - 0.5) < 4 * 0.5 / np.sqrt(4000)
    light = pictures.mean(axis=1)
    difference = light[labels == 1].mean() - light[labels == 0].mean()
    assert abs(difference) < 4 * light.std() / np.sqrt(1000)


def test_a_picture_depends_on_its_number_and_nothing_else():
    whole = np.concatenate([pictures for pictures, _ in draw_many("curv_baseline", 1200, seed=4, workers=1)])
    late = np.concatenate([p for p, _ in draw_many("curv_baseline", 700, seed=4, first=500, workers=3)])
    assert np.array_equal(whole[500:], late)
    assert np.array_equal(whole[777], draw("curv_baseline", 777, seed=4).picture.ravel())
    assert not np.array_equal(whole[777], draw("curv_baseline", 777, seed=5).picture.ravel())
    assert list(draw_many("curv_baseline", 0)) == []


GOLDEN = {
    "curv_baseline": "93398998f60c3e7ac48bbd8be8f4aebaf2938e8ff35d2f8951227af9a62f6d3e",
    "curv_contour_length_9": "b922e2c9eb0d6efd5d76b6352dd9dec3a9f92cc1f4ee1f685bf7676c40239977",
    "curv_contour_length_14": "fcb34b568ef2ee9340cd6e2cad271302df2346754d6bd962ff60172e5fd02bb1",
}


@pytest.mark.parametrize("level", LEVELS)
def test_the_same_seed_gives_the_same_bytes_on_every_machine(level):
    ((pictures, labels),) = draw_many(level, 200, seed=42)
    assert hashlib.sha256(pictures.tobytes() + labels.astype("<i8").tobytes()).hexdigest() == GOLDEN[level]


def test_global_generators_are_left_alone():
    before, before_numpy = random.getstate(), np.random.get_state()
    draw("curv_baseline", 0)
    assert random.getstate() == before
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), before_numpy, strict=True))


@pytest.mark.parametrize(
    ("level", "index", "seed", "message"),
    [
        ("hard", 0, 0, "no level 'hard'. The levels are curv_baseline, curv_contour_length_9"),
        ("curv_baseline", -1, 0, "'index' parameter of Pathfinder must be an integer of at least 0. Got -1"),
        ("curv_baseline", 0, -1, "'seed' parameter of Pathfinder must be an integer of at least 0. Got -1"),
    ],
)
def test_bad_parameters_are_refused(level, index, seed, message):
    with pytest.raises(ValueError, match=message):
        draw(level, index, seed=seed)


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
