"""What there is in the miniature's world and how people speak of it. All of its words are in this file.

A category's `uses` complete "something you could …"; they tie a reasoning question to the category. Every use goes
with every template below; `is_held_out` keeps a third of the combinations for the test split, so that a test question
may be worded as no training question was, of words that training has seen.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Category:
    """An object of the world: its name (a class of ADE20K), its plural, its parts and what it is good for."""

    name: str
    plural: str
    parts: tuple[str, ...]
    uses: tuple[str, ...]


CATEGORIES = (
    Category("ball", "balls", ("stripe",), ("kick across a field", "throw to a friend", "bounce on the ground")),
    Category("house", "houses", ("roof", "door", "window"), ("live in", "heat in winter", "build with bricks")),
    Category("tree", "trees", ("trunk", "crown"), ("climb to pick fruit", "rest under for shade", "cut for wood")),
    Category("flower", "flowers", ("petals", "stem"), ("give to a loved one", "smell in the garden", "put in a vase")),
    Category("boat", "boats", ("hull", "sail"), ("sail across the lake", "row on the sea", "fish from")),
    Category("bottle", "bottles", ("neck", "cap"), ("drink from", "pour juice from", "fill with milk")),
    Category("clock", "clocks", ("hands", "face"), ("tell the time with", "check when late", "set to noon")),
    Category("flag", "flags", ("pole", "cloth"), ("wave at a parade", "raise for a country", "see the wind with")),
    Category("car", "cars", ("wheels", "windows"), ("drive on a road", "park in a garage", "travel to work in")),
    Category("tent", "tents", ("opening",), ("sleep in while camping", "fold up after a trip", "pitch in the woods")),
)

BY_NAME = {category.name: category for category in CATEGORIES}

# Red, green, blue in 0..255; far from each other and from the muted backgrounds.
COLOURS = {
    "red": (214, 40, 40),
    "green": (38, 166, 65),
    "blue": (40, 80, 220),
    "yellow": (242, 208, 30),
    "purple": (148, 44, 182),
    "orange": (244, 126, 22),
}

# Half the extent of an object as a share of the image's shorter side.
SIZES = {"small": 0.135, "large": 0.225}

# Backgrounds: classes of ADE20K with a muted colour; one above the horizon, one below.
UPPER_GROUNDS = {"sky": (176, 200, 214), "wall": (204, 192, 176)}
LOWER_GROUNDS = {"grass": (150, 168, 132), "sand": (206, 192, 158), "water": (132, 158, 176), "floor": (150, 136, 124)}

SHORT_TEMPLATES = (
    "the thing you could {use}",
    "something to {use}",
    "the object that people {use}",
    "the item one can {use}",
    "anything good to {use}",
    "what you would {use}",
)
COLOURED_TEMPLATE = "the {colour} thing you could {use}"

LONG_TEMPLATES = (
    "If someone wanted something to {use}, which object in the picture would they choose?",
    "Imagine that you need a thing to {use}: where is it?",
    "My friend is looking for something to {use}. Which object could help?",
    "Which object here do people {use}?",
    "Suppose we plan to find an item to {use} today, what should we take?",
    "Where do you see something that one can {use}?",
)

EXPLANATIONS = (
    "It is the {name}, because people {use} it or things like it.",
    "This is the {colour} {name}; a {name} is what you could {use}.",
    "The {name} is right here, since it is something to {use}.",
)

NUMBERS = ("no", "one", "two", "three", "four", "five", "six")


def is_held_out(use: int, template: int) -> bool:
    """Whether the combination of a use and a template (their indices) is kept out of training."""
    return (use + template) % 3 == 2
