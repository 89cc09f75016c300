"""Colours of masks: computed against the image beneath, against each other, and as colour-blind readers see them."""

import numpy as np
import pytest

from dashboard.examples import EXAMPLES
from groundscore.annotations.images import read_image
from groundscore.colours import COLOURS, choose_colours, ciede2000, contrast, difference, text_on
from miniature.scenes import random_scene


def test_differences_are_those_that_were_published_with_the_formula():
    # Sharma, Wu and Dalal, 2005, table 1
    pairs = [
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, -1.3802, -84.2814), (50, 0, -82.7485), 1.0000),
        ((50, 0, 0), (50, -1, 2), 2.3669),
        ((50, 2.49, -0.001), (50, -2.49, 0.0009), 7.1792),
        ((50, 2.49, -0.001), (50, -2.49, 0.0011), 7.2195),
        ((50, 2.5, 0), (73, 25, -18), 27.1492),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
        ((22.7233, 20.0904, -46.6940), (23.0331, 14.9730, -42.5619), 2.0373),
        ((90.8027, -2.0831, 1.4410), (91.1528, -1.6435, 0.0447), 1.4441),
        ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
    ]
    ones, others, expected = (np.array(each) for each in zip(*pairs, strict=True))
    assert np.allclose(ciede2000(ones, others), expected, atol=6e-5)
    assert np.allclose(ciede2000(others, ones), expected, atol=6e-5)


def test_red_and_green_of_one_lightness_are_alike_to_some_readers():
    red, green = np.array((200, 60, 0)), np.array((110, 130, 0))
    assert difference(red, green) < 12
    assert difference(np.array((255, 255, 0)), np.array((0, 0, 102))) > 60


def scenes():
    for seed in (3, 9, 17):
        scene = random_scene(seed, counts=(3, 6))
        yield scene.image, [scene.mask(index) for index in range(len(scene.objects))]
    for example in EXAMPLES:
        image = read_image(example.image)
        y, x = np.mgrid[: image.shape[0], : image.shape[1]]
        yield image, [(y < x) & (y > 40), x > 2 * y, (y - 150) ** 2 + (x - 150) ** 2 < 90**2, y > 200]
    for colour in ((255, 0, 0), (255, 255, 255), (0, 0, 0), (128, 128, 128), (20, 110, 40), *COLOURS[:3]):
        yield np.full((40, 40, 3), colour, np.uint8), [np.ones((40, 40), bool)] * 4


@pytest.mark.parametrize("image,masks", list(scenes()))
def test_colours_differ_from_what_is_beneath_and_from_each_other_for_all_readers(image, masks):
    colours = np.array(choose_colours(image, masks), dtype=float)

    between = difference(colours[:, None], colours[None])[np.triu_indices(len(colours), 1)]
    assert between.min() >= 20
    for colour, mask in zip(colours, masks, strict=True):
        beneath = image[mask].astype(float)
        assert difference(colour, beneath.mean(axis=0)) >= 20
        assert np.quantile(difference(colour, beneath[::7]), 0.25) >= 18


def test_the_red_clock_is_not_marked_in_red():
    image = np.full((60, 60, 3), (225, 50, 60), np.uint8)
    (colour,) = choose_colours(image, [np.ones((60, 60), bool)])
    assert difference(np.array(colour), np.array((225, 50, 60))) >= 28


def test_a_label_is_read_on_any_colour():
    every = [(r, g, b) for r in range(0, 256, 51) for g in range(0, 256, 51) for b in range(0, 256, 51)]
    assert min(contrast(colour, text_on(colour)) for colour in every) >= 4.5
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)


def test_any_number_of_masks_and_none_have_colours():
    image = np.zeros((8, 8, 3), np.uint8)
    assert choose_colours(image, []) == []
    assert len(choose_colours(image, np.zeros((40, 8, 8), bool))) == 40
