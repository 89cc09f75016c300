"""The app as a Hugging Face Space runs it: everything from the environment, no home, nothing that may be written but
/tmp, reachable from outside because it was asked to be."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import pytest

from tests.inference.service.services import KEY, ask, free_port
from tests.test_environment import run, tracked_files

ROOT = Path(__file__).parents[3]
NOBODY = 65534
# What runs: tests, data and docs are left out, since copying them takes a while.
SOURCES = ("app.py", "groundscore", "utils", "dataloaders", "model", "checkpoints", "inference", "evaluation")
SOURCES += ("training", "miniature", "dashboard")


def usual_port() -> int:
    """7860 as on a Space, or a free one where something of this machine has that."""
    try:
        with socket.create_server(("0.0.0.0", 7860)):
            return 7860
    except OSError:
        return free_port()


def lan_address() -> str | None:
    """An address of this machine that is not its loopback, if it has one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        try:
            line.connect(("192.0.2.1", 9))  # sends nothing
            return line.getsockname()[0]
        except OSError:
            return None


@pytest.fixture
def read_only_repository():
    """The sources in a folder that may only be read."""
    folder = Path(tempfile.mkdtemp(prefix="space-"))
    try:
        for name in tracked_files():
            if name.split("/")[0] in SOURCES and (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, folder / name)
        for path in (*folder.rglob("*"), folder):
            path.chmod(0o555 if path.is_dir() else 0o444)
        yield folder
    finally:
        for path in (folder, *folder.rglob("*")):
            if path.is_dir():
                path.chmod(0o755)
        shutil.rmtree(folder)


def as_nobody() -> list[str]:
    """Where root runs the tests: how to run without root's right to write everywhere."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("root may write everywhere, and there is no setpriv")
    words = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--bounding-set=-all"]
    if run(*words, sys.executable, "-c", "import typing_extensions").returncode != 0:
        pytest.skip("only root may read this environment")
    return words


@pytest.mark.slow
def test_the_page_and_the_service_run_as_on_a_space(read_only_repository, tmp_path):
    words, port = as_nobody(), usual_port()
    scratch = Path(tempfile.mkdtemp(prefix="space-tmp-"))
    scratch.chmod(0o777)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "TMPDIR": str(scratch),
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "SPACE_ID": "someone/uground",
        "SYSTEM": "spaces",
        "UGROUND_VERSION": "miniature/weights/llava",
        "UGROUND_VISION_TOWER": "miniature/weights/clip",
        "UGROUND_VISION_PRETRAINED": "miniature/weights/sam_miniature.pth",
        "UGROUND_MODEL_KEY": "uground",
        "UGROUND_HOST": "0.0.0.0",
        "UGROUND_PORT": str(port),
        "UGROUND_API": "beside",
        "UGROUND_TAB": "ground",
        "UGROUND_API_KEY": KEY,
        "UGROUND_EMBED_IN": "https://huggingface.co",
        "UGROUND_MAX_NEW_TOKENS": "4",
    }
    log = tmp_path / "log"
    with log.open("wb") as out:
        program = subprocess.Popen(
            [*words, sys.executable, "app.py"], cwd=read_only_repository, env=environment, stdout=out, stderr=out
        )
    try:
        url = f"http://{lan_address() or '127.0.0.1'}:{port}"
        end = time.monotonic() + 300
        while True:
            assert program.poll() is None and time.monotonic() < end, log.read_text()
            try:
                if httpx.get(f"{url}/v1/health", timeout=10).json()["status"] == "ready":
                    break
            except httpx.HTTPError:
                pass
            time.sleep(0.5)
        page = httpx.get(url, headers={"host": "someone-uground.hf.space"}, timeout=60)
        assert page.status_code == 200 and "UGround" in page.text
        assert "frame-ancestors 'self' https://huggingface.co" in page.headers["content-security-policy"]
        assert ask(url).status_code == 401
        answer = ask(url, headers={"Authorization": f"Bearer {KEY}", "host": "someone-uground.hf.space"})
        assert answer.status_code == 200 and answer.json()["size"] == [30, 44], answer.text
        program.send_signal(signal.SIGTERM)
        assert program.wait(60) == 0, log.read_text()
        assert not list(scratch.glob("uground-*"))  # nothing of the visitors is left
    finally:
        program.kill()
        program.wait()
        shutil.rmtree(scratch, ignore_errors=True)


def test_without_being_asked_nothing_listens_to_other_machines(monkeypatch):
    import app

    for name in [name for name in os.environ if name.startswith("UGROUND_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SPACE_ID", "someone/uground")
    assert app.build_parser().parse([]).host == "127.0.0.1"
