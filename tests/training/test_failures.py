"""What goes wrong around training ends it with a word on what it was, and leaves the last checkpoint."""

import os

import pytest

from checkpoints.runs import LATEST, find_checkpoint, read_position
from tests.training.toys import result_of, start_toy, toy_run


def last_step(run_dir) -> int:
    return read_position(find_checkpoint(run_dir / LATEST)).step


@pytest.mark.parametrize(("processes", "name"), [(1, "SIGINT"), (2, "SIGTERM")])
def test_a_signal_to_one_process_saves_after_the_step_and_ends_all(tmp_path, processes, name):
    whole = toy_run(tmp_path / "whole", processes=processes, workers=1)
    stopped = start_toy(tmp_path / "cut", processes=processes, workers=1, trouble=[processes - 1, 3, name])
    codes, outputs = stopped.finish()
    assert set(codes) == {0}, outputs
    assert result_of(outputs[0])["step"] == last_step(tmp_path / "cut") == 3
    rest = toy_run(tmp_path / "cut", processes=processes, workers=1, resume=True)
    assert whole.pop("seen")[0][-4:] == rest.pop("seen")[0]
    assert rest == whole


@pytest.mark.parametrize("processes", [1, 2])
def test_a_signal_while_training_pauses_saves_what_was_not_saved_yet(tmp_path, processes):
    options = {"processes": processes, "save_interval": 100}
    whole = toy_run(tmp_path / "whole", **options)
    codes, outputs = start_toy(tmp_path / "cut", **options, trouble=[processes - 1, 2, "SIGTERM in the pause"]).finish()
    assert set(codes) == {0}, outputs
    assert result_of(outputs[0])["step"] == last_step(tmp_path / "cut") == 2
    rest = toy_run(tmp_path / "cut", **options, resume=True)
    assert whole.pop("seen")[0][-8:] == rest.pop("seen")[0]
    assert rest == whole


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        ([1, 0, "die"], ["at the start", "another process died"]),
        ([1, 3, "die"], ["step 3, micro-batch", "another process died"]),
        ([1, 3, "no space"], ["the checkpoint could not be written", "free some space"]),
        ([1, 1, "worker dies"], ["another process died"]),  # at the start or in a micro-batch, whichever comes first
    ],
)
def test_a_process_that_fails_does_not_leave_the_other_waiting(tmp_path, trouble, words):
    codes, (first, second) = start_toy(
        tmp_path, processes=2, workers=1, wait=True, timeout=4.0, trouble=trouble
    ).finish(30)
    assert codes[0] == 2 and codes[1] != 0, first + second
    for word in words:
        assert word in first
    assert "Traceback" not in first
    if trouble[1] == 3:
        assert last_step(tmp_path) == 2


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        ([0, 2, "no space"], ["could not be written", "File too large", "GiB were free", "free some space"]),
        ([0, 1, "worker dies"], ["a process that reads data died", "fewer --workers"]),
    ],
)
def test_the_process_that_fails_says_why(tmp_path, trouble, words):
    codes, (output,) = start_toy(tmp_path, workers=1, trouble=trouble).finish()
    assert codes == [2], output
    for word in words:
        assert word in output
    if trouble[2] == "no space":
        assert last_step(tmp_path) == 1
        assert not [path.name for path in os.scandir(tmp_path / LATEST) if path.name.startswith(".")]


def test_a_process_that_hangs_ends_all_and_says_in_which_step(tmp_path):
    codes, (first, second) = start_toy(tmp_path, processes=2, wait=True, timeout=2.0, trouble=[1, 3, "hang"]).finish(20)
    assert 0 not in codes
    assert "step 3, micro-batch 1 of 2, forward and backward: nothing has happened for" in first
    assert "step 3: given up after" in second
    assert last_step(tmp_path) == 2


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_was_stopped_is_named_and_ended_with_the_others(tmp_path, rank):
    toy = start_toy(tmp_path, processes=2, wait=True, timeout=2.0, trouble=[rank, 3, "SIGSTOP"])
    codes, outputs = toy.finish(30)
    assert codes[rank] == -9 and codes[1 - rank] in (1, 2), outputs
    assert f"rank {rank} (process {toy.processes[rank].pid}) had been stopped by a signal" in outputs[1 - rank]
    assert last_step(tmp_path) == 2


def test_a_process_that_waits_for_data_for_ever_ends_and_says_where(tmp_path):
    codes, (output,) = start_toy(tmp_path, wait=True, timeout=2.0, trouble=[0, 2, "hang"]).finish(20)
    assert codes == [1]
    assert "step 2: nothing has happened for" in output and "step 2: given up after" in output
    assert last_step(tmp_path) == 1
