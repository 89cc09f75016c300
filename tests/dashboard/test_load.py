"""Many visitors and many questions; minutes long."""

import gc
import threading

import psutil
import pytest

from inference.limits import Limits
from tests.dashboard.test_server import ask, png
from tests.dashboard.visits import Visit, running, shown, tiny_session

pytestmark = pytest.mark.slow


def test_fifty_questions_at_once_are_all_answered_or_told_to_come_back():
    limits = Limits(waiting=30)
    outcomes: list[str] = []
    with running(tiny_session(), limits) as server:

        def person(number: int) -> None:
            visit = Visit(server.url)
            page = shown(ask(visit, png(number), f"question {number}"))
            own = f"question {number}" in page
            outcomes.append("answered" if own and "[SEG 2]" in page else page)
            visit.close()

        threads = [threading.Thread(target=person, args=(number,)) for number in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(300)
        assert server.context.answers.idle
        visit = Visit(server.url)
        assert "[SEG 2]" in shown(ask(visit, png(), "still there?"))
    assert len(outcomes) == 50
    assert outcomes.count("answered") >= 30
    assert all("The queue is full" in each for each in outcomes if each != "answered"), outcomes


def test_memory_is_flat_over_two_hundred_questions():
    process = psutil.Process()
    with running(tiny_session(), Limits(history=4)) as server:
        visit = Visit(server.url)
        content = png(size=(480, 640))

        def resident() -> float:
            gc.collect()
            return process.memory_info().rss / 2**20

        for number in range(60):
            ask(visit, content, f"question {number}")
        before = resident()
        for number in range(200):
            ask(visit, content, f"question {number}")
        grown = resident() - before
    assert grown < 20, f"{grown:.0f} MB more after 200 questions"
