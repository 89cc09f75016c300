import json
from types import SimpleNamespace

import pytest
import torch

from dataloaders.batching.collate import Collator
from groundscore.errors import UserError
from model.lora import add_lora, merge_lora
from model.systems import build_system
from tests.model.test_tiles import PREPARATIONS
from tests.tiny import tiny_config, tiny_model, tiny_samples
from training import building
from training.arguments import parse_arguments
from training.trainable import set_trainable, trainable_prefixes


def check(*flags):
    building._check_model(tiny_config(), parse_arguments(flags))


def test_flags_that_repeat_the_model_must_agree_with_it(tmp_path):
    path = tmp_path / "preprocessor.json"
    path.write_text(json.dumps({"size": 56}))
    check("--num_layers", "4", "--image_size", "64", "--preprocessor_config", str(path), "--layer", "3")
    with pytest.raises(UserError, match="--num_layers 33.*has 4 hidden"):
        check("--num_layers", "33")
    with pytest.raises(UserError, match="--image_size 1024.*built for 64"):
        check("--image_size", "1024")
    with pytest.raises(UserError, match="--layer 4 is outside 0..3"):
        check("--layer", "4")
    path.write_text(json.dumps({"size": {"shortest_edge": 448}}))
    with pytest.raises(UserError, match="--resize_vision_tower_size 448"):
        check("--preprocessor_config", str(path))
    with pytest.raises(UserError, match="--read_t_neg 0.8: must be below"):
        build_system(tiny_config("READ", read_t_neg=0.8)).check()
    with pytest.raises(UserError, match="--read_down_sample 5: the LLM has 4"):
        build_system(tiny_config("READ", read_down_sample=5)).check()
    path.write_text("[]")
    with pytest.raises(UserError, match="not a CLIP image-processor file"):
        check("--preprocessor_config", str(path))


def test_images_that_are_cut_into_tiles_are_not_decoded_smaller():
    building.check_fast_decode("llava", tiny_model()[1])
    for prepare in PREPARATIONS.values():
        with pytest.raises(UserError, match="--fast_decode: internvl3 cuts an image into tiles by its size"):
            building.check_fast_decode("internvl3", SimpleNamespace(backbone_images=prepare))


def test_flash_attention_needs_the_checkpoint_the_machine_and_the_package(monkeypatch):
    flags = ["--attn_implementation", "flash_attention_2", "--plain_rows"]
    with pytest.raises(UserError, match="pads its CLIP images.*--no_pad_train_clip_images"):
        building._check_model(tiny_config(pad_train_clip_images=True), parse_arguments(flags))
    check(*flags)
    gpu = torch.device("cuda")
    cases = [(torch.device("cpu"), "bf16", "needs a GPU"), (gpu, "fp32", "not in fp32"), (gpu, "bf16", "not installed")]
    monkeypatch.setattr(building, "find_spec", lambda name: None)
    for device, precision, words in cases:
        with pytest.raises(UserError, match=words):
            building.check_flash_attention(parse_arguments(flags), device, precision)
    building.check_flash_attention(parse_arguments([]), torch.device("cpu"), "fp32")


def test_precision_follows_the_device():
    cpu = torch.device("cpu")
    assert building.choose_precision(None, cpu) == "fp32"
    assert building.choose_precision("bf16", cpu) == "bf16"
    assert building.choose_precision(None, torch.device("cuda")) == "bf16"
    with pytest.raises(UserError, match="fp16"):
        building.choose_precision("fp16", cpu)


@pytest.mark.parametrize("system", ["LISA", "UGround"])
def test_the_real_model_learns_where_it_should(system):
    model, _ = tiny_model(system)
    names = set(model.state_dict())
    add_lora(model, r=2, alpha=4, dropout=0.0, targets=["q_proj", "v_proj"])
    set_trainable(model, trainable_prefixes(model, lora_r=2, train_mask_decoder=True))
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for start in (
        "lm_head",
        "language_model.embed_tokens",
        "text_hidden_fcs",
        "sam.prompt_encoder",
        "sam.mask_decoder",
    ):
        assert any(name.startswith(start) for name in learning)
    assert any(name.startswith("policy.") for name in learning) == (system == "UGround")
    frozen = ("vision_tower", "mm_projector", "sam.vision_encoder")
    assert not any(name.startswith(frozen) for name in learning)
    adapted = {name.split(".lora_")[0] for name in learning if ".lora_" in name}
    assert adapted == {f"language_model.layers.{i}.self_attn.{p}" for i in range(3) for p in ("q_proj", "v_proj")}
    merge_lora(model)
    assert set(model.state_dict()) == names


def test_gradient_checkpointing_reaches_the_llm():
    model, _ = tiny_model()
    model.backbone.checkpoint_gradients()
    assert model.language_model.is_gradient_checkpointing


def test_evaluation_packs_rows_whatever_attention_training_has(monkeypatch):
    model, processor = tiny_model()
    llm, batch = model.language_model, Collator(processor)(tiny_samples())
    monkeypatch.setattr(llm, "set_attn_implementation", lambda name: setattr(llm.config, "_attn_implementation", name))
    llm.set_attn_implementation("flash_attention_2")
    with model.backbone.packed_attention():
        assert len(model.eval().segment(batch)) == 2
    with pytest.raises(UserError, match="neither packed rows"):
        model.segment(batch)
