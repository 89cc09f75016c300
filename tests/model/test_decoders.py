"""Every mask decoder against transformers' own forward, and where what it is given and gives lies on the image."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import MODEL_MAPPING

from dataloaders.batching.batch import PreparedImages
from dataloaders.batching.collate import Collator
from dataloaders.sample import Sample, Turn
from groundscore.errors import UserError
from model.config import GroundingConfig
from model.decoders import DECODERS, agreement, check, decoder_of
from model.decoders.base import INSIDE, MaskDecoder
from model.feature_cache import FeatureCache
from tests.tiny import picture, tiny_config, tiny_decoder, tiny_model

STRETCHING = ("sam2", "sam3_tracker")
SHAPES = [(60, 60), (30, 120), (120, 30), (47, 91), (83, 35)]


def config_file(directory: Path, name: str, **changes) -> Path:
    """A `config.json` of transformers."""
    path = directory / f"{name}.json"
    path.write_text(json.dumps({"model_type": name, **tiny_decoder(name), **changes}))
    return path


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", DECODERS)
def test_masks_scores_and_gradients_are_those_of_transformers(tmp_path, name, seed, capsys):
    """With a text token, points and a mask prompt for every target, on images of several shapes."""
    check.main(["--vision_pretrained", str(config_file(tmp_path, name)), "--seed", str(seed)])
    said = capsys.readouterr().out
    assert "equal to transformers within 0.0001" in said
    assert ("object scores" in said) == (name in STRETCHING)


@pytest.mark.parametrize("name", ["sam_hq", "sam3_tracker"])
def test_weights_of_a_directory_are_compared(tmp_path, name, capsys):
    """A published SAM 3 has a fourth level of features, which is left out on both sides."""
    values = tiny_decoder(name)
    if name == "sam3_tracker":
        values["vision_config"]["scale_factors"] = [4.0, 2.0, 1.0, 0.5]
    config = GroundingConfig(sam_config=values, mask_decoder=name)
    torch.manual_seed(1)
    agreement.reference(config, None).save_pretrained(tmp_path)
    check.main(["--vision_pretrained", str(tmp_path)])
    said = capsys.readouterr().out
    assert "its own weights" in said and "equal to transformers within 0.0001" in said


def test_another_forward_is_told(tmp_path):
    config = agreement.read_decoder_config(config_file(tmp_path, "sam2"))
    theirs = agreement.reference(config, None)
    ours = agreement.of_reference(config, theirs)
    with torch.no_grad():
        ours.sam.no_memory_embedding.add_(1)
    differences = agreement.compare(ours, theirs, agreement.Prompts.drawn(ours, config))
    assert differences["masks"] > agreement.TOLERANCE


def test_a_model_that_no_decoder_has_is_named(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UserError, match="config.json is of type 'bert', which no mask decoder"):
        check.main(["--vision_pretrained", str(tmp_path)])


# --- geometry --------------------------------------------------------------------------------------------------------


def decoder_for(name: str, side: int) -> tuple[MaskDecoder, GroundingConfig]:
    """A decoder for images of about `side` pixels; its weights do not matter."""
    config = GroundingConfig(sam_config=tiny_decoder(name, side), mask_decoder=name)
    return decoder_of(config)(config), config


def square_on(size: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """bool [H, W] with a square somewhere, and its (top, left, bottom, right)."""
    side = min(size) // 2
    top, left = (size[0] - side) // 3, (size[1] - side) * 2 // 3
    mask = np.zeros(size, dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask, (top, left, top + side, left + side)


def found(logits: torch.Tensor) -> tuple[int, ...]:
    """(top, left, bottom, right) of what is positive in [H, W]."""
    rows, columns = (logits > 0).any(1).nonzero(), (logits > 0).any(0).nonzero()
    return int(rows.min()), int(columns.min()), int(rows.max()) + 1, int(columns.max()) + 1


@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize("name", DECODERS)
def test_a_square_is_found_where_it_was_drawn(name, size):
    """Through the prepared image and through the mask prompt, within one pixel of the original image."""
    decoder, config = decoder_for(name, 512)
    mask, box = square_on(size)
    rgb = np.repeat(mask[..., None] * np.uint8(255), 3, axis=2)
    pixels, geometry = decoder.preparation(config)(rgb)
    side = (decoder.prompt_side, decoder.prompt_side)
    seen = torch.nn.functional.interpolate(pixels[None, :1].float(), side, mode="bilinear", antialias=True)[0] - 127.5
    prompt = decoder.mask_prompts([torch.from_numpy(mask)[None].float()])[0] - 0.5
    for low_res in (seen, prompt):
        (logits,) = decoder.upscale(low_res, geometry, size)
        assert logits.shape == size
        assert np.abs(np.subtract(found(logits), box)).max() <= 1
    assert ((seen > 0) != (prompt > 0)).float().mean() < 0.02  # the prompt lies on the image


@pytest.mark.parametrize("name", DECODERS)
def test_a_square_on_an_image_that_was_decoded_smaller_is_found_in_the_full_one(name):
    decoder, config = decoder_for(name, 512)
    size = (901, 1203)
    mask, box = square_on(size)
    half = Image.fromarray(mask).convert("RGB").reduce(2)
    pixels, geometry = decoder.preparation(config)(np.asarray(half))
    side = (decoder.prompt_side, decoder.prompt_side)
    seen = torch.nn.functional.interpolate(pixels[None, :1].float(), side, mode="bilinear", antialias=True)[0] - 127.5
    (logits,) = decoder.upscale(seen, geometry, size)
    assert logits.shape == size
    assert np.abs(np.subtract(found(logits), box)).max() <= 3  # of 1203: a pixel of the prepared image is more than 2


@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize("name", DECODERS)
def test_masks_are_upscaled_to_the_same_with_and_without_a_gradient(name, size):
    decoder, config = decoder_for(name, 512)
    _, geometry = decoder.preparation(config)(np.zeros((*size, 3), dtype=np.uint8))
    torch.manual_seed(0)
    low_res = torch.randn(2, decoder.prompt_side, decoder.prompt_side, requires_grad=True)
    with torch.no_grad():
        expected = decoder.upscale(low_res, geometry, size)
    found = decoder.upscale(low_res, geometry, size)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert found.requires_grad


@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize("name", DECODERS)
def test_a_point_lies_where_its_pixel_is_in_the_prepared_image(name, size):
    decoder, config = decoder_for(name, 64)
    rgb = np.zeros((*size, 3), dtype=np.uint8)
    row, column = size[0] * 2 // 3, size[1] // 4
    rgb[max(0, row - 4) : row + 5, max(0, column - 4) : column + 5] = 255
    pixels, geometry = decoder.preparation(config)(rgb)
    seen = []
    decoder.sam.prompt_encoder.shared_embedding.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    point = torch.tensor([[[column + 0.5, row + 0.5]]])
    (tokens,) = decoder.embed_points([point], [torch.tensor([[INSIDE]])], [geometry], [size])
    x, y = (seen[0][0] * pixels.shape[-1]).tolist()
    lit = pixels[0].float().nonzero().float().mean(0) + 0.5
    assert tokens.shape == (1, 2, 32)
    assert abs(y - lit[0]) <= 1.5 and abs(x - lit[1]) <= 1.5


@pytest.mark.parametrize("name", STRETCHING)
def test_prepared_pixels_are_those_of_transformers_resizing(name):
    """Its processors need torchvision, whose antialiased bilinear filter is torch's, in floating point."""
    decoder, config = decoder_for(name, 64)
    rgb = np.random.default_rng(0).integers(0, 256, (90, 50, 3), dtype=np.uint8)
    prepared = PreparedImages.of([decoder.preparation(config)(rgb)])
    ours = decoder.normalized(prepared.groups[0], torch.float32)
    side = ours.shape[-2:]
    exact = torch.from_numpy(rgb).permute(2, 0, 1)[None].float() / 255
    exact = torch.nn.functional.interpolate(exact, side, mode="bilinear", antialias=True)
    mean, std = (torch.tensor(each)[:, None, None] for each in (decoder.pixel_mean, decoder.pixel_std))
    assert ((ours - (exact - mean) / std) * std * 255).abs().max() <= 1  # one grey level


