import io

import pytest

from utils.training.loop import Schedule
from utils.training.progress import Progress, duration


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def progress(stream, clock):
    return Progress(total_steps=100, steps_per_epoch=10, samples_per_step=8, stream=stream, clock=clock)


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
    shown.report(1, {"loss": 1.23456, "ce": 0.5}, 3e-4)
    assert stream.getvalue() == (
        "epoch 1/10  step 1/100  loss 1.2346  ce 0.5000  lr 3.00e-04  4.0 samples/s  ETA 3:18\n"
    )


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


def test_a_terminal_shows_one_line_that_is_written_over():
    clock, stream = Clock(), Terminal()
    shown = progress(stream, clock)
    shown.start(0)
    for step in (1, 2):
        clock.now = float(step)
        shown.advance(step)
        shown.report(step, {"loss": 1.0}, 1e-4)
    shown.message("saved")
    assert "\n" not in stream.getvalue().removesuffix("\nsaved\n")
    assert stream.getvalue().count("\r") == 2


def test_epochs_and_pauses():
    schedule = Schedule(epochs=2, steps_per_epoch=10, accumulation=3, batch_size=2, world_size=2, eval_interval=4)
    assert [step for step in range(1, 21) if schedule.pauses_after(step)] == [4, 8, 10, 14, 18, 20]
    assert [schedule.epoch_of(step) for step in (1, 10, 11, 20)] == [0, 0, 1, 1]
    assert schedule.samples_per_step == 12
    assert schedule.total_samples == 240
    assert schedule.position_at(7).samples == 84
