"""Masks from points and boxes: beside a `[SEG]` state, and alone."""

import numpy as np
import pytest
import torch

from groundscore.errors import UserError
from inference.corrections import correct_mask, segment_at, spot_prompt, takes_spots
from inference.session import ChatSession
from inference.spots import Point, Spots
from model.decoders import DECODERS, agreement
from model.decoders.base import INSIDE, OUTSIDE
from model.spots import SpotPrompt, with_spots
from tests.tiny import picture, tiny_model, write_answer

SIZE = (50, 70)
POINTS = (Point(12, 20), Point(60.5, 8, inside=False))
BOX = (5.0, 4.0, 40.0, 44.0)
SPOTS = {"points": Spots(POINTS), "box": Spots(box=BOX), "both": Spots(POINTS, BOX)}


def tiny_session(system="UGround", **overrides):
    """Of a model that answers with two targets."""
    model, processor = tiny_model(system, **overrides)
    seg = model.config.seg_token_ids
    write_answer(model, [*seg, *processor.tokenizer.encode(" near", bos=False), *seg])
    return ChatSession(model.eval(), processor)


@pytest.fixture
def image():
    return picture(3, *SIZE)


def by_hand(session, image, spots, text=None, dense=None):
    """The low-resolution logits of transformers' own forward with the same prompts.

    text [C]: a token that is added to the prompt encoder's; dense [1, 1, M, M]: a mask prompt.
    """
    decoder, config = session.model.decoder, session.model.config
    pixels, geometry = session.processor.decoder_images(image)
    height, width = image.shape[:2]

    def on_square(x, y):
        return [x * geometry.size[1] / width, y * geometry.size[0] / height]

    theirs = agreement.reference(config, None)
    theirs.load_state_dict(decoder.sam.state_dict())
    points = [on_square(each.x, each.y) for each in spots.points]
    labels = [INSIDE if each.inside else OUTSIDE for each in spots.points]
    box = None if spots.box is None else [*on_square(*spots.box[:2]), *on_square(*spots.box[2:])]

    def with_text(_, __, embedded):
        sparse, masks = embedded
        return torch.cat([sparse, text[None, None, None]], dim=2), masks

    hooks = agreement._features_after_transformer(theirs)
    if text is not None:
        hooks.append(theirs.prompt_encoder.register_forward_hook(with_text))
    group = type("Group", (), {"pixels": pixels[None], "sizes": [geometry.size]})
    with torch.no_grad():
        output = theirs(
            pixel_values=decoder.normalized(group, torch.float32),
            input_points=torch.tensor([[points]]) if points else None,
            input_labels=torch.tensor([[labels]]) if points else None,
            input_boxes=None if box is None else torch.tensor([[box]]),
            input_masks=dense,
            multimask_output=False,
        )
    logits = output.pred_masks[:, 0, 0]
    return decoder.upscale(logits, geometry, SIZE)[0]


@pytest.mark.parametrize("kind", SPOTS)
@pytest.mark.parametrize("name", DECODERS)
def test_a_spot_alone_is_segmented_as_transformers_own_model_does(image, name, kind):
    session = tiny_session(mask_decoder=name)

    reply = segment_at(session, image, SPOTS[kind])

    logits = by_hand(session, image, SPOTS[kind])
    sure = logits.abs() > 1e-4 * logits.abs().max()
    assert (torch.from_numpy(reply.masks[0]) == (logits > 0))[sure].all() and sure.float().mean() > 0.99
    assert 0 < reply.masks.mean() < 1
    assert (reply.text, reply.layers) == ("[SEG]", [None])
    assert 0.5 < reply.scores[0] <= 1


@pytest.mark.parametrize("kind", SPOTS)
@pytest.mark.parametrize("name", DECODERS)
def test_a_correction_is_the_state_of_the_answer_and_the_spots_together(image, name, kind):
    session = tiny_session(mask_decoder=name)
    before = session.ask(image, [], "Where?")
    prompts = []
    keep = session.model.system.prompt
    session.model.system.prompt = lambda *given: prompts.append(keep(*given)) or prompts[-1]

    reply = correct_mask(session, image, [], before, 1, SPOTS[kind])

    (prompt,) = prompts
    assert int(prompt.layers[1]) == before.layers[1]
    given = session.model.decoder.mask_prompts([with_spots(prompt.maps[0][1:], spot_prompt(session, SPOTS[kind]))])
    logits = by_hand(session, image, SPOTS[kind], prompt.text[1, 0], given)
    sure = logits.abs() > 1e-3 * logits.abs().max()
    assert (torch.from_numpy(reply.masks[1]) == (logits > 0))[sure].all() and sure.float().mean() > 0.99
    assert (reply.masks[0] == before.masks[0]).all() and reply.scores[0] == before.scores[0]
    assert (reply.masks[1] != before.masks[1]).any()
    assert (reply.text, reply.layers) == (before.text, before.layers)


