"""Features of frozen encoders on disk: skipped encoders, the same masks, and a directory that takes care of itself."""

import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from dataloaders.batching.batch import image_key
from dataloaders.batching.collate import Collator
from model.feature_cache import SUFFIX, FeatureCache
from tests.tiny import picture, tiny_model, tiny_samples

SYSTEMS_WITH_OTHER_ENCODERS = ("UGround", "PixelLM")  # with SAM; with CLIP states of several depths and none of SAM


def frozen_model(system="UGround", seed=0):
    model, processor = tiny_model(system, seed)
    for part in (model.backbone, model.decoder):
        if part.encoder is not None:
            part.encoder.requires_grad_(False)
    processor.identifies_images = True
    return model, Collator(processor)


def encoder_calls(model) -> list[str]:
    """A list that grows with every call of an encoder."""
    calls = []
    model.vision_tower.encoder.layers[0].register_forward_hook(lambda *_: calls.append("clip"))
    if model.decoder.encoder is not None:
        model.sam.vision_encoder.register_forward_hook(lambda *_: calls.append("sam"))
    return calls


@pytest.mark.parametrize("system", SYSTEMS_WITH_OTHER_ENCODERS)
def test_a_second_epoch_calls_no_encoder_and_gives_the_same_masks(system, tmp_path):
    model, collate = frozen_model(system)
    samples = tiny_samples()
    plain = model.eval().segment(collate(samples))
    model.cache_features(FeatureCache(tmp_path, 10**9))
    calls = encoder_calls(model)
    first = model.segment(collate(samples))
    assert calls
    calls.clear()
    second = model.segment(collate(samples[::-1]))[::-1]
    assert not calls
    for uncached, written, read in zip(plain, first, second, strict=True):
        torch.testing.assert_close(read.mask_logits, written.mask_logits, atol=1e-4, rtol=1e-4)
        scale = uncached.mask_logits.abs().max()
        assert (read.mask_logits - uncached.mask_logits).abs().max() < 0.03 * scale  # bfloat16 has 8 bits


def test_training_from_cached_features_gives_the_same_gradients_again(tmp_path):
    model, collate = frozen_model()
    model.cache_features(FeatureCache(tmp_path, 10**9))
    gradients = []
    for _ in range(2):
        model.zero_grad()
        model.policy.reward_mean.zero_()
        torch.manual_seed(0)  # the policy draws layers to compare
        model(collate(tiny_samples()), layer_choice=torch.tensor([0, 1, 2, 3])).loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert all(torch.equal(gradient, gradients[1][name]) for name, gradient in gradients[0].items())


def test_only_the_pictures_that_are_new_are_encoded(tmp_path):
    model, collate = frozen_model()
    model.cache_features(FeatureCache(tmp_path, 10**9))
    samples = tiny_samples()
    model.segment(collate(samples[:1]))
    batches = []
    model.sam.vision_encoder.register_forward_hook(lambda module, inputs, output: batches.append(len(inputs[0])))
    model.segment(collate(samples))
    assert batches == [1]


def test_other_weights_have_other_features(tmp_path):
    cache = FeatureCache(tmp_path, 10**9)
    model, collate = frozen_model()
    model.cache_features(cache)
    model.segment(collate(tiny_samples()))
    other, collate = frozen_model(seed=1)
    other.cache_features(cache)
    calls = encoder_calls(other)
    other.segment(collate(tiny_samples()))
    assert sorted(set(calls)) == ["clip", "sam"]


def test_an_encoder_that_learns_is_not_cached(tmp_path):
    model, _ = frozen_model()
    model.sam.vision_encoder.requires_grad_(True)
    assert model.cache_features(FeatureCache(tmp_path, 10**9)) == ["CLIP"]


def store(features, key, value):
    return features.get([key], torch.zeros(1), lambda missing: [torch.full((1, 8), float(value))])[0]


def features_in(directory, limit=10**9):
    return FeatureCache(directory, limit).of(torch.nn.Linear(2, 2), {"picture": 64})


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_file_is_noticed_and_made_again(damage, tmp_path):
    torch.manual_seed(0)
    features = features_in(tmp_path)
    store(features, "ab12", 3)
    path = next(tmp_path.rglob("*" + SUFFIX))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content[:20] if damage == "cut" else content)
    assert store(features, "ab12", 4)[0, 0] == 4
    assert store(features, "ab12", 5)[0, 0] == 4


def test_a_file_under_another_pictures_name_is_not_believed(tmp_path):
    features = features_in(tmp_path)
    store(features, "ab12", 3)
    path = next(tmp_path.rglob("*" + SUFFIX))
    os.rename(path, path.with_name("ab99" + SUFFIX))
    assert store(features, "ab99", 4)[0, 0] == 4


def test_what_was_used_least_recently_is_removed_when_the_limit_is_reached(tmp_path):
    features = features_in(tmp_path)
    for number in range(4):
        store(features, f"{number}0", number)
    for age, path in enumerate(sorted(tmp_path.rglob("*" + SUFFIX))):
        os.utime(path, (time.time() - 100 + age,) * 2)
    store(features, "00", -1)  # the oldest is used again
    size = next(tmp_path.rglob("*" + SUFFIX)).stat().st_size
    FeatureCache(tmp_path, 2 * size).make_room()
    assert sorted(path.stem for path in tmp_path.rglob("*" + SUFFIX)) == ["00", "30"]


def test_the_directory_stays_within_its_limit_while_it_is_filled(tmp_path):
    features = features_in(tmp_path, limit=4000)
    for number in range(60):
        store(features, f"{number:02}ff", number)
    assert 2000 < sum(path.stat().st_size for path in tmp_path.rglob("*" + SUFFIX)) <= 4040


def test_several_writers_of_one_directory_do_not_disturb_each_other(tmp_path):
    torch.manual_seed(0)
    encoder = torch.nn.Linear(2, 2)

    def epoch(_):
        features = FeatureCache(tmp_path, 3000).of(encoder, {})
        keys = [f"{number:02}" for number in np.random.default_rng(0).permutation(30)]
        return [store(features, key, int(key))[0, 0].item() == int(key) for key in keys]

    with ThreadPoolExecutor(4) as pool:
        assert all(all(found) for found in pool.map(epoch, range(4)))
    assert not list(tmp_path.rglob("*.writing"))


def test_the_key_of_a_picture_is_its_content():
    rgb = picture(1, 40, 60)
    assert image_key(rgb) == image_key(rgb.copy())
    changed = rgb.copy()
    changed[3, 4, 0] ^= 1
    assert len({image_key(rgb), image_key(changed), image_key(rgb.reshape(60, 40, 3))}) == 3
