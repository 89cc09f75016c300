"""The Dockerfile: linted, made of build.sh's steps, and run by a user who may write to nothing but the data and runs.

No image is built here. hadolint parses and lints it; the rest is read from its instructions.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_environment import run, tracked_files

ROOT = Path(__file__).resolve().parents[1]


def instructions() -> list[tuple[str, str]]:
    """The keyword and the arguments of each instruction, comments left out and continuations joined."""
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#")).replace("\\\n", " ")
    return [tuple(line.strip().split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def arguments_of(keyword: str) -> list[str]:
    return [arguments for name, arguments in instructions() if name == keyword]


def run_commands() -> list[list[str]]:
    """The commands of all RUN instructions, as words."""
    return [shlex.split(command) for arguments in arguments_of("RUN") for command in re.split(r"&&|\|\||;", arguments)]


def is_ignored(path: str) -> bool:
    """Whether .dockerignore keeps a path out of the image: one of its patterns is the path or a folder above it."""
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.strip().rstrip("/")
        if not pattern or pattern.startswith("#"):
            continue
        assert not re.search(r"[!?\[\\]", pattern), f".dockerignore: this test cannot read {pattern}"
        parts = re.split(r"(\*\*/|\*)", pattern)
        regex = "".join({"**/": "(.*/)?", "*": "[^/]*"}.get(part, re.escape(part)) for part in parts)
        if re.fullmatch(f"{regex}(/.*)?", path):
            return True
    return False


def test_hadolint_accepts_the_dockerfile():
    hadolint = ROOT / ".venv/bin/hadolint"
    if not hadolint.is_file():
        pytest.skip("hadolint is not installed: ./build.sh --dev")
    result = run(hadolint, "Dockerfile")
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_base_image_has_a_python_that_build_sh_takes():
    defaults = dict(argument.split("=", 1) for argument in arguments_of("ARG"))
    (image,) = arguments_of("FROM")
    image = re.sub(r"\$\{(\w+)\}", lambda match: defaults[match[1]], image)
    version = re.fullmatch(r"python:(\d+)\.(\d+)-\w+", image)
    assert version, f"{image}: no official image of one Python version"
    assert (int(version[1]), int(version[2])) >= (3, 11)


def test_what_is_copied_exists_and_is_not_ignored():
    for arguments in arguments_of("COPY"):
        *sources, target = shlex.split(arguments)
        assert sources and target in (".", "./")
        for source in sources:
            assert (ROOT / source).exists(), f"COPY {source}"
            assert source == "." or not is_ignored(source), f".dockerignore leaves out {source}"


def test_build_sh_finds_the_files_that_it_reads_when_it_runs():
    """They are copied before it, so that a changed source does not install everything again."""
    order = [(name, arguments) for name, arguments in instructions() if name in ("COPY", "RUN")]
    build = order.index(("RUN", "./build.sh"))
    copied = {word for name, arguments in order[:build] for word in arguments.split() if name == "COPY"}
    text = (ROOT / "build.sh").read_text(encoding="utf-8").replace("requirements-dev", "")
    assert copied - {"./"} == {"build.sh", *re.findall(r"requirements\.txt", text)}


def test_packages_come_from_build_sh_only():
    programs = [command[0] for command in run_commands()]
    assert programs.count("./build.sh") == 1
    assert set(programs) <= {"./build.sh", "mkdir", "chown"}, "build.sh is the list of what is installed"


def test_scripts_that_it_calls_exist_and_know_their_flags():
    start = [re.findall(r'"([^"]*)"', arguments) for arguments in arguments_of("CMD")]
    assert start == [["python", "app.py"]]
    for command in run_commands():
        if command[0].startswith("./"):
            assert os.access(ROOT / command[0], os.X_OK), command[0]
            described = run(command[0], "--help").stdout
            assert all(flag in described for flag in command[1:] if flag.startswith("-")), command


def test_the_build_of_torch_is_an_argument_that_build_sh_reads():
    names = [arguments.split("=")[0] if keyword == "ARG" else arguments for keyword, arguments in instructions()]
    argument = "UGROUND_TORCH_INDEX_URL"
    assert names.index("${BASE_IMAGE}") < names.index(argument) < names.index("./build.sh")  # of this stage
    assert argument in run("./build.sh", "--help").stdout


def test_it_runs_as_a_user_without_rights_who_may_write_data_and_runs():
    *_, user = arguments_of("USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), "a number, which needs no entry in /etc/passwd"
    (given,) = [command for command in run_commands() if command[0] == "chown"]
    assert given[1] == user
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert all(f"/{folder}/" in ignored for folder in given[2:])  # what programs write, git does not track


def test_the_image_has_every_tracked_file_and_nothing_that_git_ignores():
    assert {name for name in tracked_files() if is_ignored(name)} <= {".ci/run"}
    for line in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines():
        path = line.strip("/").replace("*", "name")
        assert is_ignored(path), f".dockerignore lets {line} into the image"
        if not line.startswith("/"):
            assert is_ignored(f"some/folder/{path}") or path.startswith("."), line
    assert is_ignored(".git/config") and is_ignored(".venv/bin/python")


@pytest.fixture
def read_only_checkout() -> Iterator[Path]:
    """build.sh, requirements.txt and an environment that meets them, in a folder that may only be read."""
    folder = Path(tempfile.mkdtemp())
    try:
        for name in ("build.sh", "requirements.txt"):
            shutil.copy(ROOT / name, folder)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / ".venv"], check=True, timeout=60)
        (packages,) = folder.glob(".venv/lib/python*/site-packages")
        (packages / "packages.pth").write_text(sysconfig.get_paths()["purelib"])
        for path in (*folder.rglob("*"), folder):
            if not path.is_symlink():
                path.chmod(0o555 if path.is_dir() or path.name == "build.sh" else 0o444)
        yield folder
    finally:
        for path in (folder, *folder.rglob("*")):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o755)
        shutil.rmtree(folder)


def build_as_a_user(folder: Path) -> subprocess.CompletedProcess:
    """Runs build.sh of a folder without a home; where root runs the tests, without root's right to write anywhere."""
    drop = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    if drop and (shutil.which("setpriv") is None or run(*drop, "test", "-w", folder / ".venv").returncode == 0):
        pytest.skip("root may write everywhere")
    return run(*drop, folder / "build.sh", env={"PATH": os.environ["PATH"]})


def test_build_sh_uses_an_environment_that_it_may_not_write(read_only_checkout):
    done = build_as_a_user(read_only_checkout)
    assert done.returncode == 0, done.stderr
    assert "nothing to do" in done.stdout and "ready" in done.stdout
    assert not list(read_only_checkout.glob(".venv/.*"))


def test_build_sh_says_what_an_environment_lacks_that_it_may_not_write(read_only_checkout):
    requirements = read_only_checkout / "requirements.txt"
    requirements.chmod(0o644)
    requirements.write_text("no-such-package>=1\ntorch>=2\n")
    done = build_as_a_user(read_only_checkout)
    assert done.returncode == 2
    assert "no-such-package>=1" in done.stderr and "cannot be written" in done.stderr
