"""`merge_lora_weights.py`: from a training run to one directory."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import chat
import merge_lora_weights
from checkpoints import load_model, merging, reference_state_dict, saving
from checkpoints.processing import GroundingProcessor
from checkpoints.runs import LATEST, resolve_checkpoint
from checkpoints.runs.restoring import load_trained
from groundscore.errors import UserError
from model.config import GroundingConfig
from model.grounding import GroundingModel
from model.systems import SYSTEMS
from tests.checkpoints import trained_run
from tests.checkpoints.trained_run import merge, rewrite_marker, write_run
from tests.tiny import tiny_config, tiny_model, tiny_tokenizer
from training.arguments import parse_arguments
from training.resuming import describe_run, keep_gate

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_merged_model_is_the_run_with_lora_added(system, tmp_path, capsys):
    run = write_run(tmp_path, *tiny_model(system))
    expected = load_trained(run, merge=True)[0].state_dict()
    model, _, report = load_model(merge(run))
    assert not report.new
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], msg=name)
    said = capsys.readouterr().out
    assert "equal bit for bit" in said
    assert "answers as the run does" in said and "same token 100 %, mask IoU 100.0" in said


def test_what_nobody_trained_and_no_file_has_is_drawn_as_in_training(published, tmp_path):
    """The mask projector of `--separate_mm_projector` is new and frozen: only the seed tells what it was."""
    model, processor, _ = load_model(published.original, system="LISA", **published.flags())
    flags = [*("--version", str(published.original), "--vision_tower", str(published.clip))]
    flags += ["--vision_pretrained", str(published.sam), "--separate_mm_projector", "--seed", "3"]
    run = write_run(tmp_path, model, processor, *flags, precision="bf16")
    expected = load_trained(run, precision="bf16", merge=False)[0].state_dict()
    found = load_model(merge(run, "--no_check"), precision="bf16")[0].state_dict()
    name = "out_mm_projector.0.weight"
    assert found[name].abs().sum() > 0 and found[name].equal(expected[name])


def test_the_card_tells_of_base_and_scores(run):
    entry = {"step": 3, "epoch": 1, "splits": {"ReasonSeg|val": {"gIoU": 0.25, "cIoU": 0.5}}}
    (run / "scores.json").write_text(json.dumps({"best": None, "evaluations": [entry]}))
    card = (merge(run, "--no_check") / "README.md").read_text()
    assert "| base | base |" in card and "| 25.0 | 50.0 |" in card


def test_settings_can_be_changed_while_merging(tmp_path):
    run = write_run(tmp_path, *tiny_model("READ"))
    settings = {"read_num_points": 7, "map_geometry": "reference", "conv_type": "vicuna_v1"}
    flags = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    _, processor, _ = load_model(merge(run, *flags))
    config = load_model(tmp_path / "merged")[0].config
    assert {name: getattr(config, name) for name in settings} == settings
    assert processor.conv_type == "vicuna_v1"
    with pytest.raises(UserError, match="only READ has that setting"):
        merge(write_run(tmp_path / "other", *tiny_model("LISA")), "--read_num_points", "7")


@pytest.mark.parametrize("layout", ["uground", "reference", "adapter"])
@pytest.mark.parametrize("gate", ["normalized", "reference"])
def test_the_gate_s_form_goes_with_the_weights(gate, layout, tmp_path):
    model, processor = tiny_model()
    run = write_run(tmp_path, model, processor, "--gate", gate)
    model.vision_tower.save_pretrained(run.parent / "clip")
    tower = ["--vision_tower", str(run.parent / "clip")]
    target = merge(run, "--export", layout, *(tower if layout == "reference" else []))
    assert load_model(target)[0].config.gate == gate


def test_a_run_of_the_time_when_the_gate_had_one_form_keeps_it(published, tmp_path, monkeypatch):
    """From a LLaVA base, on which training starts with the new form today."""
    model, processor, _ = load_model(published.original, system="UGround", **published.flags())
    assert model.config.gate == "normalized"

    def describe_as_then(*arguments):
        settings = describe_run(*arguments)
        del settings["model"]["gate"], settings["flags"]["gate"], settings["flags"]["policy_lr"]
        return settings

    monkeypatch.setattr(trained_run, "describe_run", describe_as_then)
    flags = ["--version", str(published.original), "--vision_tower", str(published.clip)]
    run = write_run(tmp_path, model, processor, *flags, "--vision_pretrained", str(published.sam))
    assert load_trained(run)[0].config.gate == "reference"
    assert load_model(merge(run))[0].config.gate == "reference"
    kept = keep_gate(parse_arguments([]), resolve_checkpoint(run))
    assert kept.gate == "reference" and kept.policy_lr is None
    with pytest.raises(UserError, match="--gate normalized: .* has reference"):
        keep_gate(parse_arguments(["--gate", "normalized"]), resolve_checkpoint(run))


def test_a_run_without_lora(tmp_path):
    run = write_run(tmp_path, *tiny_model(), "--lora_r", "0")
    expected = load_trained(run)[0].state_dict()
    found = load_model(merge(run))[0].state_dict()
    assert all(tensor.equal(expected[name]) for name, tensor in found.items())
    with pytest.raises(UserError, match="there is no adapter to save"):
        merge(run, "--overwrite", "--export", "adapter")


def test_a_base_that_has_moved(run):
    (run.parent / "base").rename(run.parent / "elsewhere")
    with pytest.raises(UserError, match="base"):
        merge(run)
    merge(run, "--version", str(run.parent / "elsewhere"))


def test_an_adapter_alone(run, capsys):
    expected = load_trained(run, merge=True)[0].state_dict()
    model, _, _ = load_model(merge(run, "--export", "adapter"))
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], msg=name)
    said = capsys.readouterr().out
    assert "what was trained on" in said and "answers as the run does" in said


def test_a_consolidated_file_of_the_reference(published, tmp_path, capsys):
    model, _, _ = load_model(published.original, system="LISA", **published.flags())
    state = {f"base_model.model.{name}": tensor for name, tensor in reference_state_dict(model).items()}
    weight = tmp_path / "pytorch_model.bin"
    torch.save(state, weight)
    with pytest.raises(UserError, match="pass --version"):
        merge(weight)
    arguments = ["--version", str(published.original), "--vision_tower", str(published.clip), "--model_key", "lisa"]
    target = merge(weight, *arguments, "--precision", "fp32")
    assert load_model(target)[0].lm_head.weight.equal(model.lm_head.weight)
    assert "answers as the run does" in capsys.readouterr().out
    with pytest.raises(UserError, match="only a training run has an adapter"):
        merge(weight, *arguments, "--overwrite", "--export", "adapter")


def test_the_merged_directory_goes_to_the_hub(run, monkeypatch, capsys):
    sent = {}
    monkeypatch.setattr(
        saving, "upload", lambda directory, name, private: sent.update(path=directory, name=name) or "there"
    )
    target = merge(run, "--push_to_hub", "me/kite", "--no_check")
    assert sent == {"path": target, "name": "me/kite"}
    assert "uploaded: there" in capsys.readouterr().out
    assert "--version me/kite" in (target / "README.md").read_text()
    with pytest.raises(UserError, match="--push_to_hub uploads a merged model"):
        merge(run, "--push_to_hub", "me/kite", "--overwrite", "--export", "adapter")


def test_precision_is_that_of_the_saved_weights_and_buffers_stay_exact(run):
    expected = load_trained(run, merge=True)[0]
    model, _, _ = load_model(merge(run, "--precision", "bf16"), precision="bf16")
    assert model.policy.reward_mean.dtype == torch.float32
    assert model.lm_head.weight.equal(expected.lm_head.weight.bfloat16())
    projection = "language_model.layers.1.self_attn.q_proj.weight"  # merged in fp32, rounded once
    assert model.state_dict()[projection].equal(expected.state_dict()[projection].bfloat16())


def test_the_references_layout(run, capsys):
    expected = load_trained(run, merge=True)[0]
    expected.vision_tower.save_pretrained(run.parent / "clip")
    target = merge(run, "--export", "reference", "--vision_tower", str(run.parent / "clip"))
    model, _, report = load_model(target)
    assert report.kind == "reference checkpoint"
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, msg=name)
    assert "answers as the run does" in capsys.readouterr().out


def test_a_merge_that_answers_differently_is_an_error(run, monkeypatch):
    real = merging.probe

    def other_logits(model, processor, layers=None):
        found = real(model, processor, layers)
        return found if layers is None else merging.Probe(found.logits * 1.01, found.masks, found.layers)

    monkeypatch.setattr(merging, "probe", other_logits)
    with pytest.raises(UserError, match="does not answer as the run did: logits differ by 1.0e-02"):
        merge(run)


def test_a_trained_tensor_that_the_checkpoint_lacks_is_an_error(run):
    file = next(run.glob("ckpt_model/global_step3/mp_rank_00_model_states.pt"))
    states = torch.load(file)
    del states["module"]["lm_head.weight"]
    torch.save(states, file)
    rewrite_marker(file.parent)
    with pytest.raises(UserError, match=r"1 trained tensors are missing: \['lm_head.weight'\]"):
        merge(run)


@pytest.mark.parametrize("file", ["mp_rank_00_model_states.pt", "settings.json", "complete.json"])
@pytest.mark.parametrize("program", ["merging", "evaluating"])
def test_one_changed_byte_of_a_checkpoint_is_refused(run, file, program):
    path = run / LATEST / "global_step3" / file
    content = path.read_bytes()
    place = content.index(b"3") if file == "complete.json" else len(content) // 2
    path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    with pytest.raises(UserError, match=f"{file} is damaged"):
        merge(run) if program == "merging" else load_trained(run)


def test_another_lora_alpha_in_the_settings_is_refused(run):
    path = run / LATEST / "global_step3" / "settings.json"
    path.write_text(path.read_text().replace('"lora_alpha": 8', '"lora_alpha": 9'))
    with pytest.raises(UserError, match="settings.json is damaged"):
        merge(run)


MEASURE = """
import sys
import merge_lora_weights, checkpoints.merging, checkpoints.quantizing, peft, transformers
def peak(): return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) * 1024
before = peak()
merge_lora_weights.main(sys.argv[1:])
print("PEAK", peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is measured as Linux tells it")
def test_peak_memory_is_near_one_copy_of_the_weights(tmp_path):
    model, processor = wide_model()
    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    assert size > 250e6
    run = write_run(tmp_path, model, processor)
    command = [sys.executable, "-c", MEASURE, "--weight", str(run), "--save_path", str(tmp_path / "merged")]
    done = subprocess.run(
        [*command, "--no_check"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    peak = int(done.stdout.split("PEAK")[1])
    print(f"{peak / size:.2f} copies of the weights")
    assert peak < 1.5 * size


def wide_model():
    """A model of which the LLM's linear layers are nearly everything, as in a real one."""
    config = tiny_config("LISA").to_dict()
    config["text_config"] |= {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 8}
    model = GroundingModel(GroundingConfig.from_dict(config))
    return model, GroundingProcessor(model.config, tiny_tokenizer())


def test_help_needs_no_torch(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SystemExit) as done:
        merge_lora_weights.main(["--help"])
    assert done.value.code == 0
    assert "--save_path" in capsys.readouterr().out


def test_the_card_shows_examples_and_scores_and_its_command_works(run, tmp_path, monkeypatch, capsys):
    photo = tmp_path / "IMG 1.png"
    Image.fromarray(np.full((30, 40, 3), 99, np.uint8)).save(photo)
    (tmp_path / "q.jsonl").write_text('{"image": "IMG 1.png", "prompt": "Where\'s the kite?"}\n')
    report = {"splits": {"ReasonSeg|val": {"gIoU": 0.25, "gIoU_ci95": [0.2, 0.3], "protocol": {"answer": "given"}}}}
    (tmp_path / "r.json").write_text(json.dumps(report))
    monkeypatch.chdir(tmp_path)
    flags = ["--weight", str(run), "--save_path", "out/hf", "--examples", "q.jsonl", "--report", "r.json"]
    merge_lora_weights.main([*flags, "--no_check"])

    card = Path("out/hf/README.md").read_text()
    assert "25.0 (20.0–30.0)" in card
    (picture,) = re.findall(r"!\[.*\]\((.*)\)", card)
    assert Image.open(Path("out/hf", picture)).width > 600
    command = next(line for line in card.splitlines() if line.startswith("python chat.py"))
    capsys.readouterr()
    chat.main([*shlex.split(command)[2:], "--device", "cpu", "--max_new_tokens", "4"])
    assert capsys.readouterr().out.strip()

    merge_lora_weights.main([*flags, "--no_check", "--overwrite"])
    Path("out/hf/examples/mine.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="examples was changed after it was written"):
        merge_lora_weights.main([*flags, "--no_check", "--overwrite"])
