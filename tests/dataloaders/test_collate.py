"""Samples become batches: rows, branches, positions, labels, targets and masks."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dataloaders.batching.batch import PADDING_BRANCH
from dataloaders.batching.collate import Collator
from dataloaders.batching.tokenization import IMAGE_TOKEN_INDEX
from dataloaders.sample import Sample, Turn
from groundscore.errors import UserError
from groundscore.splits import evaluation_set
from groundscore.splits.wording import worded
from groundscore.targets import REJ, SEG

LAYOUTS = [(packed, side) for packed in (True, False) for side in ("right", "left")]


def sample_of(*answers: str | None, size=(12, 16), name="a.jpg", ignore=None) -> Sample:
    """One conversation per answer; the i-th target's mask has i + 1 pixels where it is a [SEG]."""
    written = " ".join(answer or "" for answer in answers)
    kinds = [word for word in written.replace(SEG, f" {SEG} ").replace(REJ, f" {REJ} ").split() if word in (SEG, REJ)]
    masks = np.zeros((len(kinds), *size), np.uint8)
    for index, kind in enumerate(kinds):
        if kind == SEG:
            masks[index].flat[: index + 1] = 1
    conversations = [(Turn(f"What is number {index}?", answer),) for index, answer in enumerate(answers)]
    return Sample(Path(name), np.zeros((*size, 3), np.uint8), conversations, masks, ignore, "refer_seg", "refcoco")


def by_context(batch):
    """What every label is predicted from: for each labelled token its visible ids, their positions, and the label."""
    found = []
    length = batch.input_ids.shape[1]
    for position, label in zip(batch.label_positions.tolist(), batch.label_ids.tolist()):
        row, token = divmod(position, length)
        found.append((*visible(batch, row, token), label))
    return found


def visible(batch, row: int, token: int):
    ids, branches, positions = batch.input_ids[row], batch.branches[row], batch.position_ids[row]
    own = (branches == 0) | ((branches == branches[token]) & (torch.arange(len(ids)) <= token))
    if branches[token] == 0:
        own = (branches == 0) & (torch.arange(len(ids)) <= token)
    return tuple(ids[own].tolist()), tuple(positions[own].tolist())


@pytest.mark.parametrize("count", [1, 6])
@pytest.mark.parametrize("packed,side", LAYOUTS)
def test_every_layout_gives_every_label_the_same_context(make_processor, packed, side, count):
    samples = [sample_of("It is [SEG].", "Sure, [REJ] and [SEG]."), sample_of("A cat.", "[SEG]")]
    plain = Collator(make_processor(count), packed=False)(samples)

    batch = Collator(make_processor(count), packed=packed, padding_side=side)(samples)

    assert by_context(batch) == by_context(plain)
    assert batch.input_ids.shape[0] == (2 if packed else 4)
    assert [row.tolist() for row in batch.masks] == [row.tolist() for row in plain.masks]


@pytest.mark.parametrize("packed,side", LAYOUTS)
@pytest.mark.parametrize("count", [1, 6])
def test_target_positions_predict_the_tokens_of_the_target(make_processor, packed, side, count):
    processor = make_processor(count)
    samples = [sample_of("It is [SEG].", "[REJ] and [SEG]."), sample_of("A cat."), sample_of("[SEG]")]

    batch = Collator(processor, packed=packed, padding_side=side)(samples)

    label_at = dict(zip(batch.label_positions.tolist(), batch.label_ids.tolist()))
    tokenizer = processor.tokenizer
    assert [tuple(label_at[p] for p in target) for target in batch.seg_positions.tolist()] == 3 * [
        tokenizer.seg_token_ids
    ]
    assert [tuple(label_at[p] for p in target) for target in batch.rej_positions.tolist()] == [tokenizer.rej_token_ids]
    assert batch.seg_image.tolist() == [0, 0, 2]
    assert batch.rej_image.tolist() == [0]
    assert batch.target_is_seg == [[True, False, True], [], [True]]


@pytest.mark.parametrize("packed,side", LAYOUTS)
def test_image_tokens_padding_and_positions(make_processor, packed, side):
    processor = make_processor()
    samples = [sample_of("It is [SEG].", "A longer answer than the first."), sample_of("No.")]

    batch = Collator(processor, packed=packed, padding_side=side)(samples)

    cells = 4
    assert batch.image_positions.tolist() == (batch.input_ids.flatten() == IMAGE_TOKEN_INDEX).nonzero()[:, 0].tolist()
    assert batch.image_tokens.tolist() == [
        cells * image + cell for image in batch.image_index.tolist() for cell in range(cells)
    ]
    assert batch.cell_positions.tolist() == batch.image_positions.view(-1, cells).tolist()
    for row in range(len(batch.input_ids)):
        padding = batch.branches[row] == PADDING_BRANCH
        assert (batch.input_ids[row, padding] == processor.tokenizer.pad_token_id).all()
        prefix = int((batch.branches[row] == 0).sum())
        for branch in batch.branches[row].unique().tolist():
            positions = batch.position_ids[row, batch.branches[row] == branch].tolist()
            first = {PADDING_BRANCH: None, 0: 0}.get(branch, prefix)
            assert first is None or positions == list(range(first, first + len(positions)))
    shortest = int((batch.branches != PADDING_BRANCH).sum(1).argmin())
    end = 0 if side == "left" else -1
    assert batch.branches[shortest, end] == PADDING_BRANCH


