"""The log of a run, by processes that write, are killed, and share a file."""

import os
import select
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from utils.log_pump import LineFilter
from utils.logging import add_memo, claim_log, keep_log, newest_launch

ROOT = Path(__file__).parents[2]


def lines_of(*pieces: bytes) -> list[str]:
    kept = LineFilter()
    return [line for piece in pieces for line in kept.feed(piece)] + kept.finish()


def test_a_redrawn_line_is_kept_in_its_last_state():
    assert lines_of(b"\rload:  50%|# | 1/2", b"\rload: 100%|##| 2/2\n", b"next\n") == ["load: 100%|##| 2/2", "next"]


def test_bars_that_did_not_finish_are_left_out_but_for_the_one_at_the_end():
    assert lines_of(b"a:  10%|# |\nb\n", b"\rc:  30%|# |") == ["b", "c:  30%|# |"]


def test_windows_line_ends_colours_and_split_characters_do_no_harm():
    letter = "ü".encode()
    assert lines_of(b"one\r", b"\n\x1b[31mred\x1b[0m\n", letter[:1], letter[1:] + b"\n") == ["one", "red", "ü"]


def test_blank_lines_do_not_follow_each_other():
    assert lines_of(b"\n\na\n\n\n\nb\n") == ["a", "", "b"]


def test_a_line_without_end_is_cut_not_kept_in_memory():
    kept = LineFilter()
    for _ in range(40):
        kept.feed(b"x" * 10_000)
    assert len(kept.pending) < 100_000


def write_script(tmp_path: Path, body: str) -> Path:
    """A program that logs to tmp_path/run and then runs `body`."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import os, sys, time
            from pathlib import Path
            sys.path.insert(0, {str(ROOT)!r})
            from utils.logging import OutputLog, claim_log
            output = OutputLog()
            print("before the log has a name")
            """
        )
        + textwrap.dedent(body)
    )
    return script


def run_script(script: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, timeout=60)


def log_text(run_dir: Path, *, ends_with: str) -> str:
    """The newest log; the process that writes it may need a moment after a kill."""
    for _ in range(100):
        text = (run_dir / "meta.log").read_text()
        if ends_with in text:
            break
        time.sleep(0.05)
    return text


def test_everything_is_in_the_log_and_still_on_the_screen(tmp_path):
    run_dir = tmp_path / "run"
    script = write_script(
        tmp_path,
        f"""
        output.keep(claim_log(Path({str(run_dir)!r})), prefix="[3] ", header=["the header"])
        print("said by python")
        os.write(2, b"said by a library\\n")
        os.system("echo said by a child")
        raise RuntimeError("said at last")
        """,
    )
    done = run_script(script)
    text = (run_dir / "meta.log").read_text()
    assert done.returncode == 1
    assert text.startswith("the header\n")
    for words in ("before the log has a name", "said by python", "said by a library", "said by a child"):
        assert f"[3] {words}\n" in text
    assert "[3] RuntimeError: said at last\n" in text
    assert "[3] ended after 0:00:" in text.splitlines()[-1]
    assert done.stdout.splitlines() == ["before the log has a name", "said by python", "said by a child"]
    assert done.stderr.startswith("said by a library\nTraceback")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_what_was_said_before_a_kill_is_in_the_log(tmp_path, number):
    run_dir = tmp_path / "run"
    script = write_script(
        tmp_path,
        f"""
        output.keep(claim_log(Path({str(run_dir)!r})))
        print("the last words")
        os.killpg(os.getpgid(0), {int(number)})
        time.sleep(30)
        """,
    )
    killed = subprocess.run([sys.executable, script], capture_output=True, timeout=60, start_new_session=True)
    assert killed.returncode == -number
    text = log_text(run_dir, ends_with="without an error message")
    assert "the last words\n" in text
    assert text.splitlines()[-1].endswith("the process ended without an error message: killed, or out of memory?")


