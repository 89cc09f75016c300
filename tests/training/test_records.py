"""What a run prints and records: tables at its beginning, lines, TensorBoard, metrics.jsonl."""

import io
import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dataloaders.batching.collate import Collator
from dataloaders.sample import Turn
from groundscore.progress import duration
from model.outputs import GroundingOutput, LossParts
from tests.tiny import tiny_model, tiny_samples
from training.arguments import parse_arguments
from training.data import CounterSampler
from training.loop import Schedule
from training.progress import Progress, StepMeter
from training.records import METRICS_FILE, Records
from training.summaries import WIDTH, describe_data, describe_flags, describe_parameters, table
from training.trainable import ParameterCount


def test_flags_say_what_was_given_and_leave_out_what_has_no_effect():
    config = parse_arguments(["--lr", "0.001", "--dataset", "refer_seg||vqa", "--sample_rates", "3,1", "--no_eval"])
    lines = describe_flags(config)
    text = " ".join(lines)
    assert "lr* 0.001" in text and "no_eval* on" in text
    assert "beta1 0.9" in text and "beta1*" not in text
    assert "refer_seg_data refclef" in text and "sem_seg_data" not in text
    assert ", resume " not in text  # empty
    assert max(map(len, lines)) <= WIDTH


def test_columns_align_and_the_sum_stands_below_a_rule():
    lines = table(("part", "all"), [("a", "1"), ("longer", "1,000"), ("sum", "1,001")], totals=1)
    assert lines == [
        "  part      all",
        "  ──────  ─────",
        "  a           1",
        "  longer  1,000",
        "  ──────  ─────",
        "  sum     1,001",
    ]


def family(name, **sizes):
    return SimpleNamespace(name=name, sizes=lambda: sizes)


def test_data_are_counted_by_family_and_set():
    mixture = SimpleNamespace(
        families=[family("refer_seg", refcoco=1200, grefcoco=300), family("custom", custom=7)],
        probabilities=np.array([0.75, 0.25]),
    )
    rows = [line.split() for line in describe_data(mixture, 1000, {"ReasonSeg|val": 200})]
    assert ["refer_seg", "75.0", "%", "750", "1,500"] in rows
    assert ["refcoco", "1,200"] in rows
    assert ["custom", "25.0", "%", "250", "7"] in rows and ["custom", "7"] not in rows
    assert ["all", "100", "%", "1,000", "1,507"] in rows
    assert ["ReasonSeg|val", "200"] in rows


def test_parameters_are_summed():
    rows = [
        line.split()
        for line in describe_parameters([ParameterCount("sam", 3000, 0), ParameterCount("policy", 1000, 500)])
    ]
    assert ["sam", "3.00K", "-", "-"] in rows
    assert ["policy", "1.00K", "500", "50.00", "%"] in rows
    assert ["all", "4.00K", "500", "12.50", "%"] in rows


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def progress(stream, clock, **options):
    return Progress(total_steps=100, steps_per_epoch=10, samples_per_step=8, stream=stream, clock=clock, **options)


MEANS = {"loss": 1.23456, "ce_loss": 0.5, "policy/entropy": 2.0, "policy/loss": -1.0}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (59.6, "1:00"), (75, "1:15"), (3725, "1:02:05"), (90000, "1d 1:00:00")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_a_line_has_step_losses_rate_speed_and_eta():
    clock, stream = Clock(), io.StringIO()
    shown = progress(stream, clock)
    shown.start(0)
    clock.now = 2.0
    assert shown.advance(1) == 2.0
    shown.report(1, MEANS, learning_rate=3e-4)
    assert stream.getvalue() == (
        "epoch  1/10  step   1/100  loss  1.2346  ce  0.5000  lr 3.00e-04    4.0 samples/s  ETA 3:18\n"
    )


