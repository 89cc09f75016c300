"""Models on the hub: fetched whole, once, and only what is needed, by the real `huggingface_hub`."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import huggingface_hub.constants
import pytest

from checkpoints import hub as hub_module
from checkpoints import load_model
from checkpoints.hub import HubName, find_model
from groundscore.errors import UserError
from tests.checkpoints.hub_server import COMMIT, Hub, files_below, serve

NAME = "someone/model"
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
INDEX = json.dumps({"weight_map": {"a": SHARDS[0], "b": SHARDS[1]}}).encode()
MODEL = {
    "config.json": b'{"model_type": "llava"}',
    "tokenizer.model": b"pieces",
    "tokenizer.json": b"{}",
    "model.safetensors.index.json": INDEX,
    SHARDS[0]: b"first shard" * 1000,
    SHARDS[1]: b"second shard" * 1000,
}
USELESS = {
    "pytorch_model.bin": b"the same again",
    "README.md": b"# Model",
    "onnx/model.onnx": b"onnx",
    "photo.jpg": b"photo",
    "other/config.json": b"{}",
}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The files of `MODEL` and some that nobody needs at `NAME`; `huggingface_hub` talks to it, with an empty cache."""
    hub = Hub(NAME, MODEL | USELESS)
    with serve(hub) as address:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
        monkeypatch.setattr(
            huggingface_hub.constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            address + "/{repo_id}/resolve/{revision}/{filename}",
        )
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the library's tries
        monkeypatch.chdir(tmp_path)
        yield hub


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_only_what_is_needed_is_fetched(hub):
    assert contents(find_model(NAME, "--version")) == MODEL
    assert hub.sent == dict.fromkeys(MODEL, 1)


def test_a_whole_copy_needs_no_hub(hub):
    first = find_model(NAME, "--version")
    hub.refusal = (500, "")
    assert find_model(NAME, "--version") == first


def test_a_copy_without_a_network(hub, monkeypatch):
    first = find_model(NAME, "--version")
    HubName.parse(NAME).note.unlink()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert find_model(NAME, "--version") == first
    (first / SHARDS[1]).unlink()
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set while the cache has no complete copy"):
        find_model(NAME, "--version")


@pytest.mark.parametrize("lost", [SHARDS[1], "tokenizer.model", "model.safetensors.index.json"])
def test_an_interrupted_download_goes_on(hub, lost):
    """Whatever file an interrupted download left out is fetched by the next start, and nothing else."""
    path = find_model(NAME, "--version")
    HubName.parse(NAME).note.unlink()
    (path / lost).resolve().unlink()
    (path / lost).unlink()
    hub.sent.clear()
    assert contents(find_model(NAME, "--version")) == MODEL
    assert hub.sent == {lost: 1}


def test_what_arrived_before_the_connection_broke_is_kept(hub):
    hub.cut[SHARDS[1]] = [0] * 20
    with pytest.raises(UserError, match=r"--version someone/model: .*could not be fetched.*local copy"):
        find_model(NAME, "--version")
    hub.cut.clear()
    hub.sent.clear()
    assert contents(find_model(NAME, "--version")) == MODEL
    assert hub.sent == {SHARDS[1]: 1}


def test_a_connection_that_breaks_in_the_middle_of_a_file_goes_on_there(hub):
    hub.cut[SHARDS[0]] = [4000, 3000]
    assert contents(find_model(NAME, "--version")) == MODEL
    assert hub.sent[SHARDS[0]] == 3


def test_a_file_with_other_bytes_is_fetched_again(hub):
    hub.garbled.update({SHARDS[0]: 1, "config.json": 1})
    assert contents(find_model(NAME, "--version")) == MODEL
    hub.garbled[SHARDS[1]] = 9
    HubName.parse(NAME).note.unlink()
    shutil.rmtree(HubName.parse(NAME).storage)
    with pytest.raises(UserError, match="arrived twice with other bytes"):
        find_model(NAME, "--version")


def test_a_truncated_file_in_the_cache_is_replaced(hub):
    path = find_model(NAME, "--version")
    os.truncate(path / SHARDS[0], 10)
    assert contents(find_model(NAME, "--version")) == MODEL


def test_a_shard_that_the_hub_does_not_have(hub):
    del hub.files[SHARDS[1]]
    with pytest.raises(UserError, match=f"incomplete on the hub: it has no {SHARDS[1]}"):
        find_model(NAME, "--version")


def test_an_index_reaches_no_other_directory(hub):
    hub.files["model.safetensors.index.json"] = json.dumps({"weight_map": {"a": "../../x.safetensors"}}).encode()
    with pytest.raises(UserError, match="not a file beside it"):
        find_model(NAME, "--version")


