from types import SimpleNamespace

import pytest
import torch
from torch import nn

from groundscore.errors import UserError
from model.backbones.llava import LlavaBackbone
from model.decoders.sam import SamDecoder
from model.lora import add_lora, lora_module_names, merge_lora
from model.systems import System
from training.trainable import count_parameters, set_trainable, trainable_prefixes


def attention() -> nn.Module:
    return nn.ModuleDict({name: nn.Linear(4, 4) for name in ("q_proj", "k_proj", "v_proj", "o_proj")})


def model() -> nn.Module:
    """The names of the real model, as small as can be."""
    language_model = nn.ModuleDict(
        {
            "embed_tokens": nn.Embedding(5, 4),
            "layers": nn.ModuleList([attention(), attention()]),
            "norm": nn.LayerNorm(4),
        }
    )
    sam = nn.ModuleDict({"vision_encoder": attention(), "prompt_encoder": attention(), "mask_decoder": attention()})
    parts = {"vision_tower": attention(), "mm_projector": nn.Linear(4, 4), "language_model": language_model}
    parts |= {"lm_head": nn.Linear(4, 5), "text_hidden_fcs": nn.Linear(4, 4), "sam": sam, "policy": nn.Linear(4, 3)}
    network = nn.ModuleDict(parts)
    network.config = SimpleNamespace(resize_vision_tower_size=224)
    network.system, network.system_modules = System(network.config), ("policy",)
    network.backbone, network.decoder = (
        SimpleNamespace(parts=LlavaBackbone.parts),
        SimpleNamespace(parts=SamDecoder.parts),
    )
    return network


def learning(network: nn.Module) -> set[str]:
    names = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    return {
        ".".join(name.split(".")[:2]) if name.startswith(("sam", "language")) else name.split(".")[0] for name in names
    }


def prepared(*, lora_r=2, train_mask_decoder=True, vision_size=224, unfreeze=()) -> nn.Module:
    network = model()
    if lora_r:
        add_lora(network, r=lora_r, alpha=4, dropout=0.0, targets=["q_proj", "v_proj"])
    network.config.resize_vision_tower_size = vision_size
    set_trainable(
        network,
        trainable_prefixes(network, lora_r=lora_r, train_mask_decoder=train_mask_decoder, unfreeze=unfreeze),
    )
    return network


HEADS = {"lm_head", "text_hidden_fcs", "policy", "sam.prompt_encoder", "sam.mask_decoder"}


def test_lora_sits_on_the_llm_s_attention_only():
    assert lora_module_names(model(), ["q_proj", "v_proj"]) == [
        f"language_model.layers.{layer}.{name}" for layer in (0, 1) for name in ("q_proj", "v_proj")
    ]
    adapters = [name for name, _ in prepared().named_parameters() if ".lora_" in name]
    assert len(adapters) == 8
    assert all(name.startswith("language_model.layers.") for name in adapters)


def test_a_target_that_the_llm_does_not_have_is_named():
    with pytest.raises(UserError, match="--lora_target_modules up_proj"):
        lora_module_names(model(), ["q_proj", "up_proj"])


def test_with_lora_adapters_embeddings_and_heads_learn():
    network = prepared()
    assert learning(network) == HEADS | {"language_model.embed_tokens", "language_model.layers"}
    layers = [n for n, p in network.named_parameters() if p.requires_grad and n.startswith("language_model.layers")]
    assert layers and all(".lora_" in name for name in layers)


def test_without_lora_the_whole_llm_learns():
    network = prepared(lora_r=0)
    assert all(p.requires_grad for n, p in network.named_parameters() if n.startswith("language_model."))
    assert not any(p.requires_grad for n, p in network.named_parameters() if n.startswith("vision_tower."))


def test_the_mask_decoder_can_be_left_alone():
    assert learning(prepared(train_mask_decoder=False)) & HEADS == HEADS - {"sam.mask_decoder"}


def test_another_vision_size_frees_the_projector():
    assert "mm_projector" in learning(prepared(vision_size=336))
    assert "mm_projector" not in learning(prepared())


def test_parts_can_be_unfrozen():
    parts = learning(prepared(lora_r=0, unfreeze=("vision_tower", "sam_encoder", "mm_projector", "language_model")))
    assert {"vision_tower", "sam.vision_encoder", "mm_projector"} <= parts


def test_merging_lora_keeps_the_output_and_the_names():
    network = prepared()
    layer = network["language_model"]["layers"][0]["q_proj"]
    nn.init.normal_(layer.lora_B["default"].weight)
    inputs = torch.randn(3, 4)
    before = layer(inputs)
    merge_lora(network)
    assert set(network.state_dict()) == set(model().state_dict())
    torch.testing.assert_close(network["language_model"]["layers"][0]["q_proj"](inputs), before)


def test_parameters_are_counted_by_part():
    counts = {count.part: count for count in count_parameters(prepared())}
    assert counts["LoRA"].trainable == counts["LoRA"].total == 64
    assert counts["vision_tower"].total > 0 and counts["vision_tower"].trainable == 0
