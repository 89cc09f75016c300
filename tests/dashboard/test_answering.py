"""Answers one after the other: streaming, stopping, and errors that reach the one who asked."""

import threading

import pytest

from dashboard.context import Answerer, Stopped, Waiting
from groundscore.errors import UserError


def speak(*pieces, result="done"):
    """Work that hands over these pieces of text."""

    def work(on_text):
        for piece in pieces:
            on_text(piece)
        return result

    return work


def test_the_text_grows_and_the_result_comes_last():
    steps = list(Answerer(9).run("a", speak("It", " is", " here")))
    assert [step for step in steps if not isinstance(step, Waiting)] == ["", "It", "It is", "It is here", "done"]


def test_an_error_reaches_the_one_who_asked_and_the_next_answer_works():
    answers = Answerer(9)

    def fail(on_text):
        raise UserError("no")

    with pytest.raises(UserError, match="no"):
        list(answers.run("a", fail))
    assert list(answers.run("a", speak()))[-1] == "done"
    assert answers.idle


def test_too_many_targets_end_an_answer():
    with pytest.raises(UserError, match="more than 2 targets"):
        list(Answerer(2).run("a", speak("[SEG]", "[SEG] [SEG]", "never")))


def test_an_answer_can_be_stopped_while_it_grows():
    answers, said = Answerer(9), threading.Event()

    def work(on_text):
        while True:
            on_text(" .")
            said.set()

    steps = answers.run("a", work)
    next(steps)
    assert said.wait(5)
    answers.stop("a")
    with pytest.raises(Stopped):
        list(steps)
    answers.stop("a")
    answers.stop("nobody")
    assert list(answers.run("a", speak()))[-1] == "done"


def test_an_answer_can_be_stopped_before_its_turn_has_come():
    answers = Answerer(9)
    answers.announce("a")
    answers.stop("a")
    with pytest.raises(Stopped):
        list(answers.run("a", speak("never")))
    answers.announce("a")
    assert list(answers.run("a", speak()))[-1] == "done"


def test_a_visitor_who_has_left_is_forgotten():
    answers = Answerer(9)
    answers.announce("a")
    answers.forget("a")
    assert not answers._announced


def test_closing_the_iterator_stops_the_model():
    answers, ended = Answerer(9), threading.Event()

    def work(on_text):
        try:
            while True:
                on_text("x")
        finally:
            ended.set()

    steps = answers.run("a", work)
    next(steps)
    steps.close()
    assert ended.wait(5)


def test_a_new_answer_of_a_visitor_stops_the_one_before():
    answers, begun = Answerer(9), threading.Event()

    def endless(on_text):
        begun.set()
        while True:
            on_text("x")

    before = answers.run("a", endless)
    next(before)
    begun.wait(5)
    assert list(answers.run("a", speak("new")))[-1] == "done"
    with pytest.raises(Stopped):
        list(before)


def test_two_visitors_never_use_the_model_at_once():
    answers, inside, most = Answerer(9), [], []

    def work(on_text):
        inside.append(1)
        most.append(len(inside))
        for _ in range(20):
            on_text("x")
        inside.pop()

    threads = [threading.Thread(target=lambda who=who: list(answers.run(who, work))) for who in "abcdef"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert most == [1] * 6


def test_waiting_for_ones_turn_can_be_stopped():
    answers, go, ends = Answerer(9), threading.Event(), []
    first = answers.run("a", lambda on_text: go.wait(5))
    next(first)

    def wait():
        try:
            ends.append(list(answers.run("b", speak("never"))))
        except Stopped as end:
            ends.append(end)

    second = threading.Thread(target=wait)
    second.start()
    while "b" not in answers._running:
        pass
    answers.stop("b")
    go.set()
    second.join(5)
    assert isinstance(ends[0], Stopped)


def until(steps, wanted):
    """The first step for which `wanted(step)` holds."""
    return next(step for step in steps if wanted(step))


def test_who_waits_is_told_how_many_come_before_and_can_stop_at_once():
    answers, go = Answerer(9), threading.Event()
    answers.HEARTBEAT = 0.01
    first = answers.run("a", lambda on_text: go.wait(20))
    assert until(first, lambda step: step == "") == ""  # it has the model
    others = {who: answers.run(who, speak(who)) for who in "bc"}
    places = {who: until(steps, lambda step: step.before is not None).before for who, steps in others.items()}
    assert places == {"b": 1, "c": 2}
    assert "2 questions come before yours" in Waiting(places["c"], 3.2).stage

    answers.stop("b")
    with pytest.raises(Stopped):
        list(others["b"])
    assert until(others["c"], lambda step: step.before == 1)
    go.set()
    assert list(first)[-1] is True and list(others["c"])[-1] == "done"


def test_stopping_is_heard_before_the_model_says_its_next_word():
    answers, go = Answerer(9), threading.Event()
    steps = answers.run("a", lambda on_text: go.wait(20))
    until(steps, lambda step: step == "")
    answers.stop("a")
    with pytest.raises(Stopped):
        list(steps)
    go.set()


def test_a_full_queue_says_so_and_keeps_its_order():
    answers, go = Answerer(9, max_waiting=1), threading.Event()
    first = answers.run("a", lambda on_text: go.wait(20))
    until(first, lambda step: step == "")
    second = answers.run("b", speak("b"))
    next(second)
    with pytest.raises(UserError, match="queue is full: 1 question waits"):
        next(answers.run("c", speak("c")))
    go.set()
    assert list(second)[-1] == "done"
