import json

import pytest
import torch

from utils.training.metering import StepMeter
from utils.training.sampling import CounterSampler
from utils.training.tensorboard import METRICS_FILE, Records

REFERENCE_TAGS = {
    "train/loss",
    "train/ce_loss",
    "train/mask_bce_loss",
    "train/mask_dice_loss",
    "train/mask_loss",
    "train/lr",
    "metrics/total_secs_per_batch",
    "metrics/data_secs_per_batch",
    "val/giou",
    "val/ciou",
}
POLICY_TAGS = {f"policy/{name}" for name in ("loss", "entropy", "reward", "baseline", "advantage")}
LOSSES = ("loss", "ce_loss", "mask_bce_loss", "mask_dice_loss", "mask_loss", "policy_loss")


def record(records, step):
    means = dict.fromkeys(LOSSES, 1.0)
    means |= {f"policy/{name}": 0.5 for name in ("entropy", "reward", "baseline", "advantage")}
    records.step(
        step, means, [0, 2, 1], learning_rate=1e-3, grad_norm=1.0, seconds=1.0, data_seconds=0.1, samples_per_second=2.0
    )


def test_tensorboard_has_the_reference_s_tags_and_the_policy_s(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    records = Records(tmp_path)
    record(records, 1)
    records.evaluation(1, "ReasonSeg|val", {"gIoU": 0.5, "cIoU": 0.6}, selects=True)
    records.close()

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    scalars = set(events.Tags()["scalars"])
    assert REFERENCE_TAGS | POLICY_TAGS | {"train/grad_norm"} <= scalars
    assert events.Tags()["histograms"] == ["policy/layers"]
    assert events.Scalars("val/ciou")[0].value == pytest.approx(0.6)


def test_going_back_drops_later_lines_and_a_torn_one(tmp_path):
    records = Records(tmp_path)
    for step in (1, 2, 3):
        record(records, step)
    records.close()
    path = tmp_path / METRICS_FILE
    path.write_text(path.read_text() + '{"step": 4, "train/lo')

    records = Records(tmp_path, first_step=2)
    record(records, 3)
    records.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3]


def test_a_meter_averages_what_was_there_and_sums_layers():
    meter = StepMeter(3, torch.device("cpu"))
    meter.add({"loss": torch.tensor(1.0)}, {"policy/layers": torch.tensor([1.0, 0.0, 2.0])})
    meter.add(
        {"loss": torch.tensor(3.0), "ce_loss": torch.tensor(5.0)}, {"policy/layers": torch.tensor([0.0, 1.0, 0.0])}
    )
    means, layers = meter.read(lambda tensor: tensor)
    assert means == {"loss": 2.0, "ce_loss": 5.0}
    assert layers == [1, 1, 2]
    meter.add({"loss": torch.tensor(7.0)}, {})
    assert meter.read(lambda tensor: tensor) == ({"loss": 7.0}, [0, 0, 0])


def test_processes_share_the_counter_and_epochs_restart_the_items():
    items = [list(CounterSampler(start=4, stop=12, per_epoch=6, rank=rank, world_size=2)) for rank in (0, 1)]
    assert items == [[(0, 4), (1, 0), (1, 2), (1, 4)], [(0, 5), (1, 1), (1, 3), (1, 5)]]
