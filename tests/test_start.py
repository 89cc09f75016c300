"""`--help` and a mistyped flag are answered at once: no program imports for them what it only needs for its work."""

import json
import os
import subprocess
import sys

import pytest

from tests.test_floors import MODULES, ROOT

HEAVY = ("torch", "transformers", "deepspeed", "peft", "accelerate", "gradio", "scipy", "pandas", "matplotlib")
# Those that declare no data set and score nothing do without arrays, too.
WITHOUT_ARRAYS = ("app", "chat", "eval", "evaluation.audit", "merge_lora_weights", "model.backbones.check",
                  "model.decoders.check", "utils.tracking.__main__")  # fmt: skip

# Runs each program in turn, and prints the modules that were imported for the first time.
ASK = """
import contextlib, io, json, runpy, sys
sys.path.insert(0, "")
known, said = set(sys.modules), {}
for name in sys.argv[1:]:
    sys.argv, said[name] = [name, "--help"], {}
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        except SystemExit as stop:
            said[name]["code"] = stop.code
    said[name]["help"] = out.getvalue()
    said[name]["imported"] = sorted({each.partition(".")[0] for each in set(sys.modules) - known})
    known = set(sys.modules)
print(json.dumps(said))
"""
STARTS = '\nif __name__ == "__main__":\n    run_main(main)\n'
PROGRAMS = sorted(name for name, path in MODULES.items() if STARTS in path.read_text(encoding="utf-8"))


def ask_for_help(*programs: str) -> dict:
    done = subprocess.run(
        [sys.executable, "-c", ASK, *programs],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "80"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_help_of_no_program_imports_what_only_its_work_needs():
    said = ask_for_help("groundscore", *PROGRAMS)

    assert len(PROGRAMS) > 20
    for name, one in said.items():
        assert one["code"] == 0 and "usage" in one["help"], name
        assert not set(HEAVY) & set(one["imported"]), name
        assert [line for line in one["help"].splitlines() if len(line) > 80] == [], name


def test_help_of_what_reads_no_data_imports_no_arrays():
    for name, one in ask_for_help(*WITHOUT_ARRAYS).items():
        assert not {"numpy", "PIL", "cv2", "pyarrow"} & set(one["imported"]), name


@pytest.mark.parametrize("program", ["app", "chat", "eval"])
def test_a_misspelt_flag_is_told_as_early(program):
    code = f"import sys, {program}\ntry:\n    {program}.main(['--verison', 'x'])\nexcept Exception as error:\n"
    code += f"    print(error, sorted(set({HEAVY}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert "did you mean --version?" in done.stdout and done.stdout.strip().endswith("[]")
