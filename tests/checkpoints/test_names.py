"""Names of published checkpoints and ours, both ways."""

import json
import re
from ast import literal_eval
from pathlib import Path

import pytest
import torch
from transformers import SamConfig, SamModel

from checkpoints.names import (
    from_clip,
    from_llava_hf,
    from_reference,
    load_reference_state_dict,
    reference_state_dict,
    sam_state_dict_from_original,
    sam_state_dict_to_original,
    to_reference,
)
from model.config import GroundingConfig
from model.grounding import GroundingModel
from tests.parity import ParityCase
from tests.tiny import tiny_model

REFERENCE = Path(__file__).parents[1] / "reference"
CASES = sorted(path.parent for path in (REFERENCE / "cases").glob("*/meta.json"))
KEY_LISTS = sorted((REFERENCE / "keys").glob("*.txt"))


@pytest.mark.parametrize("directory", CASES, ids=lambda path: path.name)
def test_every_name_of_a_parity_case_has_one_of_ours_and_comes_back(directory):
    for name in json.loads((directory / "meta.json").read_text())["state_dict"]:
        ours = from_reference(name)
        assert ours, name
        assert {to_reference(each) for each in ours} == {name}


@pytest.mark.parametrize("case", [path.name for path in CASES])
def test_a_reference_state_goes_in_and_comes_out_bit_for_bit(case):
    model = GroundingModel(ParityCase.read(REFERENCE / "cases" / case).config())
    generator = torch.Generator().manual_seed(1)
    state = {name: torch.randn(t.shape, generator=generator) for name, t in reference_state_dict(model).items()}
    load_reference_state_dict(model, state)
    again = reference_state_dict(model)
    assert set(again) == set(state)
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())


def read_key_list(path: Path, layers: int) -> dict[str, set[tuple[int, ...]]]:
    """Names and the shapes that they may have; the lists were made with two LLM layers."""
    keys = {}
    for line in path.read_text().splitlines()[1:]:
        pattern, count, shapes = re.fullmatch(r"(\S+)\s+x(\d+)\s+(\[.*\])", line).groups()
        number = layers if pattern.startswith("model.layers.") else int(count)
        for index in range(number):
            keys[pattern.replace("{i}", str(index))] = set(literal_eval(shapes))
    return keys


SIZES = {
    "7B": {"num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32},
    "13B": {"num_hidden_layers": 40, "hidden_size": 5120, "intermediate_size": 13824, "num_attention_heads": 40},
}
# The lists are of 7B; no part but the LLM and what is attached to it has a dimension of these numbers.
AT_13B = {4096: 5120, 8192: 10240, 11008: 13824, 33: 41}


def scaled(shape: tuple[int, ...], size: str) -> tuple[int, ...]:
    """A shape of the 7B lists at another size."""
    return tuple(AT_13B.get(side, side) for side in shape) if size == "13B" else shape


def published_config(path: Path, size: str) -> GroundingConfig:
    system = re.search(r"===== (\w+)", path.read_text())[1]
    fields = {}
    if system == "PixelLM":
        fields = {"vision_tower_for_mask": True, "seg_token_num": 3, "image_feature_scale_num": 2}
        fields |= {"resize_vision_tower": True, "resize_vision_tower_size": 448, "pad_train_clip_images": True}
    return GroundingConfig(
        text_config={"vocab_size": 32004, "num_key_value_heads": SIZES[size]["num_attention_heads"], **SIZES[size]},
        vision_config={
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": 336,
            "patch_size": 14,
        },
        sam_config={
            "vision_config": {
                "hidden_size": 1280,
                "num_hidden_layers": 32,
                "num_attention_heads": 16,
                "global_attn_indexes": [7, 15, 23, 31],
            }
        },
        system=system,
        separate_mm_projector=system in ("PixelLM", "UGround"),
        mm_projector_hidden_dim=2 if path.stem == "keys_PixelLM2" else 1,
        baseline_type="critic" if path.stem == "keys_UGround" else "ema",
        **fields,
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("path", KEY_LISTS, ids=lambda path: path.stem)
def test_a_published_checkpoint_has_exactly_the_names_and_shapes_of_our_model(path, size):
    keys = read_key_list(path, layers=SIZES[size]["num_hidden_layers"])
    with torch.device("meta"):
        model = GroundingModel(published_config(path, size))
    state = model.state_dict()
    reached = set()
    for name, shapes in keys.items():
        for ours in from_reference(name):
            assert tuple(state[ours].shape) in {scaled(shape, size) for shape in shapes}, name
            reached.add(ours)
    left = {name for name in state if not name.startswith("vision_tower.") and to_reference(name) is not None}
    assert reached == left


def test_published_totals_of_names():
    """As counted on the reference's own 7B models, rotary frequencies and the marker included."""
    totals = {path.stem.removeprefix("keys_"): len(read_key_list(path, layers=32)) for path in KEY_LISTS}
    assert totals["LISA"] == totals["GSVA"] == totals["READ"] == totals["SESAME"] == 926
    assert len(read_key_list(REFERENCE / "keys" / "keys_LISA.txt", layers=40)) == 1006
    assert totals["PixelLM"] == 565
    assert (totals["UGroundEma"], totals["UGround"]) == (931, 935)


@pytest.mark.parametrize(
    "variant",
    [
        "model.vision_tower.vision_tower.vision_model.pre_layrnorm.weight",
        "base_model.model.model.vision_tower.vision_tower.vision_model.pre_layrnorm.weight",
        "model.vision_tower.vision_model.pre_layrnorm.weight",
        "model.vision_tower.pre_layrnorm.weight",
    ],
)
def test_spellings_of_the_tower_are_one(variant):
    assert from_reference(variant) == ("vision_tower.pre_layrnorm.weight",)


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.3.self_attn.rotary_emb.inv_freq",
        "model.decoder_modules_initialized",
        "base_model.model.model.decoder_modules_initialized",
        "model.image_newline",
        "model.vision_tower.vision_tower.vision_model.embeddings.position_ids",
    ],
)
def test_tensors_without_content_are_passed_over(name):
    assert from_reference(name) == ()


