"""What can be said about a scene: expressions that single objects out, reasoning questions, dialogues.

Every expression comes with the objects that it means, found by evaluating it on the scene.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

import numpy as np

from miniature.scenes import Scene, SceneObject
from miniature.vocabulary import (
    BY_NAME,
    CATEGORIES,
    COLOURED_TEMPLATE,
    COLOURS,
    EXPLANATIONS,
    LONG_TEMPLATES,
    NUMBERS,
    SHORT_TEMPLATES,
    is_held_out,
)

BOARD = 4  # squares along the longer side of an image, for answers that tell a place exactly
MARGIN = 0.1  # share of the shorter side by which "left of" and its like must hold

# Share of each kind of expression among those that single an object out.
KIND_WEIGHTS = {"name": 0.45, "size": 0.2, "place": 0.2, "relation": 0.15}

DIRECTIONS: dict[str, Callable[[SceneObject, SceneObject], float]] = {
    "left of": lambda a, b: b.x - a.x,
    "right of": lambda a, b: a.x - b.x,
    "above": lambda a, b: b.y - a.y,
    "below": lambda a, b: a.y - b.y,
}
PLACES = {
    "left": ("left {name}", "{name} on the left", "leftmost {name}"),
    "right": ("right {name}", "{name} on the right", "rightmost {name}"),
    "top": ("top {name}", "{name} at the top", "upper {name}"),
    "bottom": ("bottom {name}", "{name} at the bottom", "lower {name}"),
}


@dataclass(frozen=True)
class Reasoning:
    """A question about what something is good for.

    text: a short phrase, or a whole sentence where `is_sentence`; targets: indices of the objects meant;
    use: what the thing is good for.
    """

    text: str
    is_sentence: bool
    targets: tuple[int, ...]
    category: str
    use: str


def select(
    scene: Scene, *, category: str | None = None, colour: str | None = None, size: str | None = None
) -> list[int]:
    """Indices of the objects that have all the attributes given."""
    return [
        index
        for index, thing in enumerate(scene.objects)
        if category in (None, thing.category) and colour in (None, thing.colour) and size in (None, thing.size)
    ]


def referring_expressions(scene: Scene, index: int) -> dict[str, list[str]]:
    """Expressions by kind that mean object `index` and no other."""
    thing = scene.objects[index]
    name, colour, size = thing.category, thing.colour, thing.size
    found: dict[str, list[str]] = {kind: [] for kind in KIND_WEIGHTS}
    if select(scene, category=name) == [index]:
        found["name"] += [name, f"the {name}"]
    if select(scene, category=name, colour=colour) == [index]:
        found["name"] += [f"{colour} {name}", f"the {colour} {name}"]
        found["size"].append(f"the {size} {colour} {name}")
    if select(scene, category=name, size=size) == [index]:
        found["size"] += [f"{size} {name}", f"the {size} {name}"]
    if select(scene, category=name, size=size, colour=colour) == [index]:
        found["size"].append(f"{size} {colour} {name}")
    found["place"] = [text.format(name=name) for place in _places(scene, index) for text in PLACES[place]]
    found["relation"] = list(_relations(scene, index))
    return found


def _margin(scene: Scene) -> float:
    return MARGIN * min(scene.width, scene.height)


def _places(scene: Scene, index: int) -> list[str]:
    """Sides on which the object lies clearly farther out than the others of its category, of which there are some."""
    thing = scene.objects[index]
    others = [scene.objects[i] for i in select(scene, category=thing.category) if i != index]
    if not others:
        return []
    sides = zip(PLACES, DIRECTIONS.values())
    return [side for side, distance in sides if all(distance(thing, other) > _margin(scene) for other in others)]


def _relations(scene: Scene, index: int) -> list[str]:
    """Relations to objects of other categories that the object alone of its category has."""
    thing = scene.objects[index]
    texts = []
    for other_index, other in enumerate(scene.objects):
        if other.category == thing.category:
            continue
        if select(scene, category=other.category) == [other_index]:
            anchor = f"the {other.category}"
        elif select(scene, category=other.category, colour=other.colour) == [other_index]:
            anchor = f"the {other.colour} {other.category}"
        else:
            continue
        for relation, distance in DIRECTIONS.items():
            holding = [i for i in select(scene, category=thing.category) if distance(scene.objects[i], other) > 0]
            if holding == [index] and distance(thing, other) > _margin(scene):
                texts += [
                    f"{thing.category} {relation} {anchor}",
                    f"the {thing.colour} {thing.category} {relation} {anchor}",
                ]
    return texts


def pick_referring(
    scene: Scene, index: int, count: int, rng: np.random.Generator, kinds: Collection[str] = tuple(KIND_WEIGHTS)
) -> list[str]:
    """Up to `count` different expressions of the given kinds for an object; none if nothing singles it out."""
    pools = {kind: texts for kind, texts in referring_expressions(scene, index).items() if texts and kind in kinds}
    chosen: list[str] = []
    while pools and len(chosen) < count:
        weights = np.array([KIND_WEIGHTS[kind] for kind in pools])
        kind = str(rng.choice(list(pools), p=weights / weights.sum()))
        text = pools[kind].pop(int(rng.integers(len(pools[kind]))))
        if not pools[kind]:
            del pools[kind]
        if text not in chosen:
            chosen.append(text)
    return chosen


def group_expressions(scene: Scene) -> list[tuple[str, tuple[int, ...]]]:
    """Expressions that mean two or more objects: all of a category or a colour, or two that are named."""
    found = []
    for category in CATEGORIES:
        members = select(scene, category=category.name)
        if len(members) >= 2:
            amount = "both" if len(members) == 2 else f"the {NUMBERS[len(members)]}"
            found += [(f"{amount} {category.plural}", tuple(members)), (f"all {category.plural}", tuple(members))]
            for colour in COLOURS:
                same = select(scene, category=category.name, colour=colour)
                if len(same) >= 2:
                    found.append((f"all {colour} {category.plural}", tuple(same)))
    for colour in COLOURS:
        members = select(scene, colour=colour)
        if len(members) >= 2:
            found.append((f"everything that is {colour}", tuple(members)))
    singles = [i for i, thing in enumerate(scene.objects) if select(scene, category=thing.category) == [i]]
    for first, second in zip(singles, singles[1:]):
        names = scene.objects[first].category, scene.objects[second].category
        found.append((f"the {names[0]} and the {names[1]}", (first, second)))
    return found


def absent_expressions(scene: Scene, count: int, rng: np.random.Generator) -> list[str]:
    """Expressions for what is not there: a colour that no such object has, or a category that is missing."""
    texts = []
    while len(texts) < count:
        category = str(rng.choice([each.name for each in CATEGORIES]))
        colour = str(rng.choice(list(COLOURS)))
        if not select(scene, category=category):
            texts.append(str(rng.choice([f"the {category}", f"{colour} {category}"])))
        elif not select(scene, category=category, colour=colour):
            texts.append(f"the {colour} {category}")
    return texts


def reasoning(scene: Scene, rng: np.random.Generator, *, is_sentence: bool, held_out: bool | None) -> Reasoning:
    """A reasoning question about a random object of the scene.

    held_out: True for a wording that training never has, False for one that it may have, None for either.
    """
    thing = scene.objects[int(rng.integers(len(scene.objects)))]
    category = BY_NAME[thing.category]
    colours = {scene.objects[i].colour for i in select(scene, category=thing.category)}
    templates = LONG_TEMPLATES if is_sentence else SHORT_TEMPLATES
    pairs = [
        (use, template)
        for use in range(len(category.uses))
        for template in range(len(templates))
        if held_out is None or is_held_out(use, template) == held_out
    ]
    use, template = pairs[int(rng.integers(len(pairs)))]
    words = category.uses[use]
    if not is_sentence and len(colours) > 1 and rng.random() < 0.4:
        targets = select(scene, category=thing.category, colour=thing.colour)
        text = COLOURED_TEMPLATE.format(colour=thing.colour, use=words)
    else:
        targets = select(scene, category=thing.category)
        text = templates[template].format(use=words)
    return Reasoning(text, is_sentence, tuple(targets), thing.category, words)


def explanation(scene: Scene, question: Reasoning, rng: np.random.Generator) -> str:
    """A sentence that tells why the target of a reasoning question is the answer."""
    colour = scene.objects[question.targets[0]].colour
    text = EXPLANATIONS[int(rng.integers(len(EXPLANATIONS)))]
    return text.format(name=question.category, use=question.use, colour=colour)


def dialogue(scene: Scene, turns: int, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Questions and answers in words about a scene: what it shows, colours, counts, places, what things are for."""
    pairs = [_ask_everything(scene, rng)] if rng.random() < 0.6 else []
    for _ in range(50):
        if len(pairs) >= turns:
            break
        kind = str(rng.choice(list(QUESTIONS), p=[weight for _, weight in QUESTIONS.values()]))
        pair = ask(kind, scene, rng)
        if pair is not None and pair[0] not in [question for question, _ in pairs]:
            pairs.append(pair)
    return pairs


