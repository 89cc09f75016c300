import pytest
import torch
from deepspeed.runtime.lr_schedules import WarmupDecayLR

from training.engine import engine_config, schedule_value

NUMBERS = {"lr": 3e-4, "warmup_min_lr": 1e-5, "warmup_num_steps": 4, "total_steps": 12}


def config(**changes):
    values = {
        "batch_size": 2,
        "accumulation": 10,
        "world_size": 3,
        "precision": "bf16",
        "zero_stage": 2,
        "overlap": True,
    }
    return engine_config(**{**values, **NUMBERS, **changes})


def test_learning_rates_warm_up_and_decay_linearly():
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = WarmupDecayLR(optimizer, **config()["scheduler"]["params"])
    seen = []
    for _ in range(13):
        scheduler.step()
        seen.append(optimizer.param_groups[0]["lr"])
    assert seen == pytest.approx([schedule_value(step, **NUMBERS) for step in range(13)])
    assert seen[0] == 1e-5
    assert seen[4] == max(seen) == pytest.approx(3e-4)
    assert seen[12] == pytest.approx(1e-5)


def test_the_configuration_is_the_reference_s():
    values = config()
    assert values["train_batch_size"] == 60
    assert values["gradient_clipping"] == 1.0
    assert values["bf16"] == {"enabled": True} and values["fp16"] == {"enabled": False}
    zero = values["zero_optimization"]
    assert zero["stage"] == 2 and zero["overlap_comm"] and zero["contiguous_gradients"] and zero["reduce_scatter"]
    assert zero["reduce_bucket_size"] == zero["allgather_bucket_size"] == 200_000_000


def test_no_warm_up_is_allowed():
    assert config(warmup_num_steps=0)["scheduler"]["params"]["warmup_num_steps"] == 1
