"""The repository's scaffolding: shell scripts, the installed packages, and what must not be in tracked files."""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def tracked_files() -> list[str]:
    """Files in git or about to be, relative to the root; found by walking where there is no git."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listing = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError):
        skipped = {".git", ".venv", "runs", "dataset", "build", "vis_output"}
        found = (path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file())
        return sorted(str(path) for path in found if path.parts[0] not in skipped and "__pycache__" not in path.parts)
    return sorted({name for name in listing.split("\0") if name and (ROOT / name).is_file()})


def shell_scripts() -> list[str]:
    """All but the recipes, which `test_scripts.py` looks at."""
    names = [name for name in tracked_files() if name.endswith(".sh") or name == ".ci/run"]
    return [name for name in names if "common.sh" not in name + (ROOT / name).read_text(encoding="utf-8")]


def run(*command, **arguments):
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=30, **arguments
    )


@pytest.mark.parametrize("script", shell_scripts())
def test_shell_scripts_are_executable_and_strict(script):
    text = (ROOT / script).read_text(encoding="utf-8")
    assert os.access(ROOT / script, os.X_OK), f"chmod +x {script}"
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "\nset -euo pipefail\n" in text


@pytest.mark.parametrize("script", shell_scripts())
def test_shell_scripts_parse(script):
    result = run("bash", "-n", script)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("script", shell_scripts())
def test_shell_scripts_pass_shellcheck(script):
    shellcheck = ROOT / ".venv/bin/shellcheck"
    if not shellcheck.is_file():
        pytest.skip("shellcheck is not installed: ./build.sh --dev")
    result = run(shellcheck, script)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("script", shell_scripts())
def test_shell_scripts_explain_themselves(script):
    result = run(ROOT / script, "--help")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("Usage: ./")


def test_build_refuses_an_unknown_option():
    result = run("./build.sh", "--no-such-option")
    assert result.returncode == 2
    assert "--no-such-option" in result.stderr and "--help" in result.stderr


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this machine may have a GPU")
def test_build_refuses_flash_attention_without_a_gpu():
    result = run("./build.sh", "--flash-attn")
    assert result.returncode == 2
    assert "NVIDIA GPU" in result.stderr and "SDPA" in result.stderr


def test_build_says_which_python_is_missing(tmp_path):
    shutil.copy(ROOT / "build.sh", tmp_path)
    (tmp_path / "bin").mkdir()
    for tool in ("bash", "dirname"):
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
    result = run(tmp_path / "build.sh", env={"PATH": str(tmp_path / "bin")})
    assert result.returncode == 2
    assert "no Python 3.11 or newer on PATH" in result.stderr
    assert not (tmp_path / ".venv").exists()


def test_build_asks_uv_once_for_everything(tmp_path):
    shutil.copy(ROOT / "build.sh", tmp_path)
    for name, needed in {"": "torch>=2", "-dev": "pytest", "-dev-nodeps": "ruff"}.items():
        (tmp_path / f"requirements{name}.txt").write_text(f"{needed}\n")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / ".venv"], check=True, timeout=60)
    (packages,) = tmp_path.glob(".venv/lib/python*/site-packages")
    (packages / "packages.pth").write_text(sysconfig.get_paths()["purelib"])
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/uv").write_text(f'#!/usr/bin/env bash\necho "$*" >>{tmp_path}/asked\n')
    (tmp_path / "bin/uv").chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PATH"] = f"{tmp_path}/bin:{os.environ['PATH']}"

    done = run(tmp_path / "build.sh", "--dev", env=environment)
    assert done.returncode == 0, done.stderr
    _, once, apart = (tmp_path / "asked").read_text().splitlines()
    assert once.endswith("-r requirements.txt -r requirements-dev.txt") and "bytecode" not in once
    assert apart.endswith("--no-deps -r requirements-dev-nodeps.txt")

    again = run(tmp_path / "build.sh", "--dev", env=environment)
    assert again.stdout.count("nothing to do") == 2
    (packages.parent.parent.parent / ".stamp-base").unlink()
    run(tmp_path / "build.sh", env=environment | {"PYTHONDONTWRITEBYTECODE": "1"})
    assert "--compile-bytecode" in (tmp_path / "asked").read_text().splitlines()[-1]


def test_build_leaves_a_foreign_directory_alone(tmp_path):
    shutil.copy(ROOT / "build.sh", tmp_path)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "thesis.txt").write_text("years of work")
    result = run(tmp_path / "build.sh")
    assert result.returncode == 2
    assert "not a virtual environment" in result.stderr
    assert (tmp_path / ".venv" / "thesis.txt").read_text() == "years of work"


def test_torchvision_is_not_installed():
    assert importlib.util.find_spec("torchvision") is None, "remedy: .venv/bin/python -m pip uninstall torchvision"


def test_requirements_name_no_build_and_no_place():
    for path in sorted(ROOT.glob("requirements*.txt")):
        for line in path.read_text(encoding="utf-8").splitlines():
            requirement = line.split("#")[0].strip()
            assert not requirement.startswith("-"), f"{path.name}: {line}"
            assert "+" not in requirement and "/" not in requirement and "@" not in requirement, f"{path.name}: {line}"
            assert not requirement.startswith("torchvision")


# Written in pieces, so that this file does not name what it forbids.
MACHINE_PATHS = ["/" + name + "/" for name in ("root", "home/[a-z]+", "Users/[A-Za-z]+", "opt/wheels", "work", "mnt")]
REGISTRY_HOSTS = [
    name.replace("-", r"\.") for name in ("pypi-org", "pythonhosted-org", "download-pytorch-org", "anaconda-org")
]


@pytest.mark.parametrize("pattern", MACHINE_PATHS + REGISTRY_HOSTS)
def test_no_machine_path_or_registry_host_is_tracked(pattern):
    start = "(^|[^A-Za-z0-9_.~-])" if pattern.startswith("/") else ""
    result = run("git", "grep", "-nIE", start + pattern)
    if result.returncode > 1:
        pytest.skip("not a git checkout")
    assert result.stdout == ""