def ask(kind: str, scene: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    """A question of a kind of `QUESTIONS` and its one right answer, or None where the scene has none of that kind."""
    maker, _ = QUESTIONS[kind]
    return maker(scene, rng)


def _from_left(things: Iterable[SceneObject]) -> list[SceneObject]:
    """The things in the order in which they are named: an order that the picture tells can be learned."""
    return sorted(things, key=lambda thing: thing.x)


def _ask_everything(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    things = _from_left(scene.objects)
    described = [f"a {thing.size} {thing.colour} {thing.category} at the {_corner(scene, thing)}" for thing in things]
    text = ", ".join(described[:-1]) + " and " + described[-1] if len(described) > 1 else described[0]
    question = str(rng.choice(["Describe the picture.", "What do you see?", "What is in this image?"]))
    return question, f"There is {text}."


def _corner(scene: Scene, thing: SceneObject) -> str:
    across = "left" if thing.x < scene.width / 2 else "right"
    down = "top" if thing.y < scene.height / 2 else "bottom"
    return f"{down} {across}"


def _any_unique(scene: Scene, rng: np.random.Generator) -> int | None:
    unique = [i for i, thing in enumerate(scene.objects) if select(scene, category=thing.category) == [i]]
    return unique[int(rng.integers(len(unique)))] if unique else None


def _ask_colour(scene: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    index = _any_unique(scene, rng)
    if index is None:
        return None
    thing = scene.objects[index]
    return f"What colour is the {thing.category}?", f"The {thing.category} is {thing.colour}."


def _ask_count(scene: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    category = CATEGORIES[int(rng.integers(len(CATEGORIES)))]
    if rng.random() < 0.7:
        category = BY_NAME[scene.objects[int(rng.integers(len(scene.objects)))].category]
    count = len(select(scene, category=category.name))
    noun = category.name if count == 1 else category.plural
    verb = "is" if count == 1 else "are"
    return f"How many {category.plural} are there?", f"There {verb} {NUMBERS[count]} {noun}."


def _ask_relation(scene: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    index = _any_unique(scene, rng)
    if index is None:
        return None
    anchor = scene.objects[index]
    relation = str(rng.choice(list(DIRECTIONS)))
    distances = {o: DIRECTIONS[relation](o, anchor) for i, o in enumerate(scene.objects) if i != index}
    if any(0 < distance <= _margin(scene) for distance in distances.values()):
        return None  # whether that counts is not for the eye to say
    near = _from_left(thing for thing, distance in distances.items() if distance > 0)
    names = " and ".join(f"the {thing.colour} {thing.category}" for thing in near) or "nothing"
    return f"What is {relation} the {anchor.category}?", f"{names[0].upper()}{names[1:]}."


def _ask_use(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    thing = scene.objects[int(rng.integers(len(scene.objects)))]
    category = BY_NAME[thing.category]
    use = str(rng.choice(category.uses))
    question = str(rng.choice(["What could you {use} here?", "Which object is something to {use}?"]))
    members = select(scene, category=thing.category)
    answer = f"The {thing.colour} {thing.category}." if len(members) == 1 else f"The {category.plural}."
    return question.format(use=use), answer


def _ask_presence(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    category = CATEGORIES[int(rng.integers(len(CATEGORIES)))]
    members = select(scene, category=category.name)
    if not members:
        return f"Is there a {category.name}?", f"No, there is no {category.name}."
    if len(members) > 1:
        return f"Is there a {category.name}?", f"Yes, {NUMBERS[len(members)]} of them."
    return f"Is there a {category.name}?", f"Yes, a {scene.objects[members[0]].colour} one."


def _ask_place(scene: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    index = _any_unique(scene, rng)
    if index is None:
        return None
    thing = scene.objects[index]
    if min(abs(thing.x - scene.width / 2), abs(thing.y - scene.height / 2)) < _margin(scene) / 2:
        return None  # in none of the corners
    return f"Where is the {thing.category}?", f"It is at the {_corner(scene, thing)}."


def _ask_square(scene: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    """Where what an expression means is on a board: the language of grounding before there are masks."""
    draw = rng.random()
    if draw < 0.6:
        targets = (int(rng.integers(len(scene.objects))),)
        texts = pick_referring(scene, targets[0], 1, rng)
        if not texts:
            return None
        (text,) = texts
    elif draw < 0.8:
        groups = group_expressions(scene)
        if not groups:
            return None
        text, targets = groups[int(rng.integers(len(groups)))]
    elif draw < 0.9:
        question = reasoning(scene, rng, is_sentence=False, held_out=False)
        text, targets = question.text, question.targets
    else:
        (text,), targets = absent_expressions(scene, 1, rng), ()
    squares = [_square(scene, thing) for thing in _from_left(scene.objects[index] for index in targets)]
    if None in squares:
        return None
    return f"Where exactly is {text}?", f"At {' and '.join(squares)}." if squares else "Nowhere."


def _square(scene: Scene, thing: SceneObject) -> str | None:
    """The column and the row of the thing's centre, where `BOARD` squares make the image's longer side; None on the
    border between two."""
    place = np.array([thing.x, thing.y]) * BOARD / max(scene.width, scene.height)
    if np.abs(place - place.round()).min() < 0.1:
        return None
    column, row = place.astype(int) + 1
    return f"{NUMBERS[column]}, {NUMBERS[row]}"


# How each kind of question is made, and its share: what is hard to read from a picture is asked more often, but colours
# are not forgotten, which teach to find a thing and to read off it.
QUESTIONS: dict[str, tuple[Callable[[Scene, np.random.Generator], tuple[str, str] | None], float]] = {
    "colour": (_ask_colour, 0.15),
    "count": (_ask_count, 0.13),
    "relation": (_ask_relation, 0.15),
    "use": (_ask_use, 0.14),
    "presence": (_ask_presence, 0.08),
    "place": (_ask_place, 0.1),
    "square": (_ask_square, 0.25),
}
