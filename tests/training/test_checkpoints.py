"""What a checkpoint holds, which are kept, and which one is found."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from checkpoints.runs import (
    BEST,
    LATEST,
    MARKER,
    Position,
    copy_checkpoint,
    find_checkpoint,
    is_complete,
    read_position,
    resolve_checkpoint,
    save_checkpoint,
    trained_weights,
    verify_checkpoint,
)
from checkpoints.runs.resharding import read_states
from groundscore.errors import UserError
from tests.checkpoints.trained_run import rewrite_marker
from tests.training.toys import start_toy, toy_run
from utils.distributed import World
from utils.seeding import random_state, restore_random_state, seed_everything

ALONE = World(rank=0, size=1, local_rank=0, device=torch.device("cpu"))


class FakeEngine:
    """Writes one file, as large as the step is high."""

    def save_checkpoint(self, directory: str, *, tag: str, **_) -> None:
        path = Path(directory) / tag
        path.mkdir()
        (path / "weights.pt").write_bytes(b"x" * int(tag.rpartition("step")[2]))


def fake_checkpoint(directory: Path, step: int, keep: int = 10, settings: dict | None = None) -> Path:
    position = Position(step=step, samples=2 * step, world_size=1)
    settings = settings or {}
    return save_checkpoint(FakeEngine(), directory, position=position, settings=settings, keep=keep, world=ALONE)


@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_a_checkpoint_holds_what_was_trained_and_nothing_frozen(tmp_path, zero_stage):
    result = toy_run(tmp_path, zero_stage=zero_stage)
    checkpoint = resolve_checkpoint(tmp_path)
    weights = trained_weights(checkpoint)
    assert set(weights) == {"policy.gate", "trained.weight", "trained.bias", "reward_mean"}
    assert weights["trained.weight"].flatten().tolist() == result["trained"]["weight"]
    assert weights["policy.gate"].tolist() == result["gate"]  # of the optimizer's second group
    assert read_position(checkpoint).step == 4
    assert read_position(checkpoint).samples == 16


class Foreign:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize(("zero_stage", "file"), [(0, "model_states"), (2, "model_states"), (2, "optim_states")])
def test_code_in_a_checkpoint_is_not_run(tmp_path, zero_stage, file):
    toy_run(tmp_path / "run", zero_stage=zero_stage)
    checkpoint = find_checkpoint(tmp_path / "run" / LATEST)
    path = next(checkpoint.glob(f"*{file}.pt"))
    states = read_states(path)
    states["foreign"] = Foreign(tmp_path / "was_run")
    torch.save(states, tmp_path / "new.pt")
    path = (tmp_path / "new.pt").replace(path)
    rewrite_marker(checkpoint)

    with pytest.raises(UserError, match=f"{file}.pt is refused: it asks for"):
        trained_weights(checkpoint)
    codes, (output,) = start_toy(tmp_path / "run", resume=True, zero_stage=zero_stage).finish()
    assert codes != [0] and f"{file}.pt is refused: it asks for" in output
    assert not (tmp_path / "was_run").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "was_run").exists(), "it would have been"


def test_the_baseline_stays_float32_in_bf16(tmp_path):
    assert toy_run(tmp_path, precision="bf16")["reward_mean_dtype"] == "torch.float32"


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    toy_run(tmp_path, epochs=2, keep=2)
    names = {path.name for path in (tmp_path / LATEST).glob("global_step*")}
    assert names == {"global_step3", "global_step4"}
    assert not list((tmp_path / LATEST).glob(".*"))


def test_an_incomplete_checkpoint_is_passed_over(tmp_path):
    fake_checkpoint(tmp_path, 1)
    torn = fake_checkpoint(tmp_path, 2)
    (torn / "weights.pt").write_bytes(b"")
    assert not is_complete(torn)
    assert find_checkpoint(tmp_path).name == "global_step1"


def test_the_last_save_decides_where_an_older_run_left_more_steps(tmp_path):
    fake_checkpoint(tmp_path, 100)
    fake_checkpoint(tmp_path, 3)
    assert find_checkpoint(tmp_path).name == "global_step3"
    assert (tmp_path / "latest").read_text() == "global_step3"


def test_a_process_that_dies_between_two_renames_leaves_the_checkpoint(tmp_path):
    moved = fake_checkpoint(tmp_path, 4)
    moved.rename(tmp_path / ".replaced-global_step4")
    assert read_position(find_checkpoint(tmp_path)).step == 4
    fake_checkpoint(tmp_path, 5)
    assert is_complete(tmp_path / "global_step4") and find_checkpoint(tmp_path).name == "global_step5"


def test_a_changed_byte_is_found(tmp_path):
    checkpoint = fake_checkpoint(tmp_path, 9)
    verify_checkpoint(checkpoint)
    (checkpoint / "weights.pt").write_bytes(b"x" * 8 + b"y")
    assert is_complete(checkpoint)
    with pytest.raises(UserError, match="weights.pt is damaged"):
        verify_checkpoint(checkpoint)


def test_a_marker_with_another_step_is_not_believed(tmp_path):
    checkpoint = fake_checkpoint(tmp_path, 9)
    text = (checkpoint / MARKER).read_text()
    for old, new in (('"step": 9', '"step": 8'), ('"samples": 18', '"samples": 16'), ('"save": 1', '"save": 2')):
        assert old in text
        (checkpoint / MARKER).write_text(text.replace(old, new))
        with pytest.raises(UserError, match="complete.json is damaged: its content is not what was written"):
            read_position(checkpoint)


def test_no_byte_of_a_marker_can_change_unnoticed(tmp_path):
    checkpoint = fake_checkpoint(tmp_path, 9)
    content, position = (checkpoint / MARKER).read_bytes(), read_position(checkpoint)
    for index in range(len(content)):
        (checkpoint / MARKER).write_bytes(content[:index] + bytes([content[index] ^ 1]) + content[index + 1 :])
        if is_complete(checkpoint):  # white space
            assert read_position(checkpoint) == position


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"format": 3}', b'{"format": [2]}', b"NaN"]
)
def test_a_damaged_marker_is_passed_over_with_a_word(tmp_path, capsys, content):
    fake_checkpoint(tmp_path, 1)
    newest = fake_checkpoint(tmp_path, 2)
    (newest / MARKER).write_bytes(content)
    assert find_checkpoint(tmp_path).name == "global_step1"
    said = capsys.readouterr().err
    assert said.startswith("skipped: ") and "complete.json is damaged" in said and said.count("\n") == 1
    with pytest.raises(UserError, match="complete.json is damaged"):
        resolve_checkpoint(newest)


def test_a_missing_key_makes_a_marker_incomplete(tmp_path):
    checkpoint = fake_checkpoint(tmp_path, 2)
    marker = json.loads((checkpoint / MARKER).read_text())
    for name in marker:
        (checkpoint / MARKER).write_text(json.dumps({key: value for key, value in marker.items() if key != name}))
        with pytest.raises(UserError, match=f"complete.json is damaged .{name}.* is missing"):
            read_position(checkpoint)


def test_markers_of_before_are_read_and_their_step_is_held_against_the_name(tmp_path):
    checkpoint = fake_checkpoint(tmp_path, 9)
    marker = json.loads((checkpoint / MARKER).read_text())
    del marker["blake2b"]
    (checkpoint / MARKER).write_text(json.dumps({**marker, "format": 2}))
    verify_checkpoint(checkpoint)
    assert read_position(checkpoint).samples == 18
    (checkpoint / MARKER).write_text(json.dumps({**marker, "format": 2, "step": 8}))
    assert not is_complete(checkpoint)


def test_a_copy_that_a_user_made_is_neither_found_nor_dropped(tmp_path):
    backup = tmp_path / "global_step1_backup"
    fake_checkpoint(tmp_path, 1, keep=1).rename(backup)
    fake_checkpoint(tmp_path, 2, keep=1)
    fake_checkpoint(tmp_path, 3, keep=1)
    assert is_complete(backup) and find_checkpoint(tmp_path).name == "global_step3"
    assert resolve_checkpoint(backup) == backup


def test_a_disk_without_room_leaves_the_last_checkpoint_and_no_debris(tmp_path):
    class FullDisk(FakeEngine):
        def save_checkpoint(self, directory: str, *, tag: str, **_) -> None:
            super().save_checkpoint(directory, tag=tag)
            raise OSError(errno.ENOSPC, "No space left on device")

    last = fake_checkpoint(tmp_path, 1)
    position = Position(step=2, samples=4, world_size=1)
    with pytest.raises(UserError, match="could not be written.*No space left on device.*free some space"):
        save_checkpoint(FullDisk(), tmp_path, position=position, settings={}, keep=1, world=ALONE)
    assert find_checkpoint(tmp_path) == last
    assert {path.name for path in tmp_path.iterdir()} == {"global_step1", "latest"}


def test_a_checkpoint_of_the_first_format_is_still_read(tmp_path):
    checkpoint = fake_checkpoint(tmp_path, 3)
    marker = json.loads((checkpoint / MARKER).read_text())
    sizes = {name: file["bytes"] for name, file in marker["files"].items()}
    first = {"format": 1, "step": 3, "samples": 6, "world_size": 1, "files": sizes}
    (checkpoint / MARKER).write_text(json.dumps(first))
    verify_checkpoint(checkpoint)
    assert find_checkpoint(tmp_path) == checkpoint
    assert read_position(checkpoint) == Position(step=3, samples=6, world_size=1)


def test_a_copy_is_complete_and_replaces_the_old_best(tmp_path):
    first, second = (fake_checkpoint(tmp_path / LATEST, step) for step in (1, 2))
    for checkpoint in (first, second):
        copy_checkpoint(checkpoint, tmp_path / BEST, keep=1, world=ALONE)
    assert [path.name for path in (tmp_path / BEST).glob("global_step*")] == ["global_step2"]
    assert is_complete(tmp_path / BEST / "global_step2")
    assert resolve_checkpoint(tmp_path).parent.name == BEST


def test_a_place_without_checkpoints_is_said(tmp_path):
    with pytest.raises(UserError, match="no complete training checkpoint"):
        resolve_checkpoint(tmp_path)
    with pytest.raises(UserError, match="no such checkpoint"):
        resolve_checkpoint(tmp_path / "nowhere")


def test_random_states_come_back(tmp_path):
    seed_everything(7)
    torch.save(random_state(), tmp_path / "state.pt")
    expected = torch.rand(3)
    torch.rand(5)
    restore_random_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(torch.rand(3), expected)


def test_reading_weights_is_silent(tmp_path):
    toy_run(tmp_path / "run")
    script = f"""
from pathlib import Path
from checkpoints.runs import resolve_checkpoint, trained_weights
assert trained_weights(resolve_checkpoint(Path({str(tmp_path / "run")!r})))
"""
    command, root = [sys.executable, "-c", script], Path(__file__).parents[2]
    reading = subprocess.run(command, capture_output=True, text=True, cwd=root)
    assert (reading.returncode, reading.stdout, reading.stderr) == (0, "", "")
