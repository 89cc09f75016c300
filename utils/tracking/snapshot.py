"""Recording a launch: runs/<exp>/meta/meta_<N>/ holds what is needed to say what ran, and to run it again.

manifest.json          flags, command, git commit, package versions, machine, and every code file with its hash
files/                 the code files that no earlier launch of the run has stored, at their paths
uncommitted.diff       what differs from the commit, if anything
"""

import hashlib
import importlib.metadata
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from groundscore.errors import naming
from groundscore.writing import write_json
from utils.tracking.history import FILES, MANIFEST, earlier_manifests, launch_directory

FORMAT = 1
DIFF = "uncommitted.diff"
SUFFIXES = {".py", ".sh", ".toml", ".txt", ".md", ".json", ".jsonl", ".yaml", ".yml", ".cfg", ".ini"}
NOT_CODE = {"dataset", "runs", "vis_output", "node_modules", "__pycache__"}  # asked only where there is no git
LARGEST = 1 << 20  # bytes of a code file
MOST = 500  # code files in a folder; one with more holds data
VARIABLES = ("CUDA_", "NCCL_", "GLOO_", "OMP_", "MKL_", "TORCH_", "PYTORCH_", "DS_", "SLURM_JOB_ID", "SLURM_NODELIST")
GIT_SECONDS = 60


def record_launch(
    run_dir: Path, launch: int, root: Path, *, command: str, settings: Mapping[str, Any], world_size: int
) -> dict[str, Any]:
    """Store the code below `root` and all that launch number `launch` was told; returns the manifest.

    settings: the flags, in types that JSON can hold. Bytes that an earlier launch stored are referred to, not copied.
    """
    directory = launch_directory(run_dir, launch)
    stored = _stored_before(run_dir, launch)
    files = {}
    for path in code_files(root):
        content = (root / path).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        if digest not in stored:
            target = directory / FILES / path
            target.parent.mkdir(parents=True, exist_ok=True)
            with naming(target):
                target.write_bytes(content)
            if os.access(root / path, os.X_OK):
                target.chmod(0o755)
            stored[digest] = (launch, path)
        where, name = stored[digest]
        files[path] = {"sha256": digest, "bytes": len(content), "launch": where, "stored_as": name}
    directory.mkdir(parents=True, exist_ok=True)
    manifest = {
        "format": FORMAT,
        "launch": launch,
        "time": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "command": command,
        "settings": dict(settings),
        "world_size": world_size,
        "git": _git_state(root, directory),
        "machine": _machine(),
        "packages": installed_packages(),
        "files": files,
    }
    write_json(directory / MANIFEST, manifest, indent=1)
    return manifest


def _stored_before(run_dir: Path, launch: int) -> dict[str, tuple[int, str]]:
    """Where the bytes with a hash are: launch, and path below its files/."""
    stored = {}
    for manifest in earlier_manifests(run_dir, launch):
        for entry in manifest["files"].values():
            place = launch_directory(run_dir, entry["launch"]) / FILES / entry["stored_as"]
            if place.is_file() and place.stat().st_size == entry["bytes"]:
                stored[entry["sha256"]] = (entry["launch"], entry["stored_as"])
    return stored


def code_files(root: Path) -> list[str]:
    """Paths below `root` of its code and settings: what git knows or would add; without git, all that looks like it."""
    listed = _git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    names = _walk(root) if listed is None else [name for name in listed.split("\0") if name]
    found = sorted(name for name in names if _is_code(root / name))
    in_folder = Counter(os.path.dirname(name) for name in found)
    return [name for name in found if in_folder[os.path.dirname(name)] <= MOST]


def _is_code(path: Path) -> bool:
    return path.suffix in SUFFIXES and not path.is_symlink() and path.is_file() and path.stat().st_size <= LARGEST


def _walk(root: Path) -> list[str]:
    names = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in NOT_CODE]
        names += [(Path(folder) / name).relative_to(root).as_posix() for name in files]
    return names


# --- where it ran ----------------------------------------------------------------------------------------------------


def _git_state(root: Path, directory: Path) -> dict[str, Any] | None:
    """Commit, branch and what is not committed (whose text goes to `directory`); None where there is no git."""
    commit = _git(root, "rev-parse", "HEAD")
    if commit is None:
        return None
    changed = (_git(root, "status", "--porcelain", "--untracked-files=all") or "").splitlines()
    diff = _git(root, "diff", "--no-ext-diff", "--no-textconv", "HEAD") or ""
    if diff:
        (directory / DIFF).write_text(diff, encoding="utf-8", errors="surrogateescape")
    return {
        "commit": commit.strip(),
        "branch": (_git(root, "rev-parse", "--abbrev-ref", "HEAD") or "").strip(),
        "uncommitted": changed,
    }


def _git(root: Path, *arguments: str) -> str | None:
    """The output of git, or None: it is not installed or too slow, or `root` is not the top of a repository."""
    if not (root / ".git").exists() or shutil.which("git") is None:
        return None
    try:
        done = subprocess.run(
            ["git", "-c", "core.fsmonitor=false", "-c", "core.quotePath=false", *arguments],
            cwd=root,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=GIT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return None
    return done.stdout.decode("utf-8", errors="surrogateescape") if done.returncode == 0 else None


def installed_packages() -> dict[str, str]:
    """Every installed distribution and its version."""
    found = {(item.metadata["Name"] or "").lower(): item.version for item in importlib.metadata.distributions()}
    return {name: found[name] for name in sorted(found) if name}


def _machine() -> dict[str, Any]:
    import torch

    cuda = torch.cuda.is_available()
    return {
        "host": socket.gethostname(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "executable": sys.executable,
        "cpus": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())] if cuda else [],
        "cuda": torch.version.cuda if cuda else None,
        "environment": {name: value for name, value in sorted(os.environ.items()) if name.startswith(VARIABLES)},
    }
