"""Files of a user in the place of results are never replaced."""

import json
import resource
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from groundscore.errors import UserError
from groundscore.scoring.report import refuse_foreign_report
from utils.contact_sheet import refuse_foreign_image, save_sheet


@pytest.mark.parametrize("content", ["{}", "[]", "notes", '{"images": [], "annotations": []}'])
def test_a_json_file_that_is_no_report_is_refused(tmp_path, content):
    path = tmp_path / "instances.json"
    path.write_text(content)
    with pytest.raises(UserError, match="instances.json exists and is not a report"):
        refuse_foreign_report(path)


def test_a_report_and_what_a_killed_evaluation_left_are_replaced(tmp_path):
    path = tmp_path / "report.json"
    refuse_foreign_report(path)
    path.with_suffix(".md").write_text("# report\n\n| a |\n")
    refuse_foreign_report(path)
    path.write_text(json.dumps({"splits": {}, "protocol": {}}))
    refuse_foreign_report(path)


def test_a_page_of_a_user_beside_the_report_is_refused(tmp_path):
    (tmp_path / "README.md").write_text("# My project\n")
    with pytest.raises(UserError, match="README.md exists"):
        refuse_foreign_report(tmp_path / "README.json")


def test_a_sheet_replaces_a_sheet_and_no_other_image(tmp_path):
    sheet, path = Image.fromarray(np.zeros((4, 4, 3), np.uint8)), tmp_path / "sheet.png"
    for _ in range(2):
        save_sheet(sheet, path)
    assert Image.open(path).size == (4, 4)
    photo = Path(tmp_path / "photo.png")
    sheet.save(photo)
    before = photo.read_bytes()
    with pytest.raises(UserError, match="photo.png exists and is not a contact sheet"):
        save_sheet(sheet, photo)
    with pytest.raises(UserError, match="photo.png exists"):
        refuse_foreign_image(photo)
    assert photo.read_bytes() == before


def test_a_sheet_is_written_whole_or_not_at_all(tmp_path):
    sheet, limits = Image.fromarray(np.zeros((4, 4, 3), np.uint8)), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))  # bytes that a file may have, as on a full disk
    try:
        with pytest.raises(UserError, match="sheet.png cannot be written .File too large"):
            save_sheet(sheet, tmp_path / "sheet.png")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not any(tmp_path.iterdir())
