"""What docs/service.md shows works: its curl lines against a running service, its fields, errors and variables."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import app
from inference.service.messages import FormQuestion, Question
from tests.inference.service.services import GivenWords, photo, running

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/service.md").read_text(encoding="utf-8")
BLOCK = next(block for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) if "curl" in block)
LINES = re.split(r"\n(?=curl|printf)", BLOCK.strip())


@pytest.fixture(scope="module")
def url():
    with running(GivenWords("It is [SEG].")) as server:
        yield server.url


def test_the_page_has_lines_for_every_address():
    assert len(LINES) == 6
    assert {path for line in LINES for path in re.findall(r"/v1/\w+", line)} == {
        "/v1/health",
        "/v1/model",
        "/v1/ground",
    }


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on PATH")
@pytest.mark.parametrize("line", LINES, ids=[line[:60] for line in LINES])
def test_a_line_of_curl_is_answered(url, tmp_path, line):
    (tmp_path / "photo.jpg").write_bytes(photo(form="JPEG"))
    assert "http://127.0.0.1:7860" in line
    done = subprocess.run(
        ["bash", "-c", line.replace("http://127.0.0.1:7860", url)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    if "ground" in line:
        assert '"answer":"It is [SEG]."' in done.stdout and "counts" in done.stdout
        assert ("event: text" in done.stdout) == ("stream=true" in line)
        assert ("png" in done.stdout) == ("formats=png" in line)
    else:
        assert '"status":"ready"' in done.stdout or '"system":"UGround"' in done.stdout


def test_every_field_and_every_error_is_described():
    assert set(re.findall(r"`(\w+)`", PAGE.split("| Field |")[1].split("\n\n")[0])) >= set(Question.model_fields)
    assert set(Question.model_fields) == set(FormQuestion.model_fields)
    told = set(re.findall(r"\b\d{3}\b", PAGE.split("| Status |")[1].split("\n\n")[0]))
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "inference/service").glob("*.py")]
    raised = set(re.findall(r"Refused\(\s*(\d{3})", "".join(sources)))
    assert len(raised) > 8 and told == raised - {"500"}


def test_the_variables_of_the_page_are_flags():
    known = {f"UGROUND_{action.dest.upper()}" for action in app.build_parser()._actions}
    named = set(re.findall(r"UGROUND_\w+", PAGE))
    assert len(named) > 6 and named <= known
