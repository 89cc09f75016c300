"""Qwen2.5-VL and Qwen3-VL against transformers' own classes, on random configurations and images of many shapes."""

import copy

import numpy as np
import pytest
import torch
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from checkpoints import load_model
from dataloaders.batching.collate import Collator
from groundscore.errors import UserError
from model.backbones import BACKBONES, agreement, check
from model.backbones.qwen_vl import CellPreparation
from model.similarity import map_on_image
from tests.tiny import picture, tiny_samples
from tests.tiny_bases import write_qwen, write_sam

KINDS = ("qwen2_5_vl", "qwen3_vl")
# Changes of the tiny configurations: layers, heads, key-value heads, patches, merging, DeepStack, tied embeddings.
CONFIGURATIONS = [
    ("qwen2_5_vl", {}),
    ("qwen2_5_vl", {"tie_word_embeddings": True, "text_config": {"num_hidden_layers": 2, "num_key_value_heads": 4},
                    "vision_config": {"patch_size": 5, "window_size": 20, "fullatt_block_indexes": [0, 2]}}),
    ("qwen3_vl", {}),
    ("qwen3_vl", {"tie_word_embeddings": True, "text_config": {"num_attention_heads": 6, "num_key_value_heads": 3},
                  "vision_config": {"spatial_merge_size": 3, "deepstack_visual_indexes": [1]}}),
    ("qwen3_vl", {"vision_config": {"deepstack_visual_indexes": [2, 0, 1], "num_position_embeddings": 9}}),
]  # fmt: skip


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    directory = tmp_path_factory.mktemp("bases")
    write_sam(directory / "sam")
    for kind in KINDS:
        write_qwen(directory / kind, kind)
    write_qwen(directory / "tied", "qwen3_vl", tie_word_embeddings=True)
    return directory


def opened(bases, kind, system="UGround", **more):
    return load_model(bases / kind, system=system, vision_pretrained=str(bases / "sam"), **more)


@pytest.mark.parametrize(("kind", "changes"), CONFIGURATIONS)
def test_states_logits_and_tokens_are_those_of_transformers(kind, changes, tmp_path):
    base = write_qwen(tmp_path, kind, seed=1, **changes)
    _, images = agreement.read_base(str(tmp_path), None)
    base.generation_config.update(
        do_sample=False, max_new_tokens=agreement.NEW_TOKENS, pad_token_id=0, eos_token_id=None
    )
    result = agreement.compare(base, agreement.build_ours(base, images), seed=2)
    assert max(difference.largest for difference in result.differences) < 1e-5, "\n".join(map(str, result.differences))
    assert result.equal_tokens == result.tokens == 6 * agreement.NEW_TOKENS
    assert result.agrees


def test_the_check_reports_what_differs(bases, capsys, monkeypatch):
    monkeypatch.setattr(BACKBONES["qwen3_vl"], "injections", lambda *_: [])
    assert check.main(["--version", str(bases / "qwen3_vl" / "config.json"), "--layers", "2"]) == 1
    assert "verdict: it does NOT compute" in capsys.readouterr().out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(30, 120), (50, 50), (120, 30), (37, 53), (5, 400), (200, 333)])
def test_pixels_and_grids_are_those_of_the_image_processor(kind, size, bases):
    model, _, _ = _opened_once(bases, kind)
    rgb, theirs = picture(0, *size), Qwen2VLImageProcessorPil.from_pretrained(bases / kind)
    expected = theirs([rgb], return_tensors="pt")
    prepared = model.backbone.preparation(model.config)(rgb)
    merge = model.config.vision_config.spatial_merge_size
    assert expected["image_grid_thw"].tolist() == [[1, *(merge * cells for cells in prepared[1].grid)]]
    torch.testing.assert_close(model.backbone.patches(prepared[0][None]), expected["pixel_values"], atol=2e-6, rtol=0)


_OPENED = {}


def _opened_once(bases, kind):
    key = (str(bases), kind)
    if key not in _OPENED:
        _OPENED[key] = opened(bases, kind)
    return _OPENED[key]


