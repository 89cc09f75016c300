"""The tasks for lmms-eval: their YAML files, and where it is installed a run of its own dummy model."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from groundscore.benchmark import load
from groundscore.exchange.counting import count_predictions
from groundscore.exchange.mask_files import slug
from groundscore.scoring.masks import encode_mask

FOLDER = Path(__file__).parents[2] / "groundscore" / "integrations" / "lmms_eval"
TASKS = sorted(path for path in FOLDER.glob("*.yaml") if path.name != "groundscore.yaml")
SPEC = "ReasonSeg|val"


class _Loader(yaml.SafeLoader):
    """Reads `!function` as the name."""


_Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


def read(path):
    content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    include = content.pop("include", None)
    return (read(FOLDER / include) if include else {}) | content


def test_every_task_is_named_after_its_split_and_listed_in_the_group():
    tasks = [read(path) for path in TASKS]

    assert [task["task"] for task in tasks] == [f"groundscore_{slug(task['dataset_name'])}" for task in tasks]
    assert [f"{slug(task['dataset_name'])}.yaml" for task in tasks] == [path.name for path in TASKS]
    assert set(read(FOLDER / "groundscore.yaml")["task"]) == {task["task"] for task in tasks}
    assert {task["dataset_name"].split("|")[0] for task in tasks} == {
        "ReasonSeg", "refcoco", "refcoco+", "refcocog", "grefcoco",
    }  # fmt: skip


@pytest.mark.parametrize("path", TASKS, ids=lambda path: path.stem)
def test_every_function_that_a_task_names_exists(path):
    text = json.dumps(read(path))
    named = set(re.findall(r"groundscore\.integrations\.lmms_eval\.task\.(\w+)", text))
    tree = ast.parse((FOLDER / "task.py").read_text(encoding="utf-8"))
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    defined |= {
        name.id
        for node in tree.body
        if isinstance(node, ast.Assign)
        for name in ast.walk(node.targets[0])
        if isinstance(name, ast.Name)
    }

    assert len(named) >= 6
    assert named <= defined


@pytest.mark.slow
def test_the_dummy_model_of_lmms_eval_runs_and_its_log_is_scored(world, tmp_path):
    pytest.importorskip("lmms_eval", reason="lmms-eval is an extra of groundscore")
    benchmark = load(SPEC, root=world)
    command = [sys.executable, "-m", "lmms_eval", "--model", "dummy", "--model_args", "response=Nothing of that kind."]
    command += ["--tasks", f"groundscore_{slug(SPEC)}", "--include_path", str(FOLDER), "--batch_size", "1"]
    command += ["--log_samples", "--output_path", str(tmp_path / "logs")]
    environment = os.environ | {"GROUNDSCORE_DATA": str(world), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    environment["PYTHONPATH"] = os.pathsep.join([str(FOLDER.parents[2]), os.environ.get("PYTHONPATH", "")])

    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert run.returncode == 0, run.stderr[-3000:]
    (results,) = (tmp_path / "logs").rglob("*results.json")
    scores = json.loads(results.read_text())["results"][f"groundscore_{slug(SPEC)}"]
    report = count_predictions(tmp_path / "logs", {SPEC: benchmark})[SPEC].report(bootstrap=0)
    assert (scores["gIoU,none"], scores["cIoU,none"]) == (0.0, 0.0)
    assert report.splits[SPEC]["gIoU"] == 0.0
    assert report.splits[SPEC]["rejected"] == len(benchmark)
    assert report.splits[SPEC]["protocol"]["answer"] == "generated"


@pytest.mark.slow
def test_a_response_with_the_right_mask_scores_one(world, monkeypatch):
    pytest.importorskip("lmms_eval", reason="lmms-eval is an extra of groundscore")
    from groundscore.integrations.lmms_eval import task

    monkeypatch.setenv(task.ROOT, str(world))
    documents = list(task._documents(load("grefcoco|unc|val", root=world)))
    answers = []
    for doc in documents:
        mask = task.benchmark_of(doc["split"])[doc["item"]].masks[doc["expression"]]
        answers.append(f"It is {json.dumps(encode_mask(mask))}." if mask.any() else "null")

    results = [task.process_results(doc, [answer]) for doc, answer in zip(documents, answers, strict=True)]

    for name, aggregate in (("gIoU", task.giou), ("cIoU", task.ciou), ("N_acc", task.n_acc), ("T_acc", task.t_acc)):
        assert aggregate([result[name] for result in results]) == 1.0
    assert task.doc_to_visual(documents[0])[0].size == (documents[0]["width"], documents[0]["height"])
    assert "run-length" in task.doc_to_text(documents[0], {"post_prompt": " run-length {height}"})
