"""`merge_lora_weights.py`: from a training run to one directory."""

import sys
from types import SimpleNamespace

import pytest
import torch

import merge_lora_weights
from model.checkpoints import load_model, publishing, reference_state_dict, save_model
from tests.tiny import tiny_model
from utils.errors import UserError
from utils.training import restoring
from utils.training.lora import add_lora


@pytest.fixture
def trained(monkeypatch):
    """A model that training left behind, as `load_trained` gives it; what it was asked for is recorded."""
    asked = SimpleNamespace()

    def load_trained(path, *, precision, base, merge):
        asked.path, asked.precision, asked.base, asked.merge = path, precision, base, merge
        scores = {"ReasonSeg|val": {"gIoU": 0.25, "cIoU": 0.5}}
        model, processor = tiny_model()
        if not merge:
            add_lora(model, r=2, alpha=4, dropout=0.0, targets=["q_proj"])
        settings = {"base": {"version": "org/llava", "vision_tower": None}, "scores": scores}
        return model, processor, settings | {"precision": "fp32"}

    monkeypatch.setattr(restoring, "load_trained", load_trained)
    return asked


def test_the_merged_model_is_saved_and_read_back(trained, tmp_path, capsys):
    merge_lora_weights.main(["--weight", "run", "--save-path", str(tmp_path / "merged"), "--version", "elsewhere"])
    expected, _ = tiny_model()
    model, _, report = load_model(tmp_path / "merged")
    assert not report.new
    for name, tensor in expected.state_dict().items():
        assert model.state_dict()[name].equal(tensor), name
    assert (trained.path, trained.precision, trained.base) == ("run", "fp32", {"version": "elsewhere"})
    assert "equal bit for bit" in capsys.readouterr().out
    card = (tmp_path / "merged" / "README.md").read_text()
    assert "| base | elsewhere |" in card and "| 0.2500 | 0.5000 |" in card


def test_an_adapter_alone(trained, tmp_path, capsys):
    save_model(*tiny_model(seed=8), tmp_path / "base")
    arguments = ["--weight", "run", "--save_path", str(tmp_path / "adapter"), "--export", "adapter"]
    merge_lora_weights.main([*arguments, "--version", str(tmp_path / "base")])
    assert not trained.merge and "what was learned" in capsys.readouterr().out
    model, _, _ = load_model(tmp_path / "adapter")
    assert model.lm_head.weight.equal(tiny_model()[0].lm_head.weight)
    assert model.vision_tower.post_layernorm.weight.equal(tiny_model(seed=8)[0].vision_tower.post_layernorm.weight)


def test_a_consolidated_file_of_the_reference(published, tmp_path):
    model, _, _ = load_model(published.original, system="LISA", **published.flags())
    state = {f"base_model.model.{name}": tensor for name, tensor in reference_state_dict(model).items()}
    torch.save(state, tmp_path / "pytorch_model.bin")
    arguments = ["--weight", str(tmp_path / "pytorch_model.bin"), "--save_path", str(tmp_path / "merged")]
    with pytest.raises(UserError, match="pass --version"):
        merge_lora_weights.main(arguments)
    arguments += ["--version", str(published.original), "--vision_tower", str(published.clip), "--model_key", "lisa"]
    merge_lora_weights.main([*arguments, "--precision", "fp32"])
    assert load_model(tmp_path / "merged")[0].lm_head.weight.equal(model.lm_head.weight)


def test_the_merged_directory_goes_to_the_hub(trained, tmp_path, monkeypatch, capsys):
    sent = {}
    monkeypatch.setattr(
        publishing, "upload", lambda directory, name, private: sent.update(path=directory, name=name) or "there"
    )
    arguments = ["--weight", "run", "--save_path", str(tmp_path / "merged"), "--push_to_hub", "me/kite"]
    merge_lora_weights.main(arguments)
    assert sent == {"path": tmp_path / "merged", "name": "me/kite"}
    assert "uploaded: there" in capsys.readouterr().out
    assert "--version me/kite" in (tmp_path / "merged" / "README.md").read_text()
    with pytest.raises(UserError, match="--push_to_hub uploads a merged model"):
        merge_lora_weights.main([*arguments, "--overwrite", "--export", "adapter"])


def test_precision_is_that_of_the_saved_weights_and_buffers_stay_exact(trained, tmp_path):
    merge_lora_weights.main(["--weight", "run", "--save_path", str(tmp_path / "merged"), "--precision", "bf16"])
    model, _, _ = load_model(tmp_path / "merged", precision="bf16")
    assert model.lm_head.weight.dtype == torch.bfloat16
    assert model.policy.reward_mean.dtype == torch.float32
    assert model.lm_head.weight.equal(tiny_model()[0].lm_head.weight.bfloat16())


def test_the_references_layout(trained, tmp_path):
    base, processor = tiny_model()
    base.vision_tower.save_pretrained(tmp_path / "clip")
    target = tmp_path / "exported"
    arguments = ["--weight", "run", "--save_path", str(target), "--export", "reference"]
    merge_lora_weights.main([*arguments, "--vision_tower", str(tmp_path / "clip")])
    model, _, report = load_model(target)
    assert report.kind == "reference checkpoint"
    for name, tensor in base.state_dict().items():
        assert model.state_dict()[name].equal(tensor), name


def test_what_is_there_is_kept_unless_asked(trained, tmp_path):
    save_model(*tiny_model(seed=5), tmp_path / "merged")
    arguments = ["--weight", "run", "--save_path", str(tmp_path / "merged")]
    with pytest.raises(UserError, match="--overwrite"):
        merge_lora_weights.main(arguments)
    merge_lora_weights.main([*arguments, "--overwrite"])
    assert load_model(tmp_path / "merged")[0].lm_head.weight.equal(tiny_model()[0].lm_head.weight)


def test_a_tensor_that_reads_back_differently_is_an_error(trained, tmp_path, monkeypatch):
    real = merge_lora_weights.checksums
    results = iter([{}, {"lm_head.weight": 0}])
    monkeypatch.setattr(merge_lora_weights, "checksums", lambda tensors: {**real(tensors), **next(results)})
    with pytest.raises(UserError, match=r"1 of \d+ tensors read back differently \(lm_head.weight"):
        merge_lora_weights.main(["--weight", "run", "--save_path", str(tmp_path / "merged")])


def test_help_needs_no_torch(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SystemExit) as done:
        merge_lora_weights.main(["--help"])
    assert done.value.code == 0
    assert "--save_path" in capsys.readouterr().out