def test_a_screen_that_goes_away_does_not_stop_the_log(tmp_path):
    run_dir = tmp_path / "run"
    script = write_script(
        tmp_path,
        f"""
        output.keep(claim_log(Path({str(run_dir)!r})))
        sys.stdin.read()
        for number in range(3):
            print("line", number)
        """,
    )
    process = subprocess.Popen([sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.readline()
    process.stdout.close()
    process.stdin.close()
    assert process.wait(60) == 0
    assert [line[15:] for line in (run_dir / "meta.log").read_text().splitlines()[1:4]] == [
        "line 0",
        "line 1",
        "line 2",
    ]


def test_training_outlives_the_process_that_keeps_the_log_and_keeps_it_itself(tmp_path):
    run_dir = tmp_path / "run"
    script = write_script(
        tmp_path,
        f"""
        output.keep(claim_log(Path({str(run_dir)!r})))
        print("before")
        time.sleep(0.2)
        os.kill(output.pump.pid, 9)
        for number in range(5000):
            print("line", number)
        os.system("echo said by a child")
        """,
    )
    done = run_script(script)
    expected = ["before", *(f"line {number}" for number in range(5000)), "said by a child"]
    assert done.returncode == 0 and done.stdout.splitlines()[1:] == expected
    assert done.stderr.count("the process that writes the log ended") == done.stderr.count("\n") == 1
    logged = [line[15:] for line in (run_dir / "meta.log").read_text().splitlines()]
    assert [line for line in logged if line in expected] == expected
    assert logged[-1].startswith("ended after 0:00:")


def test_the_last_word_comes_after_that_of_the_launcher(tmp_path):
    script = write_script(
        tmp_path,
        """
        from utils.processes import ProcessId
        output.leave_last_word("all is saved", [ProcessId.of(int(sys.argv[1]))])
        print("done")
        """,
    )
    launcher = subprocess.Popen(["sleep", "60"])
    process = subprocess.Popen([sys.executable, script, str(launcher.pid)], stdout=subprocess.PIPE, text=True)
    assert process.wait(60) == 0
    assert [process.stdout.readline() for _ in range(2)] == ["before the log has a name\n", "done\n"]
    assert not select.select([process.stdout], [], [], 0.2)[0]
    launcher.kill()
    assert process.stdout.read() == "all is saved\n"
    launcher.wait()


@pytest.mark.parametrize("place", ["missing/run.log", "full"])
def test_a_log_that_cannot_be_written_is_said_once_and_ends_nothing(tmp_path, place):
    (tmp_path / "full").symlink_to("/dev/full")
    script = write_script(
        tmp_path,
        f"""
        output.keep(Path({str(tmp_path / place)!r}), header=["header"])
        for number in range(3):
            print("line", number)
        """,
    )
    done = run_script(script)
    assert done.returncode == 0 and done.stdout.splitlines()[1:] == ["line 0", "line 1", "line 2"]
    assert done.stderr.count("the log can no longer be written") == done.stderr.count("\n") == 1


def test_processes_share_a_log_line_by_line(tmp_path):
    path = tmp_path / "shared.log"
    script = write_script(
        tmp_path,
        f"""
        output.keep(Path({str(path)!r}), prefix=f"[{{sys.argv[1]}}] ")
        for number in range(300):
            print(f"process {{sys.argv[1]}} line {{number}}", flush=True)
        """,
    )
    processes = [subprocess.Popen([sys.executable, script, str(n)], stdout=subprocess.DEVNULL) for n in (0, 1)]
    assert [process.wait(60) for process in processes] == [0, 0]
    lines = [line[15:] for line in path.read_text().splitlines()]
    for rank in (0, 1):
        told = [line for line in lines if line.startswith(f"[{rank}] process")]
        assert told == [f"[{rank}] process {rank} line {number}" for number in range(300)]


def test_every_launch_has_a_log_of_its_own_and_meta_log_leads_to_the_newest(tmp_path):
    assert newest_launch(tmp_path) == 0
    first, second = claim_log(tmp_path), claim_log(tmp_path)
    assert [first.name, second.name] == ["meta_1.log", "meta_2.log"]
    assert os.readlink(tmp_path / "meta.log") == "meta/meta_2.log"
    (tmp_path / "meta" / "meta_9").mkdir()
    assert claim_log(tmp_path).name == "meta_10.log"


def test_a_note_is_one_line_that_names_its_launch(tmp_path):
    add_memo(tmp_path, 2, "with more\n layers")
    add_memo(tmp_path, 3, "again")
    assert [line[18:] for line in (tmp_path / "memo.log").read_text().splitlines()] == [
        "meta_2.log  with more layers",
        "meta_3.log  again",
    ]


class OtherMachine:
    """The third process of a run whose main process is on another machine and has claimed launch 4."""

    is_main, rank, size = False, 3, 8

    def broadcast(self, value):
        return "meta_4.log", "first-machine"


def test_every_machine_writes_a_file_of_its_own(tmp_path):
    kept = []
    output = SimpleNamespace(keep=lambda path, **options: kept.append((path, options["prefix"])))
    assert keep_log(output, tmp_path, OtherMachine(), command="") == 4
    assert kept == [(tmp_path / "meta" / f"meta_4.{socket.gethostname()}.log", "[3] ")]