# --- in the skeleton -------------------------------------------------------------------------------------------------


def samples_with(*counts: int) -> list[Sample]:
    """Images of different shapes with so many targets, several to a conversation."""
    made = []
    for index, count in enumerate(counts):
        height, width = SHAPES[index % len(SHAPES)]
        conversations = [(Turn("What are they?", " and ".join(["[SEG]"] * min(5, count - n)) + "."),)
                         for n in range(0, count, 5)] or [(Turn("What is it?", "They are near."),)]  # fmt: skip
        masks = np.random.default_rng(index).integers(0, 2, (count, height, width), dtype=np.uint8)
        image = picture(index, height, width)
        made.append(Sample(Path(f"{index}.png"), image, conversations, masks, None, "refer_seg", "refcoco"))
    return made


@pytest.mark.parametrize("name", DECODERS)
def test_images_with_0_1_and_40_targets_in_one_batch_are_segmented_as_alone(name):
    model, processor = tiny_model("UGround", mask_decoder=name)
    collate, samples = Collator(processor), samples_with(0, 1, 40)
    together = model.eval().segment(collate(samples), layer=2)
    for one, sample in zip(together, samples, strict=True):
        (alone,) = model.segment(collate([sample]), layer=2)
        assert one.mask_logits.shape == sample.masks.shape
        torch.testing.assert_close(one.mask_logits, alone.mask_logits, atol=1e-4, rtol=1e-3)
        assert (alone.object_scores is not None) == (name in STRETCHING and len(sample.masks) > 0)
        if alone.object_scores is not None:
            torch.testing.assert_close(one.object_scores, alone.object_scores, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ["sam_hq", *STRETCHING])
