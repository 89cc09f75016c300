"""The family of docs/adding_a_data_set.md is checked, drawn from, trained on and scored by the public commands."""

import json
import os
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from tests.programs import run_program
from tests.tiny import picture, tiny_model

ROOT = Path(__file__).parents[2]


PAGE = (ROOT / "docs/adding_a_data_set.md").read_text()
(CODE,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
(COMMANDS,) = re.findall(r"```text\n(.*?)```", PAGE, re.S)
SMALL = """--log_base_dir {folder}/runs --exp_name one --epochs 1 --steps_per_epoch 1 --batch_size 1
    --grad_accumulation_steps 1 --lora_r 2 --workers 0 --device cpu"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the page's code as a plugin, its data and a tiny base model."""
    from checkpoints import save_model

    folder = tmp_path_factory.mktemp("boxes")
    (folder / "boxes_family.py").write_text(CODE)
    for split in ("train", "val"):
        entries = []
        for number in range(3):
            path = folder / "data/boxes/images" / f"{split}{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture(number, 40, 56)).save(path)
            boxes = [{"name": f"the cup {n}", "box": [4 + 8 * n, 6, 24 + 8 * n, 30]} for n in range(2)]
            entries.append({"image": f"images/{path.name}", "boxes": boxes})
        (folder / "data/boxes" / f"{split}.json").write_text(json.dumps(entries))
    save_model(*tiny_model(), folder / "base")
    return folder


def run(folder: Path, command: str, extra: str = "") -> str:
    """Run a command of the page on the folder; returns what it prints."""
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    environment |= {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    for name, path in {"DATASET_DIR": "data", "VERSION": "base", "RUN": "runs/one", "boxes.png": "boxes.png"}.items():
        command = command.replace(name, str(folder / path))
    script, *arguments = shlex.split(f"{command} {extra}".format(folder=folder))[1:]
    done = run_program(script, arguments, environment, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_family_of_the_page_is_checked_drawn_from_trained_on_and_scored(folder):
    check, draw, train, score = COMMANDS.splitlines()

    assert "present  boxes/train  train 3" in run(folder, check)
    assert run(folder, draw).count('"family": "boxes"') == 5 and (folder / "boxes.png").exists()
    run(folder, train, SMALL)
    run(folder, score, "--device cpu --output {folder}/report.json")

    scores = json.loads((folder / "runs/one/scores.json").read_text())
    report = json.loads((folder / "report.json").read_text())
    assert scores["evaluations"][0]["step"] == 1
    assert report["splits"]["boxes|val"]["images"] == 3