@pytest.mark.parametrize("size", [(30, 120), (64, 64), (120, 30), (37, 53), (61, 43)])
def test_a_lit_patch_lies_where_it_is_in_the_image(size):
    """The cell of which one pixel's surroundings are white, of all shapes of images; within one pixel."""
    prepare = CellPreparation(8, 256, 6400)
    height, width = size
    rows, columns = prepare(np.zeros((*size, 3), np.uint8))[1].grid
    for row, column in [(0, 0), (rows - 1, columns - 1), (rows // 2, columns // 3)]:
        rgb = np.zeros((*size, 3), np.uint8)
        top, bottom = (round(index * height / rows) for index in (row, row + 1))
        left, right = (round(index * width / columns) for index in (column, column + 1))
        rgb[top:bottom, left:right] = 255
        pixels, geometry = prepare(rgb)
        cells = pixels.float().mean(0).unflatten(1, (columns, 8)).unflatten(0, (rows, 8)).mean((1, 3))
        assert cells.argmax() == row * columns + column
        (found,) = map_on_image((cells == cells.max()).float().reshape(1, -1), geometry, size)
        weight = found / found.sum()
        centre = (weight.sum(1) @ torch.arange(height).float(), weight.sum(0) @ torch.arange(width).float())
        if 0 < row < rows - 1 and 0 < column < columns - 1:
            expected = ((row + 0.5) * height / rows - 0.5, (column + 0.5) * width / columns - 0.5)
            assert np.abs(np.subtract(centre, expected)).max() <= 1
        assert found.argmax().item() in _inside(top, bottom, left, right, width)


def _inside(top, bottom, left, right, width):
    return {y * width + x for y in range(top, bottom) for x in range(left, right)}


@pytest.mark.parametrize("kind", [*KINDS, "tied"])
def test_packed_rows_equal_plain_rows_in_losses_gradients_and_masks(kind, bases):
    fresh, processor, _ = opened(bases, kind)
    results = []
    for packed in (True, False):
        torch.manual_seed(0)
        model = copy.deepcopy(fresh)  # a pass moves the policy's running reward
        output = model(Collator(processor, packed=packed)(tiny_samples()), layer_choice=torch.tensor([0, 4, 1, 2]))
        output.loss.backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        results.append((output.loss, output.low_res_masks[0], gradients))
    (loss, masks, gradients), plain = results
    torch.testing.assert_close(loss, plain[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(masks, plain[1], atol=1e-5, rtol=1e-4)
    assert gradients.keys() == plain[2].keys()
    assert any(name.startswith("visual.merger") for name in gradients)
    for name, gradient in gradients.items():
        difference = (gradient - plain[2][name]).abs().max()
        assert difference <= 1e-5 + 1e-3 * gradient.abs().max(), name


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_equals_its_images_one_by_one(kind, bases):
    model, processor, _ = opened(bases, kind)
    collate = Collator(processor)
    together = model.eval().segment(collate(tiny_samples()), 2)
    for one, sample in zip(together, tiny_samples(), strict=True):
        (alone,) = model.segment(collate([sample]), 2)
        torch.testing.assert_close(one.mask_logits, alone.mask_logits, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(one.similarity_maps, alone.similarity_maps, atol=1e-4, rtol=1e-3)


def test_a_branch_continues_after_the_largest_position_of_the_image(bases):
    _, processor, _ = _opened_once(bases, "qwen3_vl")
    batch = Collator(processor)(tiny_samples())
    rows, columns = batch.backbone_images.geometries[0].grid
    start = (batch.input_ids[0] == -200).nonzero()[0, 0]
    of_image = batch.position_ids[:, 0, batch.input_ids[0] == -200] - start
    assert of_image.tolist() == [
        [0] * rows * columns,
        [row for row in range(rows) for _ in range(columns)],
        [column for _ in range(rows) for column in range(columns)],
    ]
    for branch in (1, 2, 3):
        positions = batch.position_ids[:, 0, batch.branches[0] == branch]
        first = start + max(rows, columns)
        assert positions[0].tolist() == list(range(first, first + positions.shape[1]))
        assert (positions == positions[0]).all()


def test_checkpointed_layers_give_the_same_gradients(bases):
    model, processor, _ = opened(bases, "qwen3_vl")
    batch, gradients = Collator(processor)(tiny_samples()), []
    for checkpointed in (False, True):
        if checkpointed:
            model.train()
            model.backbone.checkpoint_gradients()
        model.zero_grad()
        model(batch, layer_choice=torch.tensor([0, 4, 1, 2])).loss.backward()
        gradients.append([p.grad.clone() for p in model.language_model.parameters() if p.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_pixels": 5, "max_pixels": 10}, "one image token of qwen3_vl takes 64"),
        ({"min_pixels": 5000, "max_pixels": 4000}, "--max_pixels is 4000, which is less"),
        ({"pad_train_clip_images": True}, "only llava"),
        ({"conv_type": "vicuna_v1"}, "qwen3_vl understands qwen3_vl"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message, bases):
    with pytest.raises(UserError, match=message):
        opened(bases, "qwen3_vl", overrides=settings)


def test_an_image_beyond_the_limits_is_refused():
    with pytest.raises(UserError, match="strip of 2 × 500 pixels; crop it"):
        CellPreparation(28, 3136, 10**6)(picture(0, 2, 500))


def test_a_class_that_transformers_does_not_have_is_named(bases, monkeypatch):
    monkeypatch.setattr(BACKBONES["qwen3_vl"], "model_class", "Qwen9VLModel")
    with pytest.raises(UserError, match="has no Qwen9VLModel.*pip install --upgrade transformers"):
        opened(bases, "qwen3_vl")