def test_lines_align_whatever_the_numbers():
    clock, stream = Clock(), io.StringIO()
    shown = progress(stream, clock)
    shown.start(0)
    for step, loss in ((1, 0.5), (10, -1.25), (100, 23.0)):
        clock.now += step
        shown.advance(step)
        shown.report(step, {**MEANS, "loss": loss}, learning_rate=1e-4)
    lines = stream.getvalue().splitlines()
    assert len({line.index("ce ") for line in lines}) == len({line.index("ETA") for line in lines}) == 1


@pytest.mark.parametrize(
    ("width", "parts"),
    [
        (40, ["step   1/100  loss", "ETA"]),
        (80, ["step   1/100  loss", "ce ", "mask", "reward", "ETA"]),
        (200, ["epoch", "step   1/100  loss", "ce ", "mask", "reward", "lr", "samples/s", "ETA"]),
    ],
)
def test_a_line_keeps_what_fits_the_terminal(width, parts):
    clock, stream = Clock(), io.StringIO()
    means = {"loss": 7.2277, "ce_loss": 1.2025, "mask_loss": 6.0343, "policy/reward": -1.5844}
    for style in ("line", "block"):
        shown = progress(stream, clock, style=style, width=width, title="UGround · llava", remark=lambda: "best " * 30)
        shown.start(0)
        clock.now += 2
        shown.advance(1)
        shown.report(1, means, learning_rate=3e-4)

    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert all(part in lines[0] for part in parts) and len(lines[0].split("  ")) >= len(parts)
    assert stream.getvalue().split().count("best") == 30


def test_a_block_has_every_number_and_the_best_score():
    clock, stream = Clock(), io.StringIO()
    shown = progress(stream, clock, style="block", title="UGround · llava", remark=lambda: "the best is step 3")
    shown.start(0)
    clock.now = 2.0
    shown.advance(5)
    shown.report(5, MEANS, learning_rate=3e-4, data_seconds=0.1)
    blank, title, rule, place, *rows = stream.getvalue().splitlines()
    assert (blank, title, rule) == ("", "UGround · llava", "─" * 15)
    assert place == "epoch  1/10  step  5/10  " + "█" * 15 + "▒" * 15 + " 50.0 %"
    values = dict(row.split(": ", 1) for row in rows)
    assert {name.strip(): value for name, value in values.items()} == {
        "loss": "1.2346",
        "ce loss": "0.5000",
        "policy entropy": "2.0000",
        "learning rate": "3.00e-04",
        "time": "0.400 s/step, 0.100 s of it for data",
        "speed": "20.0 samples/s",
        "left": "0:38 to step 100",
        "scores": "the best is step 3",
    }
    assert len({row.index(":") for row in rows}) == 1


def test_time_spent_in_a_pause_does_not_count():
    clock, shown = Clock(), None
    shown = progress(io.StringIO(), clock)
    shown.start(0)
    clock.now = 1.0
    shown.advance(1)
    clock.now = 1000.0
    shown.start(1)
    clock.now = 1001.0
    assert shown.advance(2) == 1.0
    assert shown.samples_per_second == 8.0


def test_epochs_and_pauses():
    schedule = Schedule(epochs=2, steps_per_epoch=10, accumulation=3, batch_size=2, world_size=2, eval_interval=4)
    assert [step for step in range(1, 21) if schedule.pauses_after(step)] == [4, 8, 10, 14, 18, 20]
    assert [schedule.epoch_of(step) for step in (1, 10, 11, 20)] == [0, 0, 1, 1]
    assert schedule.samples_per_step == 12
    assert schedule.total_samples == 240
    assert schedule.position_at(7).samples == 84


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
        step,
        means,
        [0, 2, 1],
        learning_rate=1e-3,
        grad_norm=1.0,
        seconds=1.0,
        data_seconds=0.1,
        samples_per_second=2.0,
        memory=2**29,
    )


def read_events(directory):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(directory / "tensorboard"))
    events.Reload()
    return events


