"""The service against its own description: schemathesis makes requests from it, good ones and bad ones, and judges the
answers: their status, type, headers and content, and whether bad requests and those without a key are refused. Whether
good ones are accepted is left out: no description says which bytes are an image."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.inference.service.services import KEY, GivenWords, running

SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")


@pytest.mark.skipif(not SCHEMATHESIS.exists(), reason="schemathesis is not installed: ./build.sh --dev")
def test_every_answer_is_as_the_description_says(tmp_path):
    with running(GivenWords("It is [SEG]."), None, "--api_key", KEY) as server:
        done = subprocess.run(
            [
                *(SCHEMATHESIS, "run", f"{server.url}/v1/openapi.json", "--seed", "1", "--max-examples", "20"),
                *("--phases", "examples,coverage,fuzzing", "--checks", "all", "--no-color", "--warnings", "off"),
                *("--exclude-checks", "positive_data_acceptance", "--header", f"Authorization: Bearer {KEY}"),
            ],
            cwd=tmp_path,  # it may leave files
            env={**os.environ, "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=600,
        )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
