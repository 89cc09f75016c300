"""The GPU benchmark runs, here at a tiny size on the CPU."""

import torch

from benchmarks import gpu
from benchmarks.bench_model import SIZES


def test_training_speed_is_measured_by_part():
    speed = gpu.train_speed(
        SIZES["tiny"],
        attention="sdpa",
        dtype=torch.float32,
        device="cpu",
        lora_r=4,
        checkpointing=True,
        compiled=False,
        steps=1,
        peak_tflops=1.0,
    )
    assert {"CLIP", "LLM", "SAM encoder", "mask decoder", "backward", "optimizer"} <= set(speed.parts)
    assert all(seconds > 0 for seconds in speed.parts.values())
    assert 0 < speed.mfu < 1 and speed.samples_per_second == SIZES["tiny"].images / speed.seconds


def test_the_command_prints_a_row_for_every_combination_that_runs_and_says_why_one_does_not(capsys):
    arguments = "--size tiny --device cpu --steps 1 --layouts packed --attention sdpa flash_attention_2 --new_tokens 2"
    gpu.main(arguments.split())
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("|packed|sdpa|") and lines[2].count("|") == 9
    assert lines[3] == "|packed|flash_attention_2|cannot express packed rows|"
    assert lines[-1].startswith("generation, 8 answers at a time:")
