"""`load_model`: what is read, what is newly initialised, what is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import SamModel

from checkpoints import (
    export_reference,
    hub,
    load_model,
    load_reference_state_dict,
    reference_state_dict,
    save_model,
)
from checkpoints.adapting import CLIP_POSITIONS
from checkpoints.architecture import original_read_fields
from groundscore.errors import UserError
from model.config import GroundingConfig
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


def test_tokens_of_a_rounded_up_vocabulary_are_drawn_anew(published):
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


def test_a_projector_of_another_form_is_made_anew_and_reported(published):
    overrides = {"separate_mm_projector": True, "mm_projector_hidden_dim": 2}
    model, _, report = load_model(published.original, **published.flags(system="UGround", overrides=overrides))
    assert model.mm_projector[0].weight.shape[0] == 2 * model.config.text_config.hidden_size
    assert {name for name in report.dropped if name.startswith("mm_projector.")}
    assert "newly initialised" in str(report)


def test_clip_is_resized_for_larger_pictures(published):
    overrides = {"resize_vision_tower": True, "resize_vision_tower_size": 112}
    model, processor, _ = load_model(published.original, **published.flags(system="LISA", overrides=overrides))
    table = model.state_dict()[CLIP_POSITIONS]
    assert table.shape[0] == 65
    assert torch.equal(table[0], published.tensors[CLIP_POSITIONS][0])
    assert processor.settings.clip_image_size == 112
    assert processor.num_image_tokens == 16


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


# --- checkpoints of the reference ------------------------------------------------------------------------------------


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_reference_directory_of_any_system(published, tmp_path, system):
    overrides = PIXELLM if system == "PixelLM" else {"separate_mm_projector": system == "UGround"}
    model, processor, _ = load_model(published.original, **published.flags(system=system, overrides=overrides))
    export_reference(model, processor, tmp_path / "reference", vision_tower=str(published.clip))
    again, other_processor, report = load_model(tmp_path / "reference")
    assert same(again.state_dict(), model.state_dict()) == []
    assert report.kind == "reference checkpoint"
    left_out = {"map_geometry", "transformers_version", "dtype", "architectures", "_name_or_path"}
    ours, theirs = model.config.to_dict(), again.config.to_dict()
    differing = {name for name in ours if ours[name] != theirs[name]} - left_out
    assert differing <= {"sam_config", "text_config", "vision_config"}
    assert again.config.text_config.rope_parameters == model.config.text_config.rope_parameters
    assert other_processor.tokenizer.added_tokens == processor.tokenizer.added_tokens


def test_a_published_directory_is_loaded_by_its_name_alone(published, tmp_path, monkeypatch):
    """Its configuration names CLIP by a path of its author's machine; OpenAI's are found on the hub."""
    model, processor, _ = load_model(published.original, **published.flags(system="UGround"))
    elsewhere = "../dataset_sesame/clip-vit-large-patch14-336"
    export_reference(model, processor, tmp_path / "published", vision_tower=elsewhere)
    there = {"someone/hf-UGround": tmp_path / "published", "openai/clip-vit-large-patch14-336": published.clip}
    monkeypatch.setattr(hub, "local_copy", lambda name: there[str(name)])
    again, _, _ = load_model("someone/hf-UGround")
    assert same(again.state_dict(), model.state_dict()) == []


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_reference_checkpoint_comes_out_as_it_went_in(published, tmp_path, system):
    """Loaded and exported again: the same names, the same bits, the same types, the same configuration."""
    overrides = PIXELLM if system == "PixelLM" else {}
    model, processor, _ = load_model(published.original, **published.flags(system=system, overrides=overrides))
    first = reference_copy(model, processor, published, tmp_path / "first")
    again, other_processor, _ = load_model(tmp_path / "first")
    second = reference_copy(again, other_processor, published, tmp_path / "second")
    assert list(second) == list(first)
    assert same(second, first) == []
    assert all(second[name].dtype == tensor.dtype for name, tensor in first.items())
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("first", "second")]
    assert configs[0] == configs[1]


def test_an_original_pixellm_gives_the_llm_16_by_16_image_tokens(published, tmp_path):
    """Its configuration names none of what its code fixes."""
    flags = published.flags(system="PixelLM", overrides=PIXELLM | {"mm_projector_hidden_dim": 2})
    model, processor, _ = load_model(published.original, **flags)
    assert model.config.image_grid == 4
    export_reference(model, processor, tmp_path / "original", vision_tower=str(published.clip))
    (tmp_path / "original" / "digests.json").unlink()
    path = tmp_path / "original" / "config.json"
    fixed = ("resize_vision_tower", "resize_vision_tower_size", "pad_train_clip_images", "llm_image_grid")
    config = {name: value for name, value in json.loads(path.read_text()).items() if name not in fixed}
    path.write_text(json.dumps(config))
    again, processor, _ = load_model(tmp_path / "original")
    assert again.config.image_grid == 16
    assert (again.config.clip_image_size, processor.num_image_tokens) == (448, 256)
    assert again.config.mm_projector_hidden_dim == 2 and again.config.pad_train_clip_images
    save_model(again, processor, tmp_path / "own")
    assert load_model(tmp_path / "own")[0].config.image_grid == 16


def reference_copy(model, processor, published, directory: Path) -> dict[str, torch.Tensor]:
    """A reference directory in one file, as its authors publish it, and its tensors."""
    export_reference(model, processor, directory, vision_tower=str(published.clip))
    (directory / "digests.json").unlink()
    return torch.load(directory / "pytorch_model.bin", weights_only=True)


def test_a_reference_checkpoint_may_lack_markers_and_have_peft_prefixes(published, tmp_path):
    model, processor, _ = load_model(published.original, **published.flags(system="UGround"))
    tensors = reference_copy(model, processor, published, tmp_path / "reference")
    tensors = {f"base_model.model.{n}": t for n, t in tensors.items() if "inv_freq" not in n and "initialized" not in n}
    torch.save(tensors, tmp_path / "reference" / "pytorch_model.bin")
    again, _, _ = load_model(tmp_path / "reference")
    assert same(again.state_dict(), model.state_dict()) == []


def test_read_s_own_checkpoints_get_their_points_and_the_crop(published, tmp_path):
    """READ's own code lacks the buffer that the reference's port adds; it assumes CLIP's centre crop."""
    model, processor = tiny_model("READ")
    tensors = reference_copy(model, processor, published, tmp_path / "port")
    again, _, _ = load_model(tmp_path / "port")
    assert (again.config.map_geometry, again.config.read_num_points) == ("reference", 60)
    shutil.copytree(tmp_path / "port", tmp_path / "original")
    del tensors["model.decoder_modules_initialized"]
    torch.save(tensors, tmp_path / "original" / "pytorch_model.bin")
    config = load_model(tmp_path / "original")[0].config
    assert (config.map_geometry, config.read_point_space) == ("fit", "pixel")
    assert (config.read_num_points, config.read_down_sample) == (30, 2)
    assert (config.read_t_pos, config.read_t_neg) == (0.8, 0.2)
    changed = {"map_geometry": "reference", "read_num_points": 15}
    config = load_model(tmp_path / "original", overrides=changed)[0].config
    assert (config.map_geometry, config.read_num_points, config.read_down_sample) == ("reference", 15, 2)


