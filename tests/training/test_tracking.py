"""Which code a launch ran: recorded, compared, and brought back, without leading out of any folder."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from groundscore.errors import UserError
from utils.tracking.__main__ import main
from utils.tracking.history import MANIFEST, difference, launch_directory, read_manifest, restore
from utils.tracking.snapshot import code_files, record_launch


@pytest.fixture
def project(tmp_path) -> Path:
    root = tmp_path / "project"
    (root / "model").mkdir(parents=True)
    (root / "runs").mkdir()
    (root / "model" / "policy.py").write_text("LAYERS = 3\n")
    (root / "train.sh").write_text("echo train\n")
    (root / "train.sh").chmod(0o755)
    (root / "runs" / "not_code.py").write_text("")
    return root


@pytest.fixture
def run_dir(tmp_path) -> Path:
    return tmp_path / "runs" / "exp"


def record(run_dir: Path, project: Path, launch: int, **settings) -> dict:
    return record_launch(run_dir, launch, project, command="train_ds.py", settings=settings, world_size=1)


def stored(run_dir: Path, launch: int) -> set[str]:
    files = launch_directory(run_dir, launch) / "files"
    return {path.relative_to(files).as_posix() for path in files.rglob("*") if path.is_file()}


def test_a_later_launch_stores_only_what_changed(project, run_dir):
    record(run_dir, project, 1)
    (project / "model" / "policy.py").write_text("LAYERS = 5\n")
    record(run_dir, project, 2)
    (project / "model" / "policy.py").write_text("LAYERS = 3\n")
    record(run_dir, project, 3)
    assert stored(run_dir, 1) == {"model/policy.py", "train.sh"}
    assert stored(run_dir, 2) == {"model/policy.py"}
    assert stored(run_dir, 3) == set()


def test_every_launch_comes_back_as_it_was(project, run_dir, tmp_path):
    record(run_dir, project, 1)
    (project / "model" / "policy.py").rename(project / "model" / "walker.py")
    (project / "train.sh").write_text("echo train harder\n")
    record(run_dir, project, 2)

    assert restore(run_dir, 1, tmp_path / "first") == 2
    assert (tmp_path / "first" / "model" / "policy.py").read_text() == "LAYERS = 3\n"
    assert (tmp_path / "first" / "train.sh").read_text() == "echo train\n"
    restore(run_dir, 2, tmp_path / "second")
    assert (tmp_path / "second" / "model" / "walker.py").read_text() == "LAYERS = 3\n"
    assert not (tmp_path / "second" / "model" / "policy.py").exists()
    assert (tmp_path / "second" / "train.sh").stat().st_mode & 0o100


def test_restoring_never_overwrites(project, run_dir, tmp_path):
    record(run_dir, project, 1)
    with pytest.raises(UserError, match="files are never overwritten"):
        restore(run_dir, 1, project)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="files are never overwritten"):
        restore(run_dir, 1, tmp_path / "link")
    assert (project / "model" / "policy.py").read_text() == "LAYERS = 3\n"


@pytest.mark.parametrize("path", ["../escaped.py", "/tmp/escaped.py", "model/../../escaped.py", "..\\escaped.py", ""])
@pytest.mark.parametrize("field", ["name", "stored_as"])
def test_a_manifest_cannot_lead_out_of_its_folder(project, run_dir, tmp_path, path, field):
    record(run_dir, project, 1)
    file = launch_directory(run_dir, 1) / MANIFEST
    manifest = json.loads(file.read_text())
    entry = manifest["files"].pop("train.sh")
    manifest["files"] |= {path: entry} if field == "name" else {"train.sh": {**entry, "stored_as": path}}
    file.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="is outside"):
        restore(run_dir, 1, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_a_link_in_the_store_is_not_followed_out_of_the_run(project, run_dir, tmp_path):
    record(run_dir, project, 1)
    kept = launch_directory(run_dir, 1) / "files" / "train.sh"
    kept.unlink()
    (tmp_path / "secret").write_text("echo train\n")
    kept.symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match="is outside the run"):
        restore(run_dir, 1, tmp_path / "target")


def test_a_link_in_the_run_is_not_followed_when_no_place_is_named(project, run_dir, tmp_path):
    record(run_dir, project, 1)
    (run_dir / "restored").symlink_to(tmp_path)
    with pytest.raises(UserError, match="is outside the run; choose a new folder with --to"):
        main(["restore", "1", "--run", str(run_dir)])
    assert not (tmp_path / "meta_1").exists()


@pytest.mark.parametrize("path", [".git/hooks/post-checkout", "model/.GIT/config"])
def test_nothing_of_git_is_restored(project, run_dir, tmp_path, path):
    record(run_dir, project, 1)
    file = launch_directory(run_dir, 1) / MANIFEST
    manifest = json.loads(file.read_text())
    manifest["files"][path] = manifest["files"].pop("train.sh")
    file.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="a file of git itself"):
        restore(run_dir, 1, tmp_path / "target")


def test_a_manifest_cannot_command_the_terminal(project, run_dir, capsys):
    record(run_dir, project, 1, version="\x1b[2J")
    file = launch_directory(run_dir, 1) / MANIFEST
    manifest = json.loads(file.read_text()) | {"command": "\x1b]0;title\x07"}
    file.write_text(json.dumps(manifest))
    for command in (["show"], ["show", "1"], ["diff", "1", "1"]):
        main([*command, "--run", str(run_dir)])
    assert "\x1b" not in capsys.readouterr().out


def test_a_changed_or_lost_copy_is_noticed(project, run_dir, tmp_path):
    record(run_dir, project, 1)
    kept = launch_directory(run_dir, 1) / "files" / "train.sh"
    kept.write_text("echo tampered\n")
    with pytest.raises(UserError, match="its hash differs"):
        restore(run_dir, 1, tmp_path / "target")
    kept.unlink()
    with pytest.raises(UserError, match="is missing"):
        restore(run_dir, 1, tmp_path / "target")
    os.mkfifo(kept)
    with pytest.raises(UserError, match="is missing"):
        restore(run_dir, 1, tmp_path / "target")


def test_a_copy_that_was_deleted_is_stored_again(project, run_dir):
    record(run_dir, project, 1)
    (launch_directory(run_dir, 1) / "files" / "train.sh").unlink()
    record(run_dir, project, 2)
    assert stored(run_dir, 2) == {"train.sh"}


def test_the_difference_names_flags_packages_and_lines(project, run_dir):
    record(run_dir, project, 1, lr=0.1, seed=1)
    (project / "model" / "policy.py").write_text("LAYERS = 5\n")
    (project / "new.py").write_text("")
    record(run_dir, project, 2, lr=0.2, seed=1)
    lines = list(difference(run_dir, 1, 2))
    assert "flags: lr  0.1 -> 0.2" in lines
    assert not any("seed" in line for line in lines)
    assert {"code: added new.py", "code: modified model/policy.py", "-LAYERS = 3", "+LAYERS = 5"} <= set(lines)


def test_git_says_what_is_code_and_what_is_not_committed(project, run_dir):
    def git(*arguments):
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        subprocess.run(["git", *identity, *arguments], cwd=project, check=True, capture_output=True)

    (project / ".gitignore").write_text("ignored.py\nruns/\n")
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "first")
    (project / "ignored.py").write_text("")
    (project / "untracked.py").write_text("")
    (project / "train.sh").write_text("echo changed\n")

    assert code_files(project) == ["model/policy.py", "train.sh", "untracked.py"]
    state = record(run_dir, project, 1)["git"]
    assert len(state["commit"]) == 40
    assert {line.split()[-1] for line in state["uncommitted"]} == {"train.sh", "untracked.py"}
    assert "+echo changed" in (launch_directory(run_dir, 1) / "uncommitted.diff").read_text()


def test_the_command_line_shows_compares_and_restores(project, run_dir, tmp_path, capsys):
    record(run_dir, project, 1, lr=0.1)
    record(run_dir, project, 2, lr=0.1)
    run = ("--run", str(run_dir))
    main(["show", *run])
    assert "launch 2" in capsys.readouterr().out
    main(["show", "1", *run])
    assert "lr" in capsys.readouterr().out
    main(["diff", "1", "2", *run])
    assert capsys.readouterr().out == "launches 1 and 2 are identical\n"
    main(["restore", "2", *run, "--to", str(tmp_path / "back")])
    assert (tmp_path / "back" / "train.sh").exists()
    with pytest.raises(UserError, match="launch 7 was not recorded; recorded are: 1, 2"):
        main(["show", "7", *run])


def test_no_secret_of_the_environment_is_recorded(project, run_dir, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "hush")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    record(run_dir, project, 1)
    assert read_manifest(run_dir, 1)["machine"]["environment"]["OMP_NUM_THREADS"] == "1"
    assert "hush" not in (launch_directory(run_dir, 1) / MANIFEST).read_text()


def test_a_folder_full_of_annotations_is_not_code(project):
    (project / "pictures").mkdir()
    for number in range(501):
        (project / "pictures" / f"{number}.json").write_text("{}")
    assert code_files(project) == ["model/policy.py", "train.sh"]


def test_a_manifest_that_a_crash_left_empty_does_not_keep_a_run_from_starting(project, run_dir, tmp_path):
    record(run_dir, project, 1)
    (launch_directory(run_dir, 1) / MANIFEST).write_text("")
    record(run_dir, project, 2)
    assert restore(run_dir, 2, tmp_path / "back") == 2
    with pytest.raises(UserError, match="is damaged"):
        restore(run_dir, 1, tmp_path / "broken")
