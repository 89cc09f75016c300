"""`load_model`: what is read, what is newly initialised, what is refused."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from checkpoints import load_model, save_model
from checkpoints.adapting import CLIP_POSITIONS
from groundscore.errors import UserError
from model.systems import SYSTEMS
from tests.tiny import tiny_model

TABLES = ("language_model.embed_tokens.weight", "lm_head.weight")
PIXELLM = {"vision_tower_for_mask": True, "seg_token_num": 3, "image_feature_scale_num": 2}
PIXELLM |= {"pad_train_clip_images": True, "separate_mm_projector": True}


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> list[str]:
    """Names whose tensors differ."""
    return [name for name, tensor in theirs.items() if not torch.equal(ours[name], tensor)]


# --- a LLaVA base ----------------------------------------------------------------------------------------------------


def test_an_original_llava_with_clip_and_sam(published):
    model, processor, report = load_model(published.original, system="UGround", **published.flags())
    state = model.state_dict()
    read = {n: t for n, t in published.tensors.items() if n not in TABLES and not n.startswith("text_hidden_fcs")}
    assert same(state, read) == []
    assert (
        same(
            {name: state[name][: len(published.tensors[name])] for name in TABLES},
            {name: published.tensors[name] for name in TABLES},
        )
        == []
    )
    tokenizer = processor.tokenizer
    assert model.config.text_config.vocab_size == len(tokenizer) == state["lm_head.weight"].shape[0]
    assert model.config.seg_token_ids == list(tokenizer.seg_token_ids)
    assert report.new_tokens == 4
    assert {name.split(".")[0] for name in report.new} == {"text_hidden_fcs", "policy"}
    assert "UGround from LLaVA base" in str(report)


def test_both_layouts_of_llava_give_the_same_model(published, tmp_path, write_hf_4):
    options = published.flags(system="UGround")
    original = load_model(published.original, **options)[0].state_dict()
    for directory in (published.hf, write_hf_4(tmp_path / "hf4")):
        other = load_model(directory, **options)[0].state_dict()
        differing = same(other, {name: tensor for name, tensor in original.items() if name not in TABLES})
        assert differing == []
        rows = len(published.tensors["lm_head.weight"])
        assert same({n: other[n][:rows] for n in TABLES}, {n: original[n][:rows] for n in TABLES}) == []


def test_a_llava_hf_directory_brings_its_own_clip(published):
    model, _, _ = load_model(published.hf, system="LISA", vision_pretrained=str(published.sam))
    tower = {name: tensor for name, tensor in published.tensors.items() if name.startswith("vision_tower.")}
    assert same(model.state_dict(), tower) == []


def test_tokens_of_a_rounded_up_vocabulary_are_newly_initialised(published):
    """llava-hf has rows for tokens that it never had; they hold ones in this fixture."""
    model, processor, report = load_model(published.hf, **published.flags(system="LISA"))
    table = model.state_dict()["lm_head.weight"]
    assert len(table) == len(processor.tokenizer)
    assert report.new_tokens == 4
    assert not (table[processor.tokenizer.seg_token_ids[0]] == 1).any()


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_starts_from_a_base(published, system):
    overrides = PIXELLM if system == "PixelLM" else {}
    model, processor, _ = load_model(
        published.original, **published.flags(system=system, overrides=overrides, precision="bf16")
    )
    assert model.config.system == system
    assert processor.tokenizer.tokens_per_target == model.config.tokens_per_target
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())


def test_the_policy_starts_uniform(published):
    model, _, _ = load_model(published.original, **published.flags(system="UGround"))
    assert not model.policy.gate.any()
    assert model.policy.reward_mean == 0


def test_what_is_new_depends_on_the_seed_alone(published):
    def load(seed):
        torch.rand(3)
        return load_model(published.original, **published.flags(system="UGround", seed=seed))[0].state_dict()

    first, again, other = load(1), load(1), load(2)
    assert same(again, first) == []
    assert set(same(other, first)) == {
        *TABLES,
        "text_hidden_fcs.0.weight",
        "text_hidden_fcs.0.bias",
        "text_hidden_fcs.2.weight",
        "text_hidden_fcs.2.bias",
    }


def test_loading_leaves_the_random_state_alone(published):
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    load_model(published.original, **published.flags(system="LISA"))
    assert torch.equal(torch.rand(2), expected)


def test_a_transformers_sam_directory_equals_the_pth(published, tmp_path):
    loaded, _, _ = load_model(published.original, **published.flags(system="LISA"))
    loaded.sam.save_pretrained(tmp_path / "sam")
    options = {**published.flags(system="LISA"), "vision_pretrained": str(tmp_path / "sam")}
    other, _, _ = load_model(published.original, **options)
    assert same(other.state_dict(), loaded.state_dict()) == []
    assert other.config.sam_config.mask_decoder_config.layer_norm_eps == 1e-5


def test_a_projector_of_another_form_is_newly_initialised_and_reported(published):
    overrides = {"separate_mm_projector": True, "mm_projector_hidden_dim": 2}
    model, _, report = load_model(published.original, **published.flags(system="UGround", overrides=overrides))
    assert model.mm_projector[0].weight.shape[0] == 2 * model.config.text_config.hidden_size
    assert {name for name in report.dropped if name.startswith("mm_projector.")}
    assert "newly initialised" in str(report)


def test_clip_is_resized_for_larger_images(published):
    overrides = {"resize_vision_tower": True, "resize_vision_tower_size": 112}
    model, processor, _ = load_model(published.original, **published.flags(system="LISA", overrides=overrides))
    table = model.state_dict()[CLIP_POSITIONS]
    assert table.shape[0] == 65
    assert torch.equal(table[0], published.tensors[CLIP_POSITIONS][0])
    assert processor.backbone_images.side == 112
    assert processor.backbone_images.grid == (4, 4)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"system": None}, "--model_key"),
        ({"vision_tower": None}, "--vision_tower"),
        ({"vision_pretrained": None}, "--vision_pretrained"),
        ({"vision_pretrained": "./nowhere.pth"}, "--vision_pretrained ./nowhere.pth: no such file"),
        ({"overrides": {"out_dim": 256}}, "--out_dim 256.*32 wide"),
    ],
)
def test_what_a_base_lacks_is_asked_for(published, options, message):
    with pytest.raises(UserError, match=message):
        load_model(published.original, **published.flags(system="LISA") | options)


def test_a_directory_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="no such file or directory"):
        load_model(tmp_path / "nothing")


def test_a_training_run_is_pointed_to_merging(tmp_path):
    (tmp_path / "ckpt_model").mkdir()
    with pytest.raises(UserError, match="merge_lora_weights.py"):
        load_model(tmp_path)


# --- our own directories ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["UGround", "PixelLM"])
def saved(request, tmp_path_factory):
    model, processor = tiny_model(request.param, seed=4)
    directory = tmp_path_factory.mktemp("own") / request.param
    save_model(model, processor, directory)
    return model, directory


def test_a_saved_model_comes_back(saved):
    model, directory = saved
    again, processor, report = load_model(directory)
    assert same(again.state_dict(), model.state_dict()) == []
    assert again.config.system == model.config.system
    assert processor.tokenizer.tokens_per_target == model.config.tokens_per_target
    assert (report.new, report.new_tokens, len(report.renamed), report.dropped) == ([], 0, 0, [])


def copy_of(directory: Path, tmp_path: Path) -> Path:
    """A copy to damage: without its digests, so that what reads the files has to notice."""
    return Path(shutil.copytree(directory, tmp_path / "copy", ignore=shutil.ignore_patterns("digests.json")))


def edit_weights(directory: Path, edit) -> None:
    tensors = load_file(directory / "model.safetensors")
    edit(tensors)
    save_file(tensors, directory / "model.safetensors")


def test_missing_and_unknown_tensors_are_listed(saved, tmp_path):
    directory = copy_of(saved[1], tmp_path)

    def edit(tensors):
        for layer in range(3):
            for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
                del tensors[f"language_model.layers.{layer}.self_attn.{name}.weight"]
        tensors["memory.weight"] = torch.zeros(2)

    edit_weights(directory, edit)
    with pytest.raises(UserError, match="12 tensors are missing.*k_proj.*and 2 more.*1 tensors are not.*memory.weight"):
        load_model(directory)


def test_a_wrong_shape_is_listed(saved, tmp_path):
    directory = copy_of(saved[1], tmp_path)
    edit_weights(directory, lambda tensors: tensors.update({"text_hidden_fcs.0.bias": torch.zeros(7)}))
    with pytest.raises(UserError, match=r"text_hidden_fcs.0.bias is \(7,\), not \(32,\)"):
        load_model(directory)


def test_a_truncated_file_is_named(saved, tmp_path):
    directory = copy_of(saved[1], tmp_path)
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(UserError, match="model.safetensors is not a complete"):
        load_model(directory)


def test_another_system_keeps_what_both_share(tmp_path):
    model, processor = tiny_model("LISA", seed=4)
    save_model(model, processor, tmp_path / "lisa")
    other, _, report = load_model(tmp_path / "lisa", system="UGround")
    assert other.config.system == "UGround"
    assert same(other.state_dict(), model.state_dict()) == []
    assert report.new == ["policy.gate", "policy.reward_mean"] and other.config.gate == "normalized"
    save_model(other, processor, tmp_path / "uground")
    back, _, report = load_model(tmp_path / "uground", system="LISA")
    assert same(back.state_dict(), model.state_dict()) == []
    assert report.dropped == ["policy.gate", "policy.reward_mean"]


def test_more_tokens_make_more_rows(tmp_path):
    model, processor = tiny_model("UGround", seed=4)
    save_model(model, processor, tmp_path / "own")
    overrides = {name: value for name, value in PIXELLM.items() if name != "vision_tower_for_mask"}
    other, _, report = load_model(tmp_path / "own", system="PixelLM", overrides=overrides)
    assert report.new_tokens == 12
    rows = model.lm_head.weight.shape[0]
    assert torch.equal(other.lm_head.weight[:rows], model.lm_head.weight)


def test_half_precision(saved):
    again, _, _ = load_model(saved[1], precision="fp16")
    assert {parameter.dtype for parameter in again.parameters()} == {torch.float16}


def test_an_original_llava_1_6_has_its_line_break_where_its_tiles_are_asked_for(published):
    flags = published.flags(overrides={"anyres": True})
    model, _, report = load_model(published.original, system="LISA", **flags)
    assert not model.image_newline.weight.any() and "image_newline.weight" not in report.new
    model, _, _ = load_model(published.original, system="LISA", **published.flags())
    assert not hasattr(model, "image_newline")