def test_images_and_masks_keep_their_sizes(make_processor):
    ignore = np.zeros((12, 16), bool)
    ignore[0] = True

    batch = Collator(make_processor())([sample_of("[SEG] [REJ] [SEG]", ignore=ignore), sample_of("Hi.", size=(20, 10))])

    (for_decoder,), (for_backbone,) = batch.decoder_images.groups, batch.backbone_images.groups
    assert for_decoder.pixels.shape == (2, 3, 32, 32)
    assert for_decoder.pixels.dtype == torch.uint8
    assert for_decoder.sizes == [(24, 32), (32, 16)]
    assert for_backbone.pixels.shape == (2, 3, 16, 16)
    assert batch.original_sizes == [(12, 16), (20, 10)]
    assert [mask.sum((1, 2)).tolist() for mask in batch.masks] == [[1, 3], []]
    assert batch.masks[1].shape == (0, 20, 10)
    assert batch.ignore[0].sum() == 16
    assert batch.ignore[1] is None
    assert batch.sources[0] == "refer_seg/refcoco a.jpg"


def test_an_open_answer_ends_the_row_at_the_assistant(make_processor):
    processor = make_processor()

    batch = Collator(processor, packed=False, padding_side="left")([sample_of(None), sample_of(None, None)])

    assert all(processor.tokenizer.decode(row).endswith("ASSISTANT:") for row in batch.input_ids.tolist())
    assert len(batch.label_positions) == 0
    assert batch.seg_positions.shape == (0, 1)


def test_a_target_in_a_question_is_text(make_processor):
    sample = sample_of("Yes.")
    sample.conversations = [(Turn("Is [SEG] a cat?", "Yes."),)]

    batch = Collator(make_processor())([sample])

    assert batch.seg_positions.shape == (0, 1)


def test_a_long_conversation_is_cut_behind_its_targets_and_dropped_before_them(make_processor):
    processor = make_processor()
    tail = " and so on" * 60
    limit = len(Collator(processor)([sample_of("It is [SEG].")]).input_ids[0]) + 5
    collator = Collator(processor, max_length=limit)

    cut = collator([sample_of("It is [SEG]." + tail)])
    dropped = collator([sample_of("First [SEG].", "Sure," + tail + " [SEG].", "Then [SEG].")])

    assert cut.input_ids.shape == (1, limit)
    assert len(cut.masks[0]) == 1
    assert dropped.masks[0].sum((1, 2)).tolist() == [1, 3]
    assert dropped.target_is_seg == [[True, True]]
    assert len(dropped.seg_positions) == 2
    assert collator.dropped == 1


def test_an_image_without_conversations_leaves_the_batch(make_processor):
    collator = Collator(make_processor(), max_length=80)
    hopeless = sample_of("and so on" * 60 + "[SEG]", name="hopeless.jpg")

    batch = collator([hopeless, sample_of("[SEG].")])

    assert len(batch.sources) == 1
    assert batch.seg_image.tolist() == [0]
    with pytest.raises(UserError, match=r"hopeless\.jpg.*model_max_length"):
        collator([hopeless])


@pytest.mark.parametrize(
    "change,message",
    [
        (lambda sample: setattr(sample, "masks", sample.masks[:1]), "name 2 targets, but there are 1 masks"),
        (lambda sample: sample.masks[0].fill(0), r"target 0 is a \[SEG\] whose mask is empty"),
        (lambda sample: sample.masks[1].fill(1), r"target 1 is a \[REJ\] whose mask is not empty"),
        (lambda sample: setattr(sample, "masks", sample.masks[:, 1:]), "do not fit"),
        (lambda sample: setattr(sample, "ignore", np.zeros((2, 2), bool)), "ignore"),
    ],
)
def test_answers_and_masks_that_disagree_name_their_source(make_processor, change, message):
    sample = sample_of("[SEG] but [REJ]")
    change(sample)

    with pytest.raises(UserError, match=message) as caught:
        Collator(make_processor())([sample])
    assert "refer_seg/refcoco a.jpg" in str(caught.value)


def test_evaluation_may_ask_for_the_mask_of_something_absent(make_processor):
    sample = sample_of("[SEG] and [SEG]")
    sample.masks[1] = 0

    batch = Collator(make_processor(), check_masks=False)([sample])

    assert batch.masks[0].sum((1, 2)).tolist() == [1, 0]


def test_prompts_that_do_not_fit_are_errors(make_processor):
    with pytest.raises(UserError, match="limit is 45"):
        Collator(make_processor(), max_length=45)([sample_of(None)])


@pytest.mark.parametrize("joint", [True, False])
def test_items_of_evaluation_sets_make_batches(data_root, make_processor, joint):
    (item,) = evaluation_set("grefcoco|unc|val", data_root)
    pairs = (
        [(worded(item).joint_prompt, worded(item).joint_answer)]
        if joint
        else zip(worded(item).prompts, worded(item).answers)
    )
    conversations = [(Turn(question, answer),) for question, answer in pairs]
    sample = Sample(item.image_path, item.image, conversations, item.masks, item.ignore, "evaluation", item.dataset)

    batch = Collator(make_processor(), max_length=None)([sample])

    assert batch.target_is_seg == [[True, True, True, False]]
    assert len(batch.masks[0]) == 3


def test_images_are_only_identified_where_their_features_are_cached(make_processor):
    processor = make_processor()

    assert Collator(processor)([sample_of("It is [SEG].")]).image_keys is None
    processor.identifies_images = True
    (key,) = Collator(processor)([sample_of("It is [SEG].")]).image_keys
    assert len(key) == 32


def test_masks_go_on_without_a_copy_and_other_values_count_as_set(make_processor):
    sample = sample_of("[SEG] [SEG]")
    (masks,) = Collator(make_processor())([sample]).masks
    assert np.shares_memory(masks.numpy(), sample.masks)

    sample.masks = sample.masks * np.uint8(255)
    (other,) = Collator(make_processor())([sample]).masks
    assert other.dtype == torch.bool and torch.equal(other, masks)
