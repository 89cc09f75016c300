"""PixelLM in every configuration, those among them that crash in the reference (one or three scales, a cropped or a
resized CLIP, SAM instead of its own decoder, no separate projector), and its fusion weights."""

from types import SimpleNamespace

import pytest
import torch

from checkpoints import load_model, save_model
from dataloaders.batching.collate import Collator
from tests.tiny import text_only_sample, tiny_model, tiny_samples
from training.trainable import set_trainable, trainable_prefixes

CONFIGURATIONS = {
    "one scale": {"image_feature_scale_num": 1},
    "three scales": {"image_feature_scale_num": 3},
    "one token": {"seg_token_num": 1},
    "one token and scale": {"seg_token_num": 1, "image_feature_scale_num": 1},
    "cropped": {"pad_train_clip_images": False},
    "resized": {"resize_vision_tower": True, "resize_vision_tower_size": 84},
    "resized and cropped": {
        "resize_vision_tower": True,
        "resize_vision_tower_size": 84,
        "pad_train_clip_images": False,
    },
    "one projector": {"separate_mm_projector": False},
    "wide projector": {"mm_projector_hidden_dim": 2, "mm_projector_out_dim": 2},
    "SAM": {"vision_tower_for_mask": False},
    "SAM, cropped": {"vision_tower_for_mask": False, "pad_train_clip_images": False},
    "SAM, one scale": {"vision_tower_for_mask": False, "image_feature_scale_num": 1},
    "coarse grid": {"llm_image_grid": 3},
    "fine grid": {"llm_image_grid": 6},
}


@pytest.mark.parametrize("fields", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_every_configuration_trains_segments_and_writes(fields):
    model, processor = tiny_model("PixelLM", **fields)
    batch = Collator(processor)([*tiny_samples(), text_only_sample()])
    output = model(batch)
    output.loss.backward()
    assert torch.isfinite(output.loss)
    assert torch.isfinite(model.text_hidden_fcs[0].weight.grad).all()
    shapes = [tuple(result.mask_logits.shape) for result in model.eval().segment(batch)]
    assert shapes == [(3, 40, 60), (1, 70, 48), (0, 50, 50)]
    assert (batch.input_ids[0] < 0).sum() == model.config.image_grid**2


def test_an_image_without_targets_only():
    model, processor = tiny_model("PixelLM")
    assert torch.isfinite(model(Collator(processor)([text_only_sample()])).loss)


def test_without_sam_no_image_is_prepared_for_it(tmp_path):
    model, processor = tiny_model("PixelLM")
    assert Collator(processor)(tiny_samples()).decoder_images is None
    save_model(model, processor, tmp_path / "saved")
    assert load_model(tmp_path / "saved")[1].decoder_images is None
    assert tiny_model("PixelLM", vision_tower_for_mask=False)[1].decoder_images.side == 64


def prepared(train_fusion: bool):
    model, processor = tiny_model("PixelLM")
    prefixes = trainable_prefixes(
        model, lora_r=8, train_mask_decoder=True, flags=SimpleNamespace(train_fusion=train_fusion)
    )
    set_trainable(model, prefixes)
    return model, Collator(processor)(tiny_samples()), processor


def test_the_fusion_is_constant_unless_asked():
    model, batch, _ = prepared(train_fusion=False)
    model(batch).loss.backward()
    assert model.fusion.token_weights.grad is None
    assert torch.allclose(model.fusion.token_weights, torch.tensor(1 / 6))
    assert torch.allclose(model.fusion.scale_weights, torch.tensor(1 / 2))


def test_a_trained_fusion_changes_the_masks_and_is_saved(tmp_path):
    model, batch, processor = prepared(train_fusion=True)
    before = model.segment(batch)[0].mask_logits
    model(batch).loss.backward()
    assert model.fusion.token_weights.grad.any() and model.fusion.scale_weights.grad.any()
    torch.optim.SGD(model.fusion.parameters(), lr=1.0).step()
    after = model.segment(batch)[0].mask_logits
    assert not torch.allclose(before, after)
    save_model(model, processor, tmp_path / "saved")
    again, _, _ = load_model(tmp_path / "saved")
    assert torch.equal(again.fusion.token_weights, model.fusion.token_weights)
    assert torch.allclose(again.segment(batch)[0].mask_logits, after, atol=1e-5)
