"""Checkpoints of the reference: loaded as they are published, exported as they went in; their state dictionaries."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import SamModel

from checkpoints import export_reference, hub, load_model, load_reference_state_dict, reference_state_dict, save_model
from checkpoints.adapting import CLIP_POSITIONS
from checkpoints.architecture import original_read_fields
from groundscore.errors import UserError
from model.config import GroundingConfig
from model.systems import SYSTEMS
from tests.checkpoints.test_loading import PIXELLM, same
from tests.tiny import tiny_model


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
    assert (again.config.clip_image_size, processor.backbone_images.grid) == (448, (16, 16))
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
    """Its table is rebuilt from OpenAI's weights at every start, off by one row; the decoder was trained with that."""
    overrides = PIXELLM | {"resize_vision_tower": True, "resize_vision_tower_size": 112}
    model, processor, _ = load_model(published.original, **published.flags(system="PixelLM", overrides=overrides))
    export_reference(model, processor, tmp_path / "reference", vision_tower=str(published.clip))
    again, _, _ = load_model(tmp_path / "reference")
    stored, table = published.tensors[CLIP_POSITIONS], again.state_dict()[CLIP_POSITIONS]
    grid = stored[:-1].T.reshape(1, -1, 4, 4)
    grid = torch.nn.functional.interpolate(grid, (8, 8), mode="bilinear").flatten(2)[0].T
    assert torch.equal(table, torch.cat([grid, stored[-1:]]))


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
