"""The shipped model answers every kind of query about scenes that nobody made for it, with the answers it writes."""

from pathlib import Path

import numpy as np
import pytest

from dataloaders.sample import Turn
from groundscore.scoring.counts import mask_iou
from miniature.language import absent_expressions, ask, group_expressions, pick_referring, reasoning
from miniature.scenes import random_scene

UNIFIED = Path(__file__).resolve().parents[1] / "miniature/unified"
SCENES = [random_scene(seed) for seed in range(70_000, 70_016)]
REQUEST = "What is {} in this image? Please output segmentation mask."


@pytest.fixture(scope="module")
def session():
    from checkpoints import load_model
    from inference.session import ChatSession

    model, processor, _ = load_model(UNIFIED)
    return ChatSession(model.eval(), processor, max_new_tokens=48)


def replies(session, chosen):
    """(scene, targets, reply) for every (scene, text, targets)."""
    return [(scene, targets, session.ask(scene.image, [], text)) for scene, text, targets in chosen]


def mean_iou(session, chosen) -> float:
    return float(
        np.mean(
            [
                mask_iou(reply.masks.any(axis=0), scene.mask(*targets))
                for scene, targets, reply in replies(session, chosen)
            ]
        )
    )


def test_what_is_named_is_segmented(session):
    rng, chosen = np.random.default_rng(0), []
    for scene in SCENES:
        for index in range(len(scene.objects)):
            chosen += [(scene, REQUEST.format(text), (index,)) for text in pick_referring(scene, index, 1, rng)]

    assert mean_iou(session, chosen[:32]) > 0.7


def test_what_is_reasoned_about_is_segmented(session):
    rng = np.random.default_rng(0)
    found = [(scene, reasoning(scene, rng, is_sentence=False, held_out=None)) for scene in SCENES]

    assert mean_iou(session, [(scene, REQUEST.format(one.text), one.targets) for scene, one in found]) > 0.65


def test_many_targets_of_one_question_are_segmented(session):
    chosen = [(scene, REQUEST.format(*one[:1]), one[1]) for scene in SCENES for one in group_expressions(scene)[:1]]

    assert len(chosen) >= 10
    assert mean_iou(session, chosen) > 0.65


def test_what_is_not_there_is_declined(session):
    rng = np.random.default_rng(0)
    asked = [(scene, REQUEST.format(*absent_expressions(scene, 1, rng)), ()) for scene in SCENES]

    declined = [len(reply.masks) == 0 and "[REJ]" in reply.text for _, _, reply in replies(session, asked)]
    assert np.mean(declined) >= 0.75


@pytest.mark.parametrize(("kind", "share"), [("colour", 0.9), ("place", 0.9), ("use", 0.85), ("presence", 0.75)])
def test_questions_are_answered_in_words(session, kind, share):
    rng = np.random.default_rng(0)
    pairs = [(scene, pair) for scene in SCENES if (pair := ask(kind, scene, rng)) is not None]

    right = [
        reply.text == pair[1] and len(reply.masks) == 0
        for (_, pair), (_, _, reply) in zip(
            pairs, replies(session, [(scene, pair[0], ()) for scene, pair in pairs]), strict=True
        )
    ]
    assert np.mean(right) >= share


def test_a_conversation_goes_on_in_masks_after_words(session):
    rng, ious = np.random.default_rng(0), []
    for scene in SCENES:
        first = ask("colour", scene, rng)
        if first is None:
            continue
        text, targets = pick_referring(scene, 0, 1, rng), (0,)
        if text:
            reply = session.ask(scene.image, [Turn(*first)], REQUEST.format(*text))
            ious.append(mask_iou(reply.masks.any(axis=0), scene.mask(*targets)))

    assert len(ious) >= 8
    assert np.mean(ious) > 0.6
