"""No size is built in: models, images, conversations and targets drawn at random train, segment and answer alike."""

from pathlib import Path

import numpy as np
import pytest
import torch

from checkpoints.processing import GroundingProcessor
from dataloaders.batching.collate import Collator
from dataloaders.sample import Sample, Turn
from model.config import GroundingConfig
from model.grounding import GroundingModel
from model.systems import SYSTEMS
from tests.tiny import picture, tiny_config, tiny_tokenizer


def drawn_model(system: str, seed: int) -> tuple[GroundingModel, GroundingProcessor]:
    """Widths, depths, image sides, patches and token counts of the draw `seed`."""
    rng = np.random.default_rng(seed)

    def one_of(*values):
        return values[rng.integers(len(values))]

    tokens = {"seg_token_num": one_of(1, 2, 4), "image_feature_scale_num": one_of(1, 2, 3)}
    config = tiny_config(system, **(tokens if system == "PixelLM" else {})).to_dict()
    heads = one_of(1, 2, 3)
    config["text_config"] |= {
        "hidden_size": 16 * heads,
        "intermediate_size": one_of(24, 80),
        "num_hidden_layers": one_of(1, 2, 5),
        "num_attention_heads": heads,
        "num_key_value_heads": one_of(1, heads),
        "head_dim": 16,
    }
    patch, side = one_of(8, 14), one_of(3, 5, 6)
    config["vision_config"] |= {
        "hidden_size": one_of(8, 24),
        "num_hidden_layers": one_of(2, 4),
        "image_size": patch * side,
        "patch_size": patch,
    }
    grid, width = one_of(3, 6), one_of(16, 48)
    config["sam_config"]["vision_config"] |= {"image_size": 16 * grid, "output_channels": width}
    config["sam_config"]["vision_config"]["num_pos_feats"] = width // 2
    config["sam_config"]["prompt_encoder_config"] |= {
        "hidden_size": width,
        "image_size": 16 * grid,
        "image_embedding_size": grid,
    }
    config["sam_config"]["mask_decoder_config"]["hidden_size"] = width
    config |= {"out_dim": width, "pad_train_clip_images": one_of(True, False)}
    config = GroundingConfig(**config)
    torch.manual_seed(seed)
    return GroundingModel(config), GroundingProcessor(config, tiny_tokenizer(config.tokens_per_target))


def drawn_samples(seed: int) -> list[Sample]:
    """One to three images of any shape, each with one to four conversations of none to three targets."""
    rng = np.random.default_rng(seed)
    samples = []
    for index in range(rng.integers(1, 4)):
        height, width = rng.integers(20, 120, 2).tolist()
        counts = rng.integers(0, 4, rng.integers(1, 5)).tolist()
        samples.append(
            Sample(
                image_path=Path(f"{index}.png"),
                image=picture(seed + index, height, width),
                conversations=[
                    (Turn(f"What is tree {n}?", "They are " + " and ".join(["[SEG]"] * n) + "."),) for n in counts
                ],
                masks=rng.integers(0, 2, (sum(counts), height, width), dtype=np.uint8),
                ignore=None,
                family="refer_seg",
                dataset="refcoco",
            )
        )
    return samples


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("system", SYSTEMS)
def test_any_sizes_train_packed_as_plain_segment_and_answer(system, seed):
    model, processor = drawn_model(system, seed)
    samples = drawn_samples(seed)
    targets = sum(len(sample.masks) for sample in samples)
    choice = torch.arange(targets) % model.config.num_layers
    packed = model(Collator(processor)(samples), layer_choice=choice)
    if model.system.uses_policy:
        model.policy.reward_mean.zero_()
    plain = model(Collator(processor, packed=False)(samples), layer_choice=choice)
    packed.loss.backward()
    assert torch.isfinite(packed.loss)
    for name, loss in packed.losses.items():
        assert loss.item() == pytest.approx(plain.losses[name].item(), rel=1e-4, abs=1e-6), name

    model.eval()
    shapes = [tuple(result.mask_logits.shape) for result in model.segment(Collator(processor)(samples))]
    assert shapes == [sample.masks.shape for sample in samples]

    questions = [
        Sample(sample.image_path, sample.image, [(Turn("What is it?", None),)], sample.masks[:0], None, "", "")
        for sample in samples
    ]
    answers = model.generate(Collator(processor, packed=False, padding_side="left")(questions), max_new_tokens=6)
    for answer, sample in zip(answers, samples, strict=True):
        assert answer.mask_logits.shape == (len(answer.seg_indices), *sample.masks.shape[1:])
