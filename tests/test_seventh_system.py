"""The system of docs/adding_a_system.md, in a folder of its own: trained and used through the public commands."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import chat
from groundscore.errors import UserError
from tests.page_plugins import importable_plugins, write_plugins
from tests.tiny import tiny_model
from tests.training.test_train_ds import TRAINING, launch_environment, write_reason_seg
from training import arguments
from utils.plugins import import_plugins

ROOT = Path(__file__).parents[1]
PLUGIN = ["--plugin", "layer_mix"]
# One process for several commands: starting one costs more than what they do here. The dashboard ends after one visit.
RUN_ALL = """
import importlib, json, sys
from urllib.request import ProxyHandler, build_opener

def visit(server):
    server.context.model.wait()
    server.context.model.get()  # raises where it could not be loaded
    print("page:", build_opener(ProxyHandler({})).open(server.url).status)

for program, *arguments in json.loads(sys.argv[1]):
    print("$", program)
    if program == "app":
        importlib.import_module("dashboard.serving").Server.wait = visit
    importlib.import_module(program).main(arguments)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A user's folder: the plugin, a tiny base model without its system, and a data set."""
    from checkpoints import save_model

    folder = tmp_path_factory.mktemp("user")
    write_plugins(folder)
    write_reason_seg(folder / "dataset")
    save_model(*tiny_model("LISA"), folder / "base")
    return folder


def run(folder: Path, *commands: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", RUN_ALL, json.dumps(commands)],
        cwd=folder,
        env=launch_environment() | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_seventh_system_trains_resumes_merges_is_scored_and_talks(folder, monkeypatch):
    train = ["train_ds", *PLUGIN, "--model_key", "layermix", "--version", "base", "--dataset_dir", "dataset", *TRAINING]
    train += ["--mix_spread", "0.5", "--epochs", "1", "--steps_per_epoch", "1"]
    first = run(folder, train)
    assert first.returncode == 0, first.stderr
    assert re.search(r"newly initialised: .*mixer", first.stdout)
    settings = json.loads(next((folder / "runs/LayerMix/ckpt_model").glob("*/settings.json")).read_text())
    assert settings["flags"]["plugin"] == settings["model"]["plugin"] == "layer_mix"
    assert "mixer.logits" in settings["trained"]

    model = ["--version", "runs/LayerMix/merged", *PLUGIN]
    question = ["--image", "dataset/reason_seg/ReasonSeg/val/0.jpg", "--prompt", "Where is the red ball?"]
    done = run(
        folder,
        [*train, "--epochs", "2"],
        ["merge_lora_weights", *PLUGIN, "--weight", "runs/LayerMix", "--save_path", "runs/LayerMix/merged"],
        ["eval", *model, "--dataset_dir", "dataset", "--val_dataset", "ReasonSeg|val", "--answer", "given"],
        ["chat", *model, *question, "--mix_temperature", "2", "--max_new_tokens", "4"],
        ["chat", *PLUGIN, "--version", "runs/LayerMix", *question, "--max_new_tokens", "4"],
        ["app", *model, "--tab", "ground"],
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "step 2/2" in done.stdout and "answers as the run does" in done.stdout and "gIoU" in done.stdout
    assert "page: 200" in done.stdout
    config = json.loads((folder / "runs/LayerMix/merged/config.json").read_text())
    assert (config["system"], config["plugin"], config["mix_spread"]) == ("LayerMix", "layer_mix", 0.5)
    assert "estimator" not in config and "read_t_pos" not in config

    monkeypatch.chdir(folder)
    for version in ("runs/LayerMix/merged", "runs/LayerMix"):
        with pytest.raises(UserError, match="was made with the plugin 'layer_mix'; pass --plugin layer_mix"):
            chat.main(["--version", version, *question])


def test_help_shows_the_settings_of_a_plugin(tmp_path):
    with importable_plugins(tmp_path):
        import_plugins(PLUGIN)
        training, chatting = arguments.build_parser().format_help(), chat.build_parser().format_help()

    assert "--mix_temperature" in training and "--mix_spread" in training
    assert "--mix_temperature" in chatting and "--mix_spread" not in chatting  # which is no setting of inference
