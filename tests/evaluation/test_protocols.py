"""Which question is asked, which target belongs to which expression, and when a target counts as rejected."""

import numpy as np
import pytest
import torch

from dataloaders.batching.collate import Collator
from dataloaders.sample import Sample, Turn
from evaluation.predicting import share_text
from evaluation.questions import Protocol, ask
from evaluation.running import Effort, evaluate
from groundscore.scoring.split_scores import score_split
from groundscore.splits.wording import worded
from tests.evaluation.balls import Oracle, item_of, muse_item
from tests.tiny import tiny_model, write_answer


def run(model, processor, items, protocol, **options):
    return evaluate(model, processor, "balls|val", "nowhere", protocol, items=items, **options)


def sometimes_seg(system: str = "UGround"):
    """A tiny model that prefers `[SEG]` or `[REJ]` in some places and something else in others."""
    model, processor = tiny_model(system)
    for token in (model.config.seg_token_ids[0], model.config.rej_token_ids[0]):
        model.lm_head.weight.data[token] *= 4
    return model.eval(), processor


def test_given_answers_are_asked_for_together_and_generated_ones_by_themselves():
    item = item_of(0, 3)
    assert len(ask(item, Protocol("given"), [0, 1, 2]).with_seg) == 1
    assert len(ask(item, Protocol("generated"), [0, 1, 2]).with_seg) == 3
    assert len(ask(item, Protocol("given", "single"), [0, 1, 2]).with_seg) == 3
    assert len(ask(item, Protocol("generated", "together"), [0, 1, 2]).with_seg) == 1


def test_a_set_about_asking_together_is_always_asked_so():
    item = item_of(0, 3)
    item.together = True
    assert len(ask(item, Protocol("given", "single"), [0, 1, 2]).with_seg) == 1


def test_without_a_joint_question_every_expression_has_its_own():
    questions = ask(muse_item(0, 1, 2), Protocol("given", "together"), [0, 1])
    assert [turn.answer for (turn,) in questions.with_seg] == ["bar [SEG].", "bar [SEG] and bar [SEG]."]
    assert [place.expression for place in questions.targets] == [0, 1, 1]


@pytest.mark.parametrize("system", ["UGround", "GSVA", "PixelLM"])
@pytest.mark.parametrize("expressions", ["together", "single"])
def test_masks_and_decisions_are_those_of_two_separate_readings(system, expressions):
    """The answer with `[SEG]` everywhere gives the masks, the answer as it is the decisions; both in one row here."""
    model, processor = sometimes_seg(system)
    items = [item_of(number, 4, empty=number % 4, dataset="grefcoco") for number in range(6)]

    rows = run(model, processor, items, Protocol("given", expressions)).rows

    collate = Collator(processor, check_masks=False)
    expected = []
    for item in items:
        words = worded(item)
        texts = list(zip(words.prompts, words.answers))
        if expressions == "together":
            texts = [(words.joint_prompt, words.joint_answer)]

        readings = []
        for replacement in ("[SEG]", "[REJ]"):
            turns = [(Turn(question, answer.replace("[REJ]", replacement)),) for question, answer in texts]
            sample = Sample(item.image_path, item.image, turns, item.masks, None, "test", "test")
            readings += model.segment(collate([sample]))
        masks = (readings[0].mask_logits > 0).numpy()
        accepted = readings[1].decisions
        overlaps = (masks & (item.masks != 0)).sum((1, 2)).tolist()
        expected += zip(accepted, overlaps, masks.sum((1, 2)).tolist())
    found = [(row.present, row.intersection, row.predicted_area) for row in rows]
    assert found == expected
    assert len({row.present for row in rows}) == 2, "the model both accepts and rejects"


def test_a_rejected_expression_keeps_its_mask_for_the_reference_s_counting():
    items = [item_of(0, 3, empty=2, dataset="grefcoco")]
    model, processor = tiny_model()
    oracle = Oracle(model, processor, items, rejected=[(0, 0)])
    rejected, accepted, wrongly = run(oracle, processor, items, Protocol("given")).rows
    assert not rejected.present and (rejected.intersection, rejected.predicted_area) == (96, 96)
    assert accepted.present
    assert wrongly.present and (wrongly.predicted_area, wrongly.target_area) == (25, 0)


def test_the_object_score_of_a_mask_decoder_is_counted_beside_rejections():
    items = [item_of(0, 3, empty=2, dataset="grefcoco")]
    model, processor = tiny_model(mask_decoder="sam2")
    with torch.no_grad():
        model.sam.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(-100.0)  # nothing is ever there
    rows = run(model, processor, items, Protocol("given")).rows
    assert [row.seen for row in rows] == [False, False, False]
    scores = score_split("grefcoco|unc|val", rows, bootstrap=0)
    assert (scores["no_object"], scores["no_object_of_empty"]) == (3, 1)
    write_answer(model, processor.tokenizer.encode("Sure, [REJ] and [SEG].", bos=False))
    rows = run(model, processor, items, Protocol("generated", "together")).rows
    assert [row.seen for row in rows] == [None, False, None]
    without = run(*tiny_model(), items, Protocol("given")).rows
    assert [row.seen for row in without] == [None] * 3
    assert "no_object" not in score_split("grefcoco|unc|val", without, bootstrap=0)