def test_an_unknown_name_stays_as_it_is():
    assert from_reference("model.memory_bank.weight") == ("model.memory_bank.weight",)


def test_both_generations_of_llava_hf():
    old = ["language_model.model.layers.0.mlp.up_proj.weight", "language_model.lm_head.weight"]
    new = ["model.language_model.layers.0.mlp.up_proj.weight", "lm_head.weight"]
    assert [from_llava_hf(name) for name in old] == [from_llava_hf(name) for name in new]
    assert from_llava_hf(new[0]) == ("language_model.layers.0.mlp.up_proj.weight",)
    assert from_llava_hf("multi_modal_projector.linear_2.bias") == ("mm_projector.2.bias",)
    assert from_llava_hf("model.multi_modal_projector.linear_1.weight") == ("mm_projector.0.weight",)
    assert from_llava_hf("vision_tower.vision_model.post_layernorm.bias") == ("vision_tower.post_layernorm.bias",)
    assert from_llava_hf("model.vision_tower.post_layernorm.bias") == ("vision_tower.post_layernorm.bias",)


def test_clip_with_and_without_its_prefix():
    name = "encoder.layers.0.mlp.fc1.weight"
    assert from_clip(name) == from_clip(f"vision_model.{name}") == (f"vision_tower.{name}",)
    assert from_clip("text_model.final_layer_norm.weight") == from_clip("logit_scale") == ()


def test_sam_goes_to_the_original_layout_and_back():
    model, _ = tiny_model("LISA")
    state = model.sam.state_dict()
    original = sam_state_dict_to_original(state)
    again = sam_state_dict_from_original(original)
    assert set(again) == set(state)
    assert all(torch.equal(again[name], state[name]) for name in state)


def test_the_original_layout_has_the_published_names_of_sam():
    """Those below `model.visual_model.` of the key lists are SAM's own."""
    keys = read_key_list(REFERENCE / "keys" / "keys_LISA.txt", layers=32)
    prefix = "model.visual_model."
    published = {name.removeprefix(prefix) for name in keys if name.startswith(prefix)}
    with torch.device("meta"):
        sam = SamModel(SamConfig(vision_config={"hidden_size": 1280, "num_hidden_layers": 32}))
    assert set(sam_state_dict_to_original(sam.state_dict())) == published
