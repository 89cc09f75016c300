"""`--weight`: what `zero_to_fp32` leaves is taken, in a file or a directory; what is easily taken for it is named."""

import json
from pathlib import Path

import pytest
import torch

from checkpoints import load_model, reference_state_dict
from checkpoints.consolidated import find_weight
from checkpoints.files import read_config
from groundscore.errors import UserError
from merge_lora_weights import main as merge
from tests.checkpoints.test_loading import PIXELLM
from tests.checkpoints.test_loading import same as differing


def write_shards(directory: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """As `zero_to_fp32` of DeepSpeed 0.15.3 and newer does: a directory that is named like a file."""
    directory.mkdir(parents=True)
    names = sorted(tensors)
    shards = [f"pytorch_model-{number:05}-of-00002.bin" for number in (1, 2)]
    weight_map = {name: shards[index % 2] for index, name in enumerate(names)}
    for shard in shards:
        torch.save({name: tensors[name].clone() for name in names if weight_map[name] == shard}, directory / shard)
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return directory


@pytest.fixture(scope="module")
def trained(published, tmp_path_factory):
    """A LISA in the form of a training of the reference: its state, and the directory of its shards."""
    model, _, _ = load_model(published.original, **published.flags(system="LISA"))
    tensors = {f"base_model.model.{name}": tensor for name, tensor in reference_state_dict(model).items()}
    return model.state_dict(), write_shards(tmp_path_factory.mktemp("trained") / "out" / "pytorch_model.bin", tensors)


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return found.keys() == expected.keys() and all(found[name].equal(tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("parent", [False, True], ids=["the directory", "what was given to zero_to_fp32"])
def test_a_directory_of_shards(published, trained, parent):
    expected, directory = trained
    weight = directory.parent if parent else directory
    options = {"system": "LISA", "vision_tower": str(published.clip), "weight": weight}
    assert same(load_model(published.original, **options)[0].state_dict(), expected)


def test_a_directory_of_shards_is_merged(published, trained, tmp_path, capsys):
    expected, directory = trained
    flags = ["--version", str(published.original), "--vision_tower", str(published.clip), "--model_key", "LISA"]
    merge(["--weight", str(directory), "--save_path", str(tmp_path / "merged"), "--precision", "fp32", *flags])
    assert same(load_model(tmp_path / "merged")[0].state_dict(), expected)
    assert "answers as the run does" in capsys.readouterr().out


def test_a_llava_hf_base_keeps_its_own_settings(published, trained, tmp_path):
    """Its LLM is described below `text_config`, its tokens and its CLIP are its own."""
    config = read_config(published.hf)
    config["text_config"] |= {"rms_norm_eps": 3e-5, "max_position_embeddings": 777}
    config["text_config"]["rope_parameters"] = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}
    base = tmp_path / "base"
    base.mkdir()
    for file in published.hf.iterdir():
        (base / file.name).symlink_to(file)
    (base / "config.json").unlink()
    (base / "config.json").write_text(json.dumps(config))
    model, processor, _ = load_model(base, system="LISA", weight=trained[1])
    text = model.config.text_config
    assert (text.rms_norm_eps, text.max_position_embeddings) == (3e-5, 777)
    assert text.rope_parameters == config["text_config"]["rope_parameters"]
    assert text.vocab_size == len(processor.tokenizer) == len(trained[0]["lm_head.weight"])
    assert same(model.state_dict(), trained[0])


def raw_deepspeed(directory: Path) -> Path:
    (directory / "global_step500").mkdir(parents=True)
    (directory / "latest").write_text("global_step500")
    for file in ("mp_rank_00_model_states.pt", "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"):
        torch.save({"module": {}}, directory / "global_step500" / file)
    return directory


@pytest.mark.parametrize(
    "name, message",
    [
        ("out/pytorch_model.bin/pytorch_model-00001-of-00002.bin", "is one shard of several; pass the directory"),
        ("out/pytorch_model.bin/pytorch_model.bin.index.json", "is the index of shards, not weights; pass the dir"),
        ("ckpt_model", "DeepSpeed that this program did not write.*zero_to_fp32.py .*ckpt_model OUT"),
        ("ckpt_model/global_step500", "DeepSpeed that this program did not write.*zero_to_fp32.py .*ckpt_model OUT"),
        ("ckpt_model/global_step500/mp_rank_00_model_states.pt", "zero_to_fp32.py .*ckpt_model OUT"),
        ("nothing.bin", "no such file"),
    ],
)
@pytest.mark.parametrize("program", ["load", "merge"])
def test_what_is_no_consolidated_file(published, trained, tmp_path, name, message, program):
    (tmp_path / "out").symlink_to(trained[1].parent)
    raw_deepspeed(tmp_path / "ckpt_model")
    with pytest.raises(UserError, match=message) as error:
        if program == "load":
            find_weight(tmp_path / name)
        else:
            base = ["--version", str(published.original), "--model_key", "LISA"]
            merge(["--weight", str(tmp_path / name), "--save_path", str(tmp_path / "merged"), *base])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["", "global_step500", "global_step500/mp_rank_00_model_states.pt"])
def test_a_training_checkpoint_of_deepspeed_is_no_version(tmp_path, name):
    raw_deepspeed(tmp_path / "ckpt_model")
    with pytest.raises(
        UserError, match="--version .*did not write.*zero_to_fp32.py .*ckpt_model OUT, then pass --weight"
    ):
        load_model(tmp_path / "ckpt_model" / name)


def test_the_run_of_the_reference(tmp_path):
    raw_deepspeed(tmp_path / "run" / "best_ckpt_model")
    with pytest.raises(UserError, match="did not write .*zero_to_fp32.py .*best_ckpt_model OUT"):
        merge(["--weight", str(tmp_path / "run"), "--save_path", str(tmp_path / "merged")])


def test_models_are_versions(published):
    with pytest.raises(UserError, match="is the directory of a model; pass it as --version"):
        find_weight(published.hf)


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
    assert differing(merged.state_dict(), model.state_dict()) == ["language_model.layers.1.self_attn.q_proj.weight"]
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
