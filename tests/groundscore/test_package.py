"""groundscore as a package of its own: its wheel has all of it, and needs neither this repository nor torch."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest

from groundscore.scoring.masks import encode_mask
from groundscore.splits import evaluation_set

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "groundscore"
PROJECT = tomllib.loads((PACKAGE / "pyproject.toml").read_text())
BLOCKED = ("torch", "transformers", "gradio", "deepspeed", "evaluation", "utils", "dataloaders", "model")
IMPORT_ALL = f"""
import importlib, pkgutil, sys
for name in {BLOCKED}:
    sys.modules[name] = None  # importing it fails
import groundscore
names = [one.name for one in pkgutil.walk_packages(groundscore.__path__, "groundscore.")]
for name in names:
    if not name.endswith("__main__") and ".integrations" not in name:
        importlib.import_module(name)
print(groundscore.load, groundscore.Item, len(names))
"""


def run(*command: object, **options) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": "", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, **options)
    assert done.returncode == 0, done.stderr
    return done


def files_of_the_package() -> set[str]:
    """What belongs into the wheel: modules and data, by their paths in it."""
    found = {path.relative_to(ROOT).as_posix() for path in PACKAGE.rglob("*") if path.is_file()}
    found = {name for name in found if not re.search(r"/build/|\.egg-info/", name)}
    return {name for name in found if re.search(r"(\.(py|json|yaml|txt)|_yaml|DATA\.md)$", name)}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy: building leaves its traces beside the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in (*files_of_the_package(), "groundscore/pyproject.toml", "groundscore/README.md"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((ROOT / name).read_bytes())
    code = "from setuptools import build_meta; print(build_meta.build_wheel('..'))"
    run(sys.executable, "-c", code, cwd=folder / "groundscore")
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory) -> Path:
    """The Python of a new environment with the wheel, and of the other packages those that the wheel asks for."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    (site,) = folder.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    for requirement in PROJECT["project"]["dependencies"]:
        files = importlib.metadata.files(re.match(r"[\w-]+", requirement)[0])
        for top in {file.parts[0] for file in files} - {"..", "__pycache__"}:
            (site / top).symlink_to(Path(sysconfig.get_path("purelib")) / top)
    return folder / "bin" / "python"


def test_the_wheel_has_every_module_and_data_file(wheel):
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if not name.startswith("groundscore-")}

    assert inside == files_of_the_package()


def test_everything_imports_without_torch_and_without_this_repository(python, tmp_path):
    assert "function load" in run(python, "-c", IMPORT_ALL, cwd=tmp_path).stdout


def test_what_an_error_of_the_installed_command_points_to_is_there(python, tmp_path):
    command = [python, "-m", "groundscore", "score", "p.jsonl", "--data", tmp_path, "--split", "ReasonSeg|val"]
    said = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": ""}
    ).stderr

    (command,) = re.findall(r"`python -m (groundscore \w+)`", said)
    assert "ReasonSeg" in run(python, "-m", *command.split(), cwd=tmp_path).stdout


def test_the_installed_command_scores_as_eval_does(python, world, tmp_path):
    spec = "refcoco|unc|val"
    rng = np.random.default_rng(0)
    path = tmp_path / "predictions.jsonl"
    with path.open("w") as file:
        for item in evaluation_set(spec, world):
            for expression, mask in enumerate(item.masks):
                drawn = np.roll(mask, rng.integers(-9, 9, 2), (0, 1))
                line = {"split": spec, "image": item.path_below(world), "expression": expression, "present": True}
                file.write(json.dumps(line | {"mask": encode_mask(drawn)}) + "\n")

    command = PROJECT["project"]["scripts"]["groundscore"].replace(":", " import ")
    start = f"import sys; sys.argv[0] = 'groundscore'; from {command}; run()"
    said = run(python, "-c", start, "score", path, "--data", world, "--split", spec, "--output", tmp_path / "ours.json",
               cwd=tmp_path)  # fmt: skip
    eval_flags = [
        "--predictions",
        path,
        "--dataset_dir",
        world,
        "--val_dataset",
        spec,
        "--output",
        tmp_path / "eval.json",
    ]
    without_torch = "import sys; sys.modules['torch'] = None; import eval; sys.exit(eval.main(sys.argv[1:]))"
    run(sys.executable, "-c", without_torch, *eval_flags, cwd=ROOT)

    ours, theirs = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("ours", "eval"))
    assert ours["splits"] == theirs["splits"] and 0 < ours["splits"][spec]["gIoU"] < 1
    assert ours["protocol"] == theirs["protocol"]
    assert (tmp_path / "ours.rows.jsonl").read_text() == (tmp_path / "eval.rows.jsonl").read_text()
    assert "gIoU" in said.stdout


@pytest.mark.slow
def test_pip_installs_it_from_its_folder(wheel, tmp_path):
    """With the package registry, as a user does."""
    venv.create(tmp_path / "new", with_pip=True)
    run(tmp_path / "new/bin/pip", "install", "--quiet", wheel)

    assert "score predictions" in run(tmp_path / "new/bin/groundscore", "--help", cwd=tmp_path).stdout
    assert "function load" in run(tmp_path / "new/bin/python", "-c", IMPORT_ALL, cwd=tmp_path).stdout