def test_read_s_13b_has_other_points():
    assert original_read_fields(40)["read_num_points"] == 60
    assert original_read_fields(40)["read_t_pos"] == 0.6 and original_read_fields(40)["read_down_sample"] == 1


def test_a_reference_checkpoint_with_a_hole_is_refused(published, tmp_path):
    model, processor, _ = load_model(published.original, **published.flags(system="LISA"))
    tensors = reference_copy(model, processor, published, tmp_path / "reference")
    del tensors["model.visual_model.mask_decoder.transformer.layers.1.norm2.bias"]
    torch.save(tensors, tmp_path / "reference" / "pytorch_model.bin")
    with pytest.raises(UserError, match="1 tensors are missing: model.visual_model.*norm2.bias"):
        load_model(tmp_path / "reference")


def test_rejection_tokens_are_appended_to_an_original_checkpoint(published, tmp_path):
    """Original LISA has `[SEG]`, `<im_start>` and `<im_end>` only."""
    model, processor, _ = load_model(published.original, **published.flags(system="LISA"))
    tensors = reference_copy(model, processor, published, tmp_path / "reference")
    rows = len(published.tensors["lm_head.weight"])
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = tensors[name][: rows + 3].clone()
    torch.save(tensors, tmp_path / "reference" / "pytorch_model.bin")
    added = {"[SEG]": rows, "<im_start>": rows + 1, "<im_end>": rows + 2}
    (tmp_path / "reference" / "added_tokens.json").write_text(json.dumps(added))
    (tmp_path / "reference" / "tokenizer_config.json").unlink()
    again, other, report = load_model(tmp_path / "reference")
    assert other.tokenizer.rej_token_ids == (rows + 3,)
    assert report.new_tokens == 1
    assert torch.equal(again.lm_head.weight[: rows + 3], tensors["lm_head.weight"])