def test_cached_features_of_several_tensors_give_the_same_masks(name, tmp_path):
    model, processor = tiny_model("UGround", mask_decoder=name)
    processor.identifies_images = True
    batch = Collator(processor)(samples_with(1, 2))
    plain = model.eval().segment(batch, layer=2)
    model.requires_grad_(False)
    model.cache_features(FeatureCache(tmp_path, 10**9))
    model.segment(batch, layer=2)
    calls = []
    model.decoder.encoder.register_forward_hook(lambda *_: calls.append(1))
    for one, cached in zip(plain, model.segment(batch, layer=2), strict=True):
        assert (cached.mask_logits - one.mask_logits).abs().max() < 0.05 * one.mask_logits.abs().max()
    assert not calls


@pytest.mark.parametrize("name", ["sam_hq", *STRETCHING])
def test_training_reaches_prompts_and_decoder_and_leaves_the_frozen_encoder(name):
    model, processor = tiny_model("UGround", mask_decoder=name)
    model.decoder.encoder.requires_grad_(False)
    model.train()
    model(Collator(processor)(samples_with(1, 2)), layer_choice=torch.tensor([1, 2, 0])).loss.backward()
    reached = {key for key, parameter in model.sam.named_parameters() if parameter.grad is not None}
    assert {"mask_decoder.iou_token.weight", "mask_decoder.mask_tokens.weight"} <= reached
    assert any(key.startswith("prompt_encoder.mask_embed") for key in reached)
    assert not any(key.startswith("vision_encoder") for key in reached)


@pytest.mark.parametrize("name", DECODERS)
def test_bfloat16_is_near_float32(name):
    model, processor = tiny_model("LISA", mask_decoder=name)
    batch = Collator(processor)(samples_with(2, 1))
    exact = model.eval().segment(batch)
    rounded = model.to(torch.bfloat16).segment(batch)
    for one, other in zip(exact, rounded, strict=True):
        assert (one.mask_logits - other.mask_logits).abs().max() < 0.1 * one.mask_logits.abs().max()


def test_transformers_builds_what_our_configuration_says():
    for name, decoder in DECODERS.items():
        config = tiny_config(mask_decoder=name)
        assert type(config.sam_config) is decoder.config_class
        with torch.device("meta"):
            theirs = MODEL_MAPPING[decoder.config_class](replace_config(config.sam_config))
            assert set(decoder(config).sam.state_dict()) == set(theirs.state_dict())


def replace_config(config):
    return type(config)(**config.to_dict())