def test_where_nothing_may_be_absent_a_given_target_is_taken_as_present():
    items = [item_of(0, 2, dataset="refcoco")]
    model, processor = tiny_model()
    oracle = Oracle(model, processor, items, rejected=[(0, 0), (0, 1)])
    assert [row.present for row in run(oracle, processor, items, Protocol("given")).rows] == [True, True]


@pytest.mark.parametrize("expressions", ["together", "single"])
def test_a_written_rejection_means_absence(expressions):
    model, processor = tiny_model()
    write_answer(model, [*processor.tokenizer.encode("Sure, [REJ].", bos=False)])
    rows = run(model, processor, [item_of(0, 2, empty=1, dataset="grefcoco")], Protocol("generated", expressions)).rows
    assert [(row.present, row.predicted_area) for row in rows] == [(False, 0), (False, 0)]


def test_targets_of_a_joint_answer_belong_to_expressions_in_order():
    model, processor = tiny_model()
    write_answer(model, processor.tokenizer.encode("Sure, [REJ] and [SEG].", bos=False))
    outcome = run(model, processor, [item_of(0, 3)], Protocol("generated", "together"))
    first, second, third = outcome.rows
    assert (first.present, third.present) == (False, False)
    assert first.predicted_area == third.predicted_area == 0
    assert sum(outcome.layers.values()) == 1 and outcome.silent == 2


@pytest.mark.parametrize(
    ("answer", "texts"),
    [
        ("Sure, [REJ] and [SEG].", ["Sure, [REJ]", " and [SEG]", "."]),
        ("There is no ball.", ["There is no ball."] * 3),
        ("[SEG] [SEG] [SEG] [SEG].", ["[SEG]", " [SEG]", " [SEG]"]),
    ],
)
def test_every_expression_has_its_part_of_a_joint_answer(answer, texts):
    assert share_text(answer, 3) == texts


def test_say_sees_the_part_of_a_joint_answer_that_denies():
    model, processor = tiny_model()
    write_answer(model, processor.tokenizer.encode("Sure, [SEG] and [REJ].", bos=False))
    rows = run(model, processor, [item_of(0, 2, empty=1, dataset="grefcoco")], Protocol("generated", "together")).rows
    assert score_split("fprefcoco|val", rows, bootstrap=0)["Say"] == 1


def test_targets_beyond_the_expressions_are_not_scored():
    model, processor = tiny_model()
    write_answer(model, processor.tokenizer.encode("[SEG] [SEG] [SEG].", bos=False))
    assert len(run(model, processor, [item_of(0, 2)], Protocol("generated", "together")).rows) == 2


# --- several targets a question --------------------------------------------------------------------------------------


class Bars:
    """Stands for a model that draws the true bars of a MUSE item in reverse order, and one bar more."""

    def __init__(self, model, item):
        self.model, self.item = model, item

    def __getattr__(self, name):
        return getattr(self.model, name)

    def generate(self, batch, max_new_tokens, layer=None):
        from model.outputs import Answer

        answers = []
        for targets in self.item.target_masks:
            masks = np.concatenate([targets[::-1], np.ones_like(targets[:1])])
            logits = torch.from_numpy(np.where(masks != 0, 1.0, -1.0)).float()
            answers.append(Answer([5], list(range(len(masks))), logits, [0] * len(masks), None, []))
        return answers


def test_muse_counts_every_prediction_against_every_target():
    item = muse_item(0, 1, 2)
    model, processor = tiny_model()
    one, two = run(Bars(model, item), processor, [item], Protocol("generated")).rows
    assert one.intersections == [[30], [30]] and one.target_areas == [30] and one.predicted_areas == [30, 600]
    assert two.intersections == [[0, 30], [30, 0], [30, 30]]


@pytest.mark.parametrize("effort", [Effort(1, 1), Effort(4, 64)])
def test_muse_runs_with_given_answers(effort):
    items = [muse_item(0, 1, 2), muse_item(1, 3)]
    rows = run(*tiny_model(), items, Protocol("given"), effort=effort).rows
    assert [len(row.predicted_areas) for row in rows] == [1, 2, 3]
    assert rows == run(*tiny_model(), items, Protocol("given")).rows


def test_a_custom_expression_with_two_targets_is_their_union():
    item = muse_item(0, 2)
    item.dataset = "custom"
    model, processor = tiny_model()
    model.lm_head.weight.data[model.config.seg_token_ids[0]] *= 50
    (row,) = run(model, processor, [item], Protocol("given")).rows
    words = worded(item)
    sample = Sample(item.image_path, item.image, [(Turn(words.prompts[0], words.answers[0]),)],
                    item.target_masks[0], None, "test", "test")  # fmt: skip
    masks = model.eval().segment(Collator(processor)([sample]))[0].mask_logits > 0
    assert row.target_area == 60
    assert row.predicted_area == int(masks.any(0).sum())