def test_a_reference_pixellm_gets_the_reference_interpolation(published, tmp_path):
    """Its table is rebuilt from OpenAI's weights at every start, off by one place; the decoder learned with that."""
    overrides = PIXELLM | {"resize_vision_tower": True, "resize_vision_tower_size": 112}
    model, processor, _ = load_model(published.original, **published.flags(system="PixelLM", overrides=overrides))
    export_reference(model, processor, tmp_path / "reference", vision_tower=str(published.clip))
    again, _, _ = load_model(tmp_path / "reference")
    stored, table = published.tensors[CLIP_POSITIONS], again.state_dict()[CLIP_POSITIONS]
    grid = stored[:-1].T.reshape(1, -1, 4, 4)
    grid = torch.nn.functional.interpolate(grid, (8, 8), mode="bilinear").flatten(2)[0].T
    assert torch.equal(table, torch.cat([grid, stored[-1:]]))


def test_a_consolidated_training_file_is_merged_on_the_way(published, tmp_path):
    model, _, _ = load_model(published.original, **published.flags(system="LISA"))
    tensors = {f"base_model.model.{name}": tensor.clone() for name, tensor in reference_state_dict(model).items()}
    module = "base_model.model.model.layers.1.self_attn.q_proj"
    down, up = torch.randn(4, 32), torch.randn(32, 4)
    tensors |= {f"{module}.lora_A.default.weight": down, f"{module}.lora_B.default.weight": up}
    torch.save(tensors, tmp_path / "merge.bin")
    merged, _, report = load_model(
        published.original, system="LISA", vision_tower=str(published.clip), weight=tmp_path / "merge.bin", lora_alpha=8
    )
    expected = tensors[f"{module}.weight"] + 8 / 4 * (up @ down)
    assert torch.allclose(merged.language_model.layers[1].self_attn.q_proj.weight, expected, atol=1e-6)
    assert same(merged.state_dict(), model.state_dict()) == ["language_model.layers.1.self_attn.q_proj.weight"]
    assert "LoRA merged into 1" in str(report)


@pytest.mark.parametrize("rejection", [True, False], ids=["reference", "original repository"])
@pytest.mark.parametrize("system", ["LISA", "PixelLM"])
def test_the_rows_of_a_consolidated_file_tell_its_tokens(published, tmp_path, system, rejection):
    """Original LISA and PixelLM have no `[REJ]`, so `<im_start>` follows the last `[SEG]` at once."""
    overrides = PIXELLM if system == "PixelLM" else {}
    model, processor, _ = load_model(published.original, **published.flags(system=system, overrides=overrides))
    tensors = {name: tensor.clone() for name, tensor in reference_state_dict(model).items()}
    ours = processor.tokenizer
    kept = set(range(len(ours))) - (set() if rejection else set(ours.rej_token_ids))
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = tensors[name][sorted(kept)]
    torch.save(tensors, tmp_path / "merge.bin")
    again, other, _ = load_model(published.original, weight=tmp_path / "merge.bin", **published.flags(system=system))
    theirs = other.tokenizer
    pairs = [*zip(ours.seg_token_ids, theirs.seg_token_ids, strict=True), (ours.im_end_id, theirs.im_end_id)]
    pairs.append((ours.im_start_id, theirs.im_start_id))
    assert all(torch.equal(again.lm_head.weight[new], model.lm_head.weight[old]) for old, new in pairs)
    assert again.config.tokens_per_target == model.config.tokens_per_target
    assert (ours.im_start_id == theirs.im_start_id) == rejection


# --- state dictionaries of the reference -----------------------------------------------------------------------------


def test_a_reference_state_must_be_complete_unless_partial():
    model, _ = tiny_model("UGround")
    state = reference_state_dict(model)
    del state["lm_head.weight"]
    with pytest.raises(UserError, match="1 tensors are missing: lm_head.weight"):
        load_reference_state_dict(model, state)
    load_reference_state_dict(model, state, partial=True)


def test_a_reference_state_may_lack_clip():
    model, _ = tiny_model("UGround")
    state = {n: t for n, t in reference_state_dict(model).items() if not n.startswith("model.vision_tower")}
    load_reference_state_dict(model, state)


def test_an_unknown_reference_name_is_listed_as_given():
    model, _ = tiny_model("UGround")
    state = reference_state_dict(model) | {"base_model.model.model.memory": torch.zeros(1)}
    with pytest.raises(UserError, match="not of this model: base_model.model.model.memory"):
        load_reference_state_dict(model, state)


def test_sam_of_transformers_takes_the_pth(published):
    """The file that the fixture wrote is a whole SAM: nothing is left to its default."""
    from checkpoints.names import sam_state_dict_from_original

    model, _ = tiny_model("LISA")
    sam = SamModel(GroundingConfig(sam_config=model.config.sam_config.to_dict()).sam_config)
    sam.load_state_dict(sam_state_dict_from_original(torch.load(published.sam, weights_only=True)))