def test_tensorboard_has_the_reference_s_tags_and_ours(tmp_path):
    records = Records(tmp_path)
    record(records, 1)
    records.evaluation(1, "ReasonSeg|val", {"gIoU": 0.5, "cIoU": 0.6}, selects=True)
    records.evaluation(1, "refcoco|unc|val", {"gIoU": 0.1, "cIoU": 0.2}, selects=False)
    records.images(1, "ReasonSeg|val", [np.full((4, 6, 3), 200, np.uint8)] * 2)
    records.close()

    events = read_events(tmp_path)
    ours = {"train/grad_norm", "metrics/samples_per_second", "metrics/memory_gib", "val/refcoco_unc_val/giou"}
    assert REFERENCE_TAGS | POLICY_TAGS | ours <= set(events.Tags()["scalars"])
    assert events.Tags()["histograms"] == ["policy/layers"]
    assert events.Tags()["images"] == ["ReasonSeg_val/picture_1", "ReasonSeg_val/picture_2"]
    assert events.Scalars("val/ciou")[0].value == pytest.approx(0.6)
    assert events.Scalars("metrics/memory_gib")[0].value == 0.5


def test_the_file_for_machines_has_the_same_numbers(tmp_path):
    records = Records(tmp_path)
    record(records, 1)
    records.evaluation(1, "ReasonSeg|val", {"gIoU": 0.5, "cIoU": 0.6}, selects=True)
    records.close()
    events = read_events(tmp_path)
    step, scores = map(json.loads, (tmp_path / METRICS_FILE).read_text().splitlines())
    assert step.pop("policy/layers") == [0, 2, 1]
    assert scores.pop("split") == "ReasonSeg|val"
    shown = {tag: events.Scalars(tag)[0].value for tag in events.Tags()["scalars"]}
    assert {**step, **scores} == pytest.approx({**shown, "step": 1})


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


@pytest.mark.parametrize(
    "make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.symlink_to(path)]
)
def test_what_is_no_file_is_moved_aside_and_new_records_begin(tmp_path, capsys, make):
    path = tmp_path / METRICS_FILE
    make(path)
    records = Records(tmp_path, first_step=2)
    record(records, 3)
    records.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [3]
    assert f"it is kept as {METRICS_FILE}.damaged" in capsys.readouterr().err


def test_a_full_disk_is_an_error_that_names_the_records(tmp_path):
    records = Records(tmp_path)
    with Path("/dev/full").open("w", encoding="utf-8") as records.file:
        with pytest.raises(OSError, match=METRICS_FILE):
            record(records, 1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), records.file.fileno())  # for what is written when it is closed


def alone(tensor):
    return tensor


def output_of(losses, statistics=None):
    tensors = {name: torch.tensor(value) for name, value in losses.items()}
    return GroundingOutput(torch.zeros(()), tensors, statistics or {})


def test_a_meter_averages_what_was_there_and_sums_layers():
    meter = StepMeter(3, torch.device("cpu"))
    meter.add(output_of({"loss": 1.0}, {"policy/layers": torch.tensor([1.0, 0.0, 2.0])}), None)
    meter.add(output_of({"loss": 3.0, "ce_loss": 5.0}, {"policy/layers": torch.tensor([0.0, 1.0, 0.0])}), None)
    assert meter.read(alone) == ({"loss": 2.0, "ce_loss": 5.0}, [1, 1, 2])
    meter.add(output_of({"loss": 7.0}), None)
    assert meter.read(alone) == ({"loss": 7.0}, [0, 0, 0])


def test_losses_are_told_apart_by_family():
    meter = StepMeter(3, torch.device("cpu"), families=["vqa", "refer_seg", "sem_seg"])
    # Image 0 (vqa) is row 0 with tokens 1 and 2, image 1 (refer_seg) row 1 with token 5 and both targets.
    batch = SimpleNamespace(
        sources=["vqa/llava a.jpg", "refer_seg/refcoco b.jpg"],
        input_ids=torch.zeros(2, 4),
        image_index=torch.tensor([0, 1]),
        label_positions=torch.tensor([1, 2, 5]),
        seg_image=torch.tensor([1, 1]),
    )
    parts = LossParts(ce=torch.tensor([1.0, 3.0, 8.0]), bce=torch.tensor([0.5, 1.5]), dice=torch.tensor([0.25, 0.75]))
    for _ in range(2):
        meter.add(replace(output_of({"loss": 1.0}), loss_parts=parts), batch)
    means, _ = meter.read(alone)
    assert means == {
        "loss": 1.0,
        "family/vqa/ce_loss": 2.0,
        "family/refer_seg/ce_loss": 8.0,
        "family/refer_seg/mask_bce_loss": 1.0,
        "family/refer_seg/mask_dice_loss": 0.5,
        "family/vqa/samples": 2.0,
        "family/refer_seg/samples": 2.0,
    }


