"""Many requests: memory stays flat; minutes long."""

import gc

import httpx
import psutil
import pytest

from tests.inference.service.services import ANSWER, GivenWords, ask, photo, running


@pytest.mark.slow
def test_memory_is_flat_over_two_hundred_requests():
    process = psutil.Process()

    def resident() -> float:
        gc.collect()
        return process.memory_info().rss / 2**20

    with running(GivenWords()) as server, httpx.Client() as client:

        def several(count: int) -> None:
            for number in range(count):
                form = {"formats": "rle,png,polygons", "stream": "true" if number % 3 == 0 else "false"}
                answer = ask(server.url, client=client, image=photo(number, (120, 160)), **form)
                assert answer.status_code == 200 and ANSWER in answer.text

        several(200)  # caches and the allocator have what they keep
        before = resident()
        several(200)
        grown = resident() - before
        assert server.desk.waiting == 0
    assert grown < 20, f"{grown:.0f} MB more after 200 requests"
