"""An adapter's directory holds the trained parameters, and nothing of the base."""

import json

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file

from checkpoints import load_model, save_adapter, save_model
from groundscore.errors import UserError
from model.lora import add_lora, merge_lora
from model.systems import SYSTEMS
from tests.tiny import tiny_model
from training.trainable import set_trainable, trainable_prefixes

PIXELLM = {"vision_tower_for_mask": True, "seg_token_num": 2, "image_feature_scale_num": 2}
PIXELLM |= {"separate_mm_projector": True, "resize_vision_tower": True, "resize_vision_tower_size": 112}


def trained(system: str, base: str, **options):
    """A model on a base with LoRA, all trained parameters moved away from where it began."""
    model, processor, _ = load_model(base, system=system, seed=11, **options)
    add_lora(model, r=2, alpha=6, dropout=0.0, targets=["q_proj", "v_proj"])
    set_trainable(model, trainable_prefixes(model, lora_r=2, train_mask_decoder=True))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        if system == "UGround":
            model.policy.reward_mean.fill_(-1.25)
    return model, processor


def assert_same(model, expected):
    state = expected.state_dict()
    assert set(model.state_dict()) == set(state)
    for name, tensor in model.state_dict().items():
        assert torch.allclose(tensor, state[name], atol=1e-6), name


@pytest.mark.parametrize("system", SYSTEMS)
def test_an_adapter_and_its_base_make_the_merged_model(published, tmp_path, system):
    """With another seed: nothing of it may depend on what is drawn while loading."""
    options = published.flags(overrides=PIXELLM if system == "PixelLM" else {"separate_mm_projector": True})
    model, processor = trained(system, published.original, **options)
    save_adapter(model, processor, tmp_path / "adapter", base={"version": str(published.original), **published.flags()})
    merge_lora(model)
    again, other, report = load_model(tmp_path / "adapter", seed=99)
    assert_same(again, model)
    assert not report.new and not report.new_tokens
    assert again.config.to_dict() | {"_name_or_path": ""} == model.config.to_dict() | {"_name_or_path": ""}
    assert other.tokenizer.added_tokens == processor.tokenizer.added_tokens and vars(other) == vars(processor) | {
        "tokenizer": other.tokenizer
    }
    assert "LoRA merged into 6 weights" in str(report)


def test_an_adapter_on_a_merged_model_of_ours(tmp_path):
    save_model(*tiny_model("UGround"), tmp_path / "base")
    model, processor = trained("UGround", tmp_path / "base", overrides={"mode": 2})
    save_adapter(model, processor, tmp_path / "adapter", base={"version": str(tmp_path / "base")})
    merge_lora(model)
    again, _, _ = load_model(tmp_path / "adapter")
    assert_same(again, model)
    assert again.config.mode == 2


def test_the_frozen_weights_stay_in_the_base(published, tmp_path):
    model, processor = trained("LISA", published.original, **published.flags())
    save_adapter(model, processor, tmp_path / "adapter", base={"version": str(published.original), **published.flags()})
    names = set(load_file(tmp_path / "adapter" / "trained.safetensors"))
    assert not [name for name in names if name.startswith(("vision_tower.", "sam.vision_encoder.", "mm_projector."))]
    assert {"lm_head.weight", "language_model.embed_tokens.weight", "text_hidden_fcs.0.weight"} <= names


def test_peft_reads_the_adapter(published, tmp_path):
    model, processor = trained("LISA", published.original, **published.flags())
    save_adapter(model, processor, tmp_path / "adapter", base={"version": "someone/llava", **published.flags()})
    config = LoraConfig.from_pretrained(tmp_path / "adapter")
    assert (config.r, config.lora_alpha, config.base_model_name_or_path) == (2, 6, "someone/llava")
    base, _, _ = load_model(published.original, system="LISA", **published.flags())
    wrapped = PeftModel.from_pretrained(base, tmp_path / "adapter")
    lora = {name: tensor for name, tensor in model.state_dict().items() if ".lora_" in name}
    state = wrapped.base_model.model.state_dict()
    assert lora and all(torch.equal(state[name], tensor) for name, tensor in lora.items())


def test_a_base_that_moved_is_asked_for(published, tmp_path):
    model, processor = trained("LISA", published.original, **published.flags())
    save_adapter(model, processor, tmp_path / "adapter", base={"version": "/gone/llava", **published.flags()})
    with pytest.raises(UserError, match="base.json names the base.*/gone/llava"):
        load_model(tmp_path / "adapter")


def test_an_adapter_of_another_program_is_refused(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 4}))
    with pytest.raises(UserError, match="adapter of another program"):
        load_model(tmp_path)


LORA = "base_model.model.language_model.layers.0.self_attn.q_proj.lora_B.weight"


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda tensors: tensors[LORA][:, :1], "which LoRA tensors of .* do not fit"),
        (lambda tensors: tensors[LORA].flatten(), "which LoRA tensors of .* do not fit"),
        (lambda tensors: tensors[LORA][:, :0], "which LoRA tensors of .* do not fit"),
        (lambda tensors: tensors[LORA] * float("nan"), "LoRA of language_model.layers.0.self_attn.q_proj contains NaN"),
        (lambda tensors: tensors[LORA].int(), "is of int32, not of fp64"),
        (lambda tensors: tensors[LORA].to(torch.complex64), "is of complex64, not of fp64"),
        (lambda tensors: tensors[LORA].to(torch.float8_e4m3fn), "is of float8_e4m3fn, not of fp64"),
    ],
)
def test_lora_tensors_that_cannot_be_merged(published, tmp_path, change, message):
    model, processor = trained("LISA", published.original, **published.flags())
    save_adapter(model, processor, tmp_path / "adapter", base={"version": str(published.original), **published.flags()})
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file(tensors | {LORA: change(tensors).contiguous()}, file)
    (tmp_path / "adapter" / "digests.json").unlink(missing_ok=True)
    with pytest.raises(UserError, match=message):
        load_model(tmp_path / "adapter")


def test_an_adapter_without_all_that_its_base_lacks(published, tmp_path):
    model, processor = trained("LISA", published.original, **published.flags())
    save_adapter(model, processor, tmp_path / "adapter", base={"version": str(published.original), **published.flags()})
    file = tmp_path / "adapter" / "trained.safetensors"
    save_file({name: tensor for name, tensor in load_file(file).items() if "text_hidden_fcs" not in name}, file)
    (tmp_path / "adapter" / "digests.json").unlink(missing_ok=True)
    with pytest.raises(UserError, match="4 tensors are missing: .*text_hidden_fcs"):
        load_model(tmp_path / "adapter")
