"""`python -m benchmarks.hostile`: attacks are judged by what the programs do, and the programs withstand them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.hostile.__main__ import ATTACKS
from benchmarks.hostile.attack import MARK, Attack, Materials, attempt

ROOT = Path(__file__).parents[2]


def hostile(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.hostile", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=3000
    )


def test_attacks_have_names_of_their_own_and_a_tenth_is_quick():
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS)
    assert len(ATTACKS) / 14 <= sum(attack.quick for attack in ATTACKS) <= len(ATTACKS) / 6


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("print('error: fine'); exit(2)", None),
        ("exit(0)", "exit code 0 instead of 2"),
        ("print('Traceback (most recent call last):'); exit(2)", "a traceback"),
        ("import time; time.sleep(60)", "not done after 2 s"),
        ("import os; os.system('gs'); print('fine'); exit(2)", "code of the input was run"),
        ("import time; x = b'x' * 300_000_000; time.sleep(0.3); print('fine'); exit(2)", "MB above clean input"),
    ],
)
def test_an_attack_is_judged_by_what_was_seen(code, fault, tmp_path, monkeypatch):
    monkeypatch.setattr(Materials, "base_memory", lambda self, program, arguments: 20)
    monkeypatch.setattr("benchmarks.hostile.attack._clean", lambda program, materials: [])
    attack = Attack("test", lambda folder, materials: ["-c", code], says=("fine",), megabytes=100, seconds=2)
    faults = attempt(attack, Materials(tmp_path), tmp_path).faults
    if fault is None:
        assert not faults and not (tmp_path / MARK).exists()
    else:
        assert any(fault in found for found in faults), faults


def test_the_quick_attacks_are_withstood(tmp_path):
    done = hostile("--quick", "--output", str(tmp_path / "table.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "table.json").read_text())
    assert len(rows) == sum(attack.quick for attack in ATTACKS) and not any(row["faults"] for row in rows)


@pytest.mark.slow
def test_all_attacks_are_withstood():
    done = hostile()
    assert done.returncode == 0, done.stdout + done.stderr
