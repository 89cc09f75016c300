"""Configurations read off files and shapes."""

import copy
import random
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlavaConfig, SamConfig, SamModel

from checkpoints.architecture import (
    LLAMA_FIELDS,
    llama_config,
    llava_hf_fields,
    original_llava_fields,
    reference_system,
)
from checkpoints.sam_configs import config_from_shapes
from groundscore.errors import UserError
from model.decoders.sam import SamDecoder


def shapes_of(config: SamConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in SamModel(config).state_dict().items()}


def sam(width=768, depth=12, heads=12, everywhere=(2, 5, 8, 11), image_size=1024, **vision) -> SamConfig:
    return SamConfig(
        vision_config={
            "hidden_size": width,
            "num_hidden_layers": depth,
            "num_attention_heads": heads,
            "global_attn_indexes": list(everywhere),
            "image_size": image_size,
            **vision,
        },
        prompt_encoder_config={"image_size": image_size},
        mask_decoder_config={"layer_norm_eps": 1e-5},
    )


SIZES = {
    "vit_b": sam(),
    "vit_l": sam(1024, 24, 16, (5, 11, 17, 23)),
    "vit_h": sam(1280, 32, 16, (7, 15, 23, 31)),
    "small": sam(64, 3, 4, (0, 2), image_size=256, window_size=7),
}


@pytest.mark.parametrize("size", SIZES)
def test_a_sam_of_any_size_is_recognised_by_its_shapes(size):
    expected = SIZES[size]
    found = config_from_shapes(SamDecoder, shapes_of(expected), Path("sam.pth"))
    assert shapes_of(found) == shapes_of(expected)
    for part in ("vision_config", "prompt_encoder_config", "mask_decoder_config"):
        ours, theirs = getattr(found, part).to_dict(), getattr(expected, part).to_dict()
        ignored = {"mlp_ratio", "initializer_range"}
        assert {k: v for k, v in ours.items() if k not in ignored} == {
            k: v for k, v in theirs.items() if k not in ignored
        }


def test_something_else_than_a_sam_is_named():
    with pytest.raises(UserError, match="weights.pth is not a SAM.*pos_embed"):
        config_from_shapes(SamDecoder, {"fc.weight": (3, 3)}, "weights.pth")


def test_an_original_llava_without_projector_type_has_a_linear_one():
    fields = original_llava_fields({"model_type": "llava", "hidden_size": 64, "num_attention_heads": 4}, Path("dir"))
    assert fields["mm_projector_type"] == "linear"
    assert fields["text_config"].hidden_size == 64


def test_llava_hf_leaves_defaults_out_of_its_configuration():
    fields = llava_hf_fields(
        {"model_type": "llava", "text_config": {"vocab_size": 32064, "rms_norm_eps": 1e-5}}, Path("dir")
    )
    assert fields["text_config"].num_hidden_layers == LlamaConfig().num_hidden_layers
    assert fields["text_config"].rms_norm_eps == 1e-5
    assert (fields["vision_config"].hidden_size, fields["vision_config"].image_size) == (1024, 336)


def test_rotary_settings_survive():
    config = llama_config({"rope_theta": 5000.0, "rope_scaling": {"type": "linear", "factor": 2.0}}, Path("dir"))
    assert config.rope_parameters["rope_theta"] == 5000.0
    assert config.rope_parameters["factor"] == 2.0


def test_another_language_model_is_refused():
    with pytest.raises(UserError, match="'mistral'"):
        llava_hf_fields({"text_config": {"model_type": "mistral"}}, Path("dir"))


@pytest.mark.parametrize(
    "name, system",
    [("LISAForCausalLM", "LISA"), ("SesameForCausalLM", "SESAME"), ("LisaGSVAForCausalLM", "GSVA"), ("Other", None)],
)
def test_the_system_is_read_off_the_class(name, system):
    assert reference_system({"architectures": [name]}) == system


OPTIONAL = {
    "num_key_value_heads": (2, 4, None),
    "head_dim": (16, 32, None),
    "attention_bias": (True, False),
    "mlp_bias": (True, False),
    "eos_token_id": (2, 3),
    "pad_token_id": (0, 1),
}
POSITIONS = (
    {},
    {"rope_theta": 5e5, "rope_scaling": None},
    {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}},  # transformers 4.x until 4.42
    {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
    {"rope_parameters": {"rope_type": "default", "rope_theta": 7e4}},  # 5.x
    {"rope_parameters": {"rope_type": "linear", "rope_theta": 7e4, "factor": 4.0}},
)


def random_llama(draw: random.Random) -> dict:
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    named = {name: draw.choice(values) for name, values in OPTIONAL.items() if draw.random() < 0.5}
    norm = {"rms_norm_eps": draw.choice((1e-5, 1e-6)), "max_position_embeddings": draw.choice((777, 4096))}
    return {"model_type": "llama", "vocab_size": 320, **sizes, **norm, **named, **draw.choice(POSITIONS)}


@pytest.mark.parametrize("seed", range(30))
def test_every_llava_is_read_as_transformers_reads_it(seed):
    text = random_llama(random.Random(seed))
    vision = {"hidden_size": 32, "num_attention_heads": 2, "image_size": 56, "patch_size": 14, "num_hidden_layers": 3}
    hf = {"text_config": text, "vision_config": {"model_type": "clip_vision_model", **vision}, "rms_norm_eps": 0.5}
    original = {**text, "model_type": "llava_llama", "mm_projector_type": "mlp2x_gelu"}
    expected = LlavaConfig(**copy.deepcopy({"text_config": hf["text_config"], "vision_config": hf["vision_config"]}))
    found = llava_hf_fields(copy.deepcopy(hf), Path("hf"))
    of_original = original_llava_fields(copy.deepcopy(original), Path("original"))["text_config"]
    for name in LLAMA_FIELDS:
        known = getattr(expected.text_config, name, None)
        assert getattr(found["text_config"], name, None) == getattr(of_original, name, None) == known, name
    assert found["vision_config"].to_dict() == expected.vision_config.to_dict()