def test_those_that_come_at_once_wait_for_one(hub, caplog):
    """A second asks while the first waits for a slow shard; both get the whole, and each file is sent once."""
    slow, found = threading.Event(), []
    hub.before = lambda name: slow.wait(20) if name == SHARDS[1] else None
    threads = [threading.Thread(target=lambda: found.append(find_model(NAME, "--version"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    while "waiting for another process" not in caplog.text:
        assert any(thread.is_alive() for thread in threads)
    slow.set()
    for thread in threads:
        thread.join()
    assert len(found) == 3 and {path.name for path in found} == {COMMIT}
    assert contents(found[0]) == MODEL
    assert hub.sent == dict.fromkeys(MODEL, 1)


def start_process(tmp_path: Path) -> subprocess.Popen:
    """A process that finds the model of the hub, in a cache below `tmp_path`, and prints where it is."""
    program = "import sys; from checkpoints.hub import find_model; print(find_model(sys.argv[1], '--version'))"
    environment = os.environ | {
        "HF_ENDPOINT": huggingface_hub.constants.ENDPOINT,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "0",
    }
    root = Path(__file__).parents[2]
    return subprocess.Popen([sys.executable, "-c", program, NAME], stdout=-1, text=True, env=environment, cwd=root)


@pytest.mark.slow
def test_two_processes_at_once(hub, tmp_path):
    started = [start_process(tmp_path) for _ in range(2)]
    said = {process.communicate()[0].strip() for process in started}
    assert [process.returncode for process in started] == [0, 0]
    assert len(said) == 1 and contents(Path(said.pop())) == MODEL
    assert hub.sent == dict.fromkeys(MODEL, 1)


@pytest.mark.slow
def test_a_process_that_is_killed_leaves_no_lock_and_keeps_whole_files(hub, tmp_path):
    asked, go_on = threading.Event(), threading.Event()

    def hold(name: str) -> None:
        if name == SHARDS[1]:
            asked.set()
            go_on.wait(60)

    hub.before = hold
    killed = start_process(tmp_path)
    assert asked.wait(60)
    waiting = start_process(tmp_path)
    killed.kill()
    go_on.set()
    said = [process.communicate(timeout=120)[0].strip() for process in (killed, waiting)]
    assert (killed.returncode, waiting.returncode) == (-signal.SIGKILL, 0)
    assert contents(Path(said[1])) == MODEL
    assert all(hub.sent[name] == 1 for name in MODEL if name not in SHARDS)


def test_a_model_in_a_folder_of_a_repository(hub):
    hub.files = {f"hf_model/13b/{name}": content for name, content in MODEL.items()} | {"config.json": b"{}"}
    found = find_model(f"{NAME}/hf_model/13b", "--version")
    assert contents(found) == MODEL and found.parts[-2:] == ("hf_model", "13b")
    with pytest.raises(UserError, match=f"no weights of a known name; what may be meant: {NAME}/hf_model/13b"):
        find_model(NAME, "--version")


def test_one_file_of_a_repository(hub):
    hub.files["checkpoints/sam.pth"] = b"tensors"
    found = find_model(f"{NAME}/checkpoints/sam.pth", "--vision_pretrained")
    assert found.read_bytes() == b"tensors" and hub.sent == {"checkpoints/sam.pth": 1}
    hub.refusal = (500, "")
    assert find_model(f"{NAME}/checkpoints/sam.pth", "--vision_pretrained") == found


def test_a_revision(hub):
    hub.revisions.add("v1")
    assert contents(find_model(f"{NAME}@v1", "--version")) == MODEL
    with pytest.raises(UserError, match=r"someone/model on the hub has no revision v2"):
        find_model(f"{NAME}@v2", "--version")


@pytest.mark.parametrize(
    "refusal, message",
    [
        ((401, "RepoNotFound"), "the hub shows no someone/model: check the name; if it is private, `hf auth login`"),
        ((403, "GatedRepo"), "is gated: accept its terms on http.*/someone/model, then `hf auth login`"),
        ((401, ""), "the hub shows no someone/model"),
        ((429, ""), "status 429: try again later"),
        ((503, ""), "status 503: try again later"),
    ],
)
def test_what_the_hub_refuses(hub, refusal, message):
    hub.refusal = refusal
    with pytest.raises(UserError, match=message) as error:
        find_model(NAME, "--vision_tower")
    assert str(error.value).startswith("--vision_tower someone/model: no such file") and "\n" not in str(error.value)


def test_no_network(hub, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"could not be fetched from the hub \(.*refused.*local copy") as error:
        find_model(NAME, "--weight")
    assert "\n" not in str(error.value)


def test_no_room(hub, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(hub_module.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match="has room for 1.0 kB; free some space, or set HF_HOME"):
        find_model(NAME, "--version")


def test_a_disk_that_fills_while_a_file_arrives(hub, monkeypatch):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", full)
    with pytest.raises(UserError, match="is full; free some space"):
        find_model(NAME, "--version")


def test_a_mistyped_path_is_not_looked_for_on_the_hub(hub, tmp_path):
    (tmp_path / "runs").mkdir()
    with pytest.raises(UserError, match=r"--version runs/quickstart/hf: no such file or directory$"):
        find_model("runs/quickstart/hf", "--version")


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "~nobody-of-this-name/model"])
def test_what_is_no_path_at_all(name):
    with pytest.raises(UserError, match="--vision_tower .* (is not a valid path|no such file)"):
        find_model(name, "--vision_tower")


def test_every_part_of_a_model_may_lie_on_the_hub(hub, published):
    hub.files = files_below(published.original, "llava") | files_below(published.clip, "clip")
    hub.files["sam.pth"] = published.sam.read_bytes()
    parts = {"vision_tower": f"{NAME}/clip", "vision_pretrained": f"{NAME}/sam.pth"}
    found = load_model(f"{NAME}/llava", system="LISA", **parts)[0].state_dict()
    expected = load_model(published.original, system="LISA", **published.flags())[0].state_dict()
    assert all(found[name].equal(tensor) for name, tensor in expected.items())