def test_without_a_map_only_points_and_words_prompt(image):
    session = tiny_session("LISA")
    before = session.ask(image, [], "Where?")
    prompts = []
    keep = session.model.system.prompt
    session.model.system.prompt = lambda *given: prompts.append(keep(*given)) or prompts[-1]
    reply = correct_mask(session, image, [], before, 0, SPOTS["both"])
    logits = by_hand(session, image, SPOTS["both"], prompts[0].text[0, 0])
    sure = logits.abs() > 1e-3 * logits.abs().max()
    assert (torch.from_numpy(reply.masks[0]) == (logits > 0))[sure].all()


def test_spots_are_drawn_into_the_similarity_map():
    maps = torch.full((1, *SIZE), 0.5)
    points, labels = torch.tensor([[12.0, 20.0], [60.0, 8.0]]), torch.tensor([INSIDE, OUTSIDE])

    drawn = with_spots(maps, SpotPrompt(points, labels))[0]

    assert drawn[20, 12] == 1 and drawn[8, 60] == 0
    assert drawn[20, 17] > 0.7 and drawn[8, 55] < 0.3
    assert (drawn[40:, 40:] == 0.5).all() and (drawn[25:, :] >= 0.5).all()
    boxed = with_spots(maps, SpotPrompt(points[:0], labels[:0], torch.tensor(BOX)))[0]
    assert (boxed[4:44, 5:40] == 0.5).all() and boxed[45:].max() == 0 and boxed[:, 41:].max() == 0


@pytest.mark.parametrize("system", ["LISA", "READ", "GSVA", "SESAME", "UGround"])
def test_masks_of_every_system_that_prompts_sam_are_corrected_in_a_conversation(image, system):
    session = tiny_session(system)
    history = [session.ask(image, [], "What?").turn]
    before = session.ask(image, history, "And?")

    reply = correct_mask(session, image, history, before, 0, SPOTS["points"])

    assert reply.masks.shape == before.masks.shape and (reply.masks[0] != before.masks[0]).any()
    assert (reply.masks[1:] == before.masks[1:]).all()


def test_the_mask_of_a_spot_is_corrected_without_an_answer(image):
    session = tiny_session()
    first = segment_at(session, image, Spots(POINTS[:1]))
    corrected = correct_mask(session, image, [], first, 0, Spots(POINTS))
    assert (corrected.masks == segment_at(session, image, Spots(POINTS)).masks).all()
    assert corrected.prompt == first.prompt == "point (12, 20)"
    assert str(Spots(POINTS, BOX)) == "point (12, 20), not (60, 8), box (5, 4) to (40, 44)"


def test_a_decoder_without_points_says_so(image):
    session = tiny_session("PixelLM")
    reply = session.ask(image, [], "Where?")
    assert not takes_spots(session) and takes_spots(tiny_session())
    for ask in (
        lambda: segment_at(session, image, SPOTS["box"]),
        lambda: correct_mask(session, image, [], reply, 0, SPOTS["points"]),
    ):
        with pytest.raises(UserError, match="takes no points or boxes as prompts; ask in words"):
            ask()


@pytest.mark.parametrize(
    "spots,message",
    [
        (Spots(), "give a point or a box"),
        (Spots((Point(70, 3),)), r"\(70, 3\) is outside the image, which is 70 wide and 50 high"),
        (Spots((Point(3, -1),)), "outside the image"),
        (Spots((Point(float("nan"), 1),)), "is not two numbers"),
        (Spots((Point("3", 1),)), "is not two numbers"),
        (Spots(box=(10, 10, 10, 20)), "is empty: it goes from its upper left"),
        (Spots(box=(80, 10, 90, 20)), "the box is outside the image"),
        (Spots(box=(1, 2, 3)), "a box is four numbers"),
        (Spots(box=(1, 2, 3, float("inf"))), "a box is four numbers"),
    ],
)
def test_spots_that_say_nothing_about_the_image_are_refused(spots, message):
    with pytest.raises(UserError, match=message):
        spots.checked(SIZE)


def test_a_box_is_cut_off_at_the_edges_of_the_image():
    assert Spots(box=(-5, 10, 90, 60)).checked(SIZE) == Spots(box=(0, 10, 70, 50))


def test_what_a_mask_does_not_do_is_said():
    mask = np.zeros(SIZE, bool)
    mask[15:25, 8:20] = True
    assert Spots(POINTS, BOX).missed(mask) is None
    assert Spots(POINTS, BOX).missed(~mask).startswith("The mask does not cover (12, 20) and still covers (60, 8): ")
    assert "cover (12, 20) and (1, 1): the" in Spots((Point(12, 20), Point(1, 1))).missed(np.zeros(SIZE, bool))


def test_a_mask_that_is_not_there_cannot_be_corrected(image):
    session = tiny_session()
    reply = session.ask(image, [], "Where?")
    for index in (-1, 2):
        with pytest.raises(UserError, match=f"no mask {index + 1} to correct: the answer has 2"):
            correct_mask(session, image, [], reply, index, SPOTS["box"])
