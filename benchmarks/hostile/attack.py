"""One attack: damaged or hostile input, the command that meets it, and what has to come out."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
REFUSED, WORKS, NAMED = (2,), (0,), (0, 1)  # exit codes: refused in one line; unharmed; reported in a table
MARK = "attacked"  # a file that code from the input would leave in its folder

Prepare = Callable[[Path, "Materials"], list[str]]  # writes hostile files below a folder; the arguments after `python`
Damage = Callable[[Path], object]  # writes or changes what is at a path


@dataclass(frozen=True)
class Attack:
    """An attack and its expected end.

    name: kind and input, such as "pickle: os.system". prepare: (folder, materials) -> the arguments after `python`,
    having written the hostile files below the folder. codes: accepted exit codes. says: texts that the output
    must contain, in any case. megabytes: memory allowed above that of the command on clean input. seconds:
    after them the command is killed, which loses. quick: part of the tenth that the tests run.
    """

    name: str
    prepare: Prepare
    codes: tuple[int, ...] = REFUSED
    says: tuple[str, ...] = ()
    megabytes: int = 500
    seconds: int = 120
    quick: bool = False


@dataclass(frozen=True)
class Outcome:
    """What came of an attack. faults: why it was not withstood, empty where it was."""

    attack: Attack
    code: int | None
    seconds: float
    megabytes: int
    last_line: str
    faults: tuple[str, ...]


@dataclass
class Materials:
    """Clean inputs that attacks copy and damage, each made when first asked for, below `folder`."""

    folder: Path
    _made: dict[str, Path] = field(default_factory=dict)
    _base_memory: dict[str, int] = field(default_factory=dict)

    def data(self) -> Path:
        """A small miniature data root."""
        sets = "refcoco,grefcoco,reason_seg,multi_reason_seg,ade20k"
        return self._make("data", "-m", "miniature.data", "--scale", "0.02", "--sets", sets, "--out")

    def base(self) -> Path:
        """The shipped base models of the miniature."""
        return ROOT / "miniature" / "weights"

    def run(self) -> Path:
        """A run of four steps with a latest and a best checkpoint."""
        if "run" not in self._made:
            self._command(*self.training("run", self.folder / "runs"), timeout=900)
            self._made["run"] = self.folder / "runs" / "run"
        return self._made["run"]

    def merged(self) -> Path:
        """The merged model of that run."""
        return self._make("merged", "merge_lora_weights.py", "--no_check", "--weight", str(self.run()), "--save_path")

    def report(self) -> Path:
        """A report of that model on ReasonSeg val, with its predictions beside it."""
        return self._make(
            "report.json", "eval.py", "--version", str(self.merged()), "--dataset_dir", str(self.data()), "--device",
            "cpu", "--val_dataset", "ReasonSeg|val", "--answer", "given", "--save_predictions", "--output",
        )  # fmt: skip

    def training(self, name: str, runs: Path, *flags: str) -> list[str]:
        """The arguments of a short training run on the data."""
        base = self.base()
        return [
            "train_ds.py", "--exp_name", name, "--log_base_dir", str(runs), "--device", "cpu", "--model_key", "LISA",
            "--version", str(base / "llava"), "--vision_tower", str(base / "clip"), "--vision_pretrained",
            str(base / "sam_miniature.pth"), "--dataset_dir", str(self.data()), "--dataset", "reason_seg",
            "--sample_rates", "1", "--explanatory", "-1", "--val_dataset", "ReasonSeg|val", "--val_limit", "1",
            "--epochs", "2", "--steps_per_epoch", "2", "--batch_size", "1", "--grad_accumulation_steps", "1",
            "--no_gradient_checkpointing", "--workers", "0", "--save_interval", "2", "--keep", "2", *flags,
        ]  # fmt: skip

    def copy(self, source: Path, folder: Path) -> Path:
        """A copy of a material below `folder`, to be damaged."""
        target = folder / source.name
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)
        return target

    def base_memory(self, program: str, arguments: list[str]) -> int:
        """Peak megabytes of a program on clean input, measured once."""
        if program not in self._base_memory:
            self._base_memory[program] = _execute(arguments, seconds=300)[2]
        return self._base_memory[program]

    def _make(self, name: str, *arguments: str) -> Path:
        if name not in self._made:
            self._command(*arguments, str(self.folder / name))
            self._made[name] = self.folder / name
        return self._made[name]

    def _command(self, *arguments: str, timeout: float = 300) -> None:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=ROOT, env=_environment(), capture_output=True, text=True, timeout=timeout
        )
        if done.returncode:
            raise RuntimeError(f"{arguments[0]} on clean input ended with {done.returncode}:\n{done.stderr[-2000:]}")


def attempt(attack: Attack, materials: Materials, folder: Path) -> Outcome:
    """Carry out an attack in an empty folder and judge how it ended."""
    arguments = attack.prepare(folder, materials)
    stand_ins = folder / "bin"
    stand_ins.mkdir(exist_ok=True)
    ghostscript = stand_ins / "gs"
    ghostscript.write_text(f'#!/bin/sh\ntouch "{folder / MARK}"\n')
    ghostscript.chmod(0o755)
    code, output, megabytes, seconds = _execute(arguments, attack.seconds, path=stand_ins, folder=folder)
    program = " ".join(arguments[:2]) if arguments[0] == "-m" else arguments[0]
    base = materials.base_memory(program, _clean(program, materials))
    faults = []
    if code is None:
        faults.append(f"not done after {attack.seconds} s")
    elif code not in attack.codes:
        faults.append(f"exit code {code} instead of {' or '.join(map(str, attack.codes))}")
    if "Traceback (most recent call last)" in output:
        faults.append("a traceback")
    faults += [f"does not say {text!r}" for text in attack.says if text.lower() not in output.lower()]
    if (folder / MARK).exists():
        faults.append("code of the input was run")
    if megabytes - base > attack.megabytes:
        faults.append(f"{megabytes - base} MB above clean input, {attack.megabytes} allowed")
    lines = [line for line in output.splitlines() if line.strip()]
    return Outcome(attack, code, seconds, max(0, megabytes - base), lines[-1] if lines else "", tuple(faults))


def _clean(program: str, materials: Materials) -> list[str]:
    """The arguments of a program on clean input."""
    data = str(materials.data())
    commands = {
        "-m dataloaders.inspect": ["-m", "dataloaders.inspect", "--dataset_dir", data],
        "eval.py": ["eval.py", "--compare", str(materials.report()), str(materials.report())],
        "chat.py": [
            "chat.py",
            "--version",
            str(materials.merged()),
            "--device",
            "cpu",
            "--image",
            str(an_image(materials)),
            "--prompt",
            "Where is it?",
            "--max_new_tokens",
            "4",
            "--vis_save_path",
            str(materials.folder / "answers"),
        ],  # fmt: skip
        "merge_lora_weights.py": [
            "merge_lora_weights.py",
            "--weight",
            str(materials.run()),
            "--no_check",
            "--save_path",
            str(materials.folder / "again"),
        ],  # fmt: skip
        "train_ds.py": materials.training("clean", materials.folder / "runs", "--no_eval"),
    }
    return commands[program]


def an_image(materials: Materials) -> Path:
    """An image of the data."""
    return min((materials.data() / "reason_seg" / "ReasonSeg" / "val").glob("*.jpg"))


def _environment(path: Path | None = None) -> dict[str, str]:
    before = f"{path}{os.pathsep}" if path else ""
    return os.environ | {
        "PATH": before + os.environ.get("PATH", ""),
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        "PYTHONPATH": str(ROOT),
    }


def _execute(
    arguments: list[str], seconds: float, *, path: Path | None = None, folder: Path | None = None
) -> tuple[int | None, str, int, float]:
    """(exit code or None, output, peak megabytes, seconds) of `python ARGUMENTS`."""
    log = folder / "output" if folder else Path(os.devnull)
    start = time.monotonic()
    with open(log, "w+b") as output:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=_environment(path),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        peak = 0
        while process.poll() is None and time.monotonic() - start < seconds:
            peak = max(peak, _peak_megabytes(process.pid))
            time.sleep(0.02)
        code = process.returncode
        if code is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        elapsed = time.monotonic() - start
        output.seek(0)
        text = output.read(1 << 20).decode(errors="replace")
    return code, text, peak, elapsed


def _peak_megabytes(pid: int) -> int:
    """The largest memory of a running process so far; `getrusage` would count what its parent had before it."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # it has just ended
        return 0
    return next((int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM")), 0)
