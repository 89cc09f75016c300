import io

import pytest

from training.loop import Schedule
from training.progress import Progress
from utils.progress import duration


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