def test_families_of_a_real_batch_add_up_to_its_losses():
    model, processor = tiny_model()
    samples = [replace(sample, family=name) for sample, name in zip(tiny_samples(), ("refer_seg", "sem_seg"))]
    batch = Collator(processor)(samples)
    output = model(batch)
    meter = StepMeter(model.config.num_layers, torch.device("cpu"), families=["refer_seg", "sem_seg"])
    meter.add(output, batch)
    means, _ = meter.read(alone)
    for loss, counts in {
        "ce_loss": [
            int((batch.image_index[batch.label_positions // batch.input_ids.shape[1]] == n).sum()) for n in (0, 1)
        ],
        "mask_bce_loss": [len(masks) for masks in batch.masks],
        "mask_dice_loss": [len(masks) for masks in batch.masks],
    }.items():
        ours = [means[f"family/{name}/{loss}"] for name in ("refer_seg", "sem_seg")]
        mean = sum(value * count for value, count in zip(ours, counts)) / sum(counts)
        assert mean == pytest.approx(output.losses[loss].item(), rel=1e-5)


def test_a_batch_without_targets_has_no_mask_losses_by_family():
    model, processor = tiny_model()
    words = replace(
        tiny_samples()[0],
        conversations=[(Turn("What is it?", "A house."),)],
        masks=np.zeros((0, 40, 60), np.uint8),
        family="vqa",
    )
    batch = Collator(processor)([words])
    meter = StepMeter(model.config.num_layers, torch.device("cpu"), families=["vqa", "refer_seg"])
    meter.add(model(batch), batch)
    means, _ = meter.read(alone)
    assert {name for name in means if name.startswith("family/")} == {"family/vqa/ce_loss", "family/vqa/samples"}


def test_processes_share_the_counter_by_micro_batches_and_epochs_restart_the_items():
    options = {"start": 4, "stop": 12, "per_epoch": 6, "batch_size": 2, "world_size": 2}
    assert [list(CounterSampler(rank=rank, **options)) for rank in (0, 1)] == [
        [[(0, 4), (0, 5)], [(1, 2), (1, 3)]],
        [[(1, 0), (1, 1)], [(1, 4), (1, 5)]],
    ]


@pytest.mark.parametrize(
    "damage", [b"\xff\xfe", b"[]", b"null", b'{"step": "1"}', b'{"step": 1e999}', b"{}", b"[" * 10**5]
)
def test_damaged_records_never_stop_a_run_and_are_kept(tmp_path, capsys, damage):
    good = b'{"step": 1, "a": 2.0}\n'
    (tmp_path / METRICS_FILE).write_bytes(good + damage + b"\n" + good.replace(b"1", b"2") + b'{"step": 3, "a"')
    Records(tmp_path, first_step=5).close()
    assert (tmp_path / METRICS_FILE).read_bytes() == good + good.replace(b"1", b"2")
    assert damage in (tmp_path / f"{METRICS_FILE}.damaged").read_bytes()
    said = capsys.readouterr().err
    assert "metrics.jsonl, line 2, is damaged" in said and said.count("\n") == 1


def test_a_line_cut_short_by_a_kill_is_dropped_without_a_word(tmp_path, capsys):
    (tmp_path / METRICS_FILE).write_bytes(b'{"step": 1}\n{"st')
    Records(tmp_path, first_step=5).close()
    assert (tmp_path / METRICS_FILE).read_bytes() == b'{"step": 1}\n'
    assert capsys.readouterr().err == "" and not list(tmp_path.glob("*.damaged"))
