"""docs/evaluate_your_model.md, step by step as a stranger takes them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from groundscore.benchmark import load
from groundscore.commands import main
from groundscore.exchange import FORMATS
from groundscore.exchange.addresses import KINDS
from groundscore.scoring.masks import encode_mask

PAGE = (Path(__file__).parents[3] / "docs" / "evaluate_your_model.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
SPEC = "refcoco|unc|val"


@pytest.fixture
def stranger(world, tmp_path, monkeypatch):
    """A new folder with the data below `dataset`, and in it the current directory."""
    (tmp_path / "dataset").symlink_to(world)
    (tmp_path / "masks").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_of_pngs_is_exported_drawn_scored_and_compared(stranger):
    code = next(block for block in PYTHON if "items.jsonl" in block)
    assert main(["export-items", SPEC, "--data", "dataset", "--output", "items.jsonl"]) == 0

    def my_model(image, text):
        mask = np.zeros((image.height, image.width), bool)
        mask[: image.height // 2] = True
        return mask

    exec(compile(code, "page", "exec"), {"my_model": my_model})
    score = ["score", "masks", "--data", "dataset", "--split", SPEC, "--bootstrap", "50"]
    assert main([*score, "--output", "reports/mine.json"]) == 0
    assert main([*score, "--output", "reports/theirs.json"]) == 0
    assert main(["compare", "reports/mine.json", "reports/theirs.json", "--samples", "50"]) == 0

    ious = []
    for item in load(SPEC, root="dataset"):
        upper = np.zeros(item.size, bool)
        upper[: item.size[0] // 2] = True
        ious += [(upper & (mask > 0)).sum() / (upper | (mask > 0)).sum() for mask in item.masks]
    report = json.loads(Path("reports/mine.json").read_text())
    assert report["splits"][SPEC]["gIoU"] == pytest.approx(np.mean(ious), abs=1e-12)


def test_the_example_of_a_format_reads_its_files(stranger, monkeypatch):
    code = next(block for block in PYTHON if "csv_file.py" in block)
    names: dict = {}
    exec(compile(code, "page", "exec"), names)
    monkeypatch.setattr("groundscore.exchange.FORMATS", [names["CSV"], *FORMATS])
    monkeypatch.setattr("groundscore.exchange.counting.FORMATS", [names["CSV"], *FORMATS])
    lines = ["expression_id,height,width,counts"]
    for item in load(SPEC, root="dataset"):
        for number, mask in zip(item.expression_ids, item.masks, strict=True):
            counts = encode_mask(mask)["counts"].replace('"', '""')
            lines.append(f'{number},{item.size[0]},{item.size[1]},"{counts}"')
    Path("mine.csv").write_text("\n".join(lines))

    assert main(["score", "mine.csv", "--data", "dataset", "--split", SPEC, "--output", "mine.json"]) == 0
    assert json.loads(Path("mine.json").read_text())["splits"][SPEC]["gIoU"] == 1.0


def test_the_page_lists_every_format_and_every_kind_of_id():
    rows = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)

    assert rows == [*sorted((one.name for one in FORMATS), key=rows.index), *KINDS]
