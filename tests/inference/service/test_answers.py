"""What the service answers over HTTP: the same as `chat.py`, in every form, alone and among others."""

import base64
import io
import json
import threading
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
from PIL import Image

from dataloaders.sample import Turn
from groundscore.annotations.images import read_image
from groundscore.rle import decode
from groundscore.scoring.masks import to_rle
from inference.reply import save_reply
from inference.service.client import GroundingClient
from tests.inference.service.services import ANSWER, GivenWords, ask, photo, running


@pytest.fixture(scope="module")
def session():
    return GivenWords()


@pytest.fixture(scope="module")
def url(session):
    with running(session) as server:
        yield server.url


def as_json(url: str, **fields) -> httpx.Response:
    body = {"image": base64.b64encode(photo()).decode(), "prompt": "Where is the ball?"} | fields
    return httpx.post(f"{url}/v1/ground", json=body, timeout=60)


def events_of(response: httpx.Response) -> list[tuple[str, dict]]:
    """The server-sent events of a stream, without comments."""
    found = []
    for block in response.text.strip().split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith(":")]
        if lines:
            assert [line.partition(":")[0] for line in lines] == ["event", "data"]
            found.append((lines[0].removeprefix("event: "), json.loads(lines[1].removeprefix("data: "))))
    return found


def saved_by_chat(session: GivenWords, folder: Path, history: tuple[Turn, ...] = ()) -> tuple[dict, list[bytes]]:
    """The record and the mask files that `chat.py` writes for the question of these tests."""
    path = folder / "photo.png"
    path.write_bytes(photo())
    reply = session.ask(read_image(path), history, "Where is the ball?")
    saved = save_reply(reply, read_image(path), folder / "out", path)
    return json.loads(saved.record.read_text()), [mask.read_bytes() for mask in saved.masks]


def test_text_masks_scores_and_layers_are_those_of_chat(url, session, tmp_path):
    record, masks = saved_by_chat(session, tmp_path)

    answer = ask(url, formats=["png", "rle"]).json()

    assert answer["answer"] == record["answer"] == ANSWER
    assert [base64.b64decode(target["png"]) for target in answer["targets"]] == masks
    for target, other in zip(answer["targets"], record["targets"], strict=True):
        assert {key: target[key] for key in ("pixels", "score", "layer")} == {
            key: other[key] for key in ("pixels", "score", "layer")
        }
    assert answer["size"] == [30, 44] and answer["complete"] is True


def test_a_form_and_json_get_the_same_answer(url):
    form, body = ask(url).json(), as_json(url).json()
    assert {**form, "seconds": 0} == {**body, "seconds": 0}
    data_url = "data:image/png;base64," + base64.b64encode(photo()).decode()
    assert as_json(url, image=data_url).json()["targets"] == form["targets"]


def test_every_form_of_a_mask_is_the_same_mask(url):
    target = ask(url, formats="rle,png,polygons").json()["targets"][0]

    png = cv2.imdecode(np.frombuffer(base64.b64decode(target["png"]), np.uint8), cv2.IMREAD_UNCHANGED) > 0
    filled = np.zeros((30, 44), bool)
    rows, columns = np.mgrid[:30, :44] + 0.5
    for part in target["polygons"]:
        for ring in [part["outer"], *part["holes"]]:
            for (x0, y0), (_, y1) in zip(ring, ring[1:] + ring[:1]):
                if y0 != y1:  # a vertical side: what lies right of it changes
                    filled ^= (rows > min(y0, y1)) & (rows < max(y0, y1)) & (columns > x0)

    np.testing.assert_array_equal(decode(to_rle(target["rle"], (30, 44), "rle")), png)
    np.testing.assert_array_equal(filled, png)
    assert target["pixels"] == png.sum() > 0


def test_only_the_forms_that_were_asked_for_come(url):
    assert set(ask(url).json()["targets"][0]) == {"pixels", "score", "layer", "rle"}
    assert set(ask(url, formats="polygons").json()["targets"][0]) == {"pixels", "score", "layer", "polygons"}
    assert set(as_json(url, formats=[]).json()["targets"][0]) == {"pixels", "score", "layer"}


def test_masks_have_the_size_of_an_upright_photo(url):
    image, out = Image.open(io.BytesIO(photo(size=(60, 20)))), io.BytesIO()
    exif = image.getexif()
    exif[0x0112] = 6  # turned by 90 degrees
    image.save(out, "JPEG", exif=exif)

    answer = ask(url, image=out.getvalue()).json()

    assert answer["size"] == answer["targets"][0]["rle"]["size"] == [20, 60]


def test_earlier_turns_and_the_layer_reach_the_model(url, session, tmp_path):
    turns = [{"prompt": "And the house?", "answer": "It is [SEG]."}]
    _, masks = saved_by_chat(session, tmp_path, (Turn("And the house?", "It is [SEG]."),))

    by_form = ask(url, turns=json.dumps(turns), formats="png").json()
    by_body = as_json(url, turns=turns, formats=["png"]).json()

    assert [base64.b64decode(target["png"]) for target in by_form["targets"]] == masks
    assert by_form["targets"] == by_body["targets"] != ask(url, formats="png").json()["targets"]
    assert [target["layer"] for target in ask(url, layer=2).json()["targets"]] == [2, 2]
    assert [target["layer"] for target in as_json(url, layer="last").json()["targets"]] == [3, 3]


def test_a_stream_says_the_text_in_pieces_and_ends_in_the_answer(url):
    response = ask(url, stream="true")

    assert response.headers["content-type"].startswith("text/event-stream")
    *pieces, (name, answer) = events_of(response)
    assert len(pieces) > 5 and {name for name, _ in pieces} == {"text"}
    assert "".join(piece["text"] for _, piece in pieces) == answer["answer"] == ANSWER
    assert name == "answer" and answer["targets"] == ask(url).json()["targets"]


def test_questions_that_wait_together_are_answered_together_and_get_their_own_answers(url, session):
    images = [photo(seed, (20 + seed, 40)) for seed in range(4)]
    alone = [ask(url, image=image, formats="png").json() for image in images]
    answers: dict[int, dict] = {}

    def person(number: int) -> None:
        answers[number] = ask(url, image=images[number], formats="png", stream=str(number % 2 == 1).lower()).text

    session.gate.clear()
    session.calls.clear()
    first = threading.Thread(target=person, args=(0,))
    first.start()
    while not session.calls:  # the model has the first one; the others wait
        pass
    others = [threading.Thread(target=person, args=(number,)) for number in (1, 2, 3)]
    for thread in others:
        thread.start()
    while httpx.get(f"{url}/v1/health").json()["waiting"] < 3:
        pass
    session.gate.set()
    for thread in (first, *others):
        thread.join(60)

    assert session.calls == [1, 3]
    for number, expected in enumerate(alone):
        text = answers[number]
        got = json.loads(text.rpartition("data: ")[2]) if number % 2 else json.loads(text)
        assert got["targets"] == expected["targets"] and got["size"] == expected["size"]


def test_the_model_and_the_limits_are_told(url):
    model = httpx.get(f"{url}/v1/model").json()
    assert (model["name"], model["system"], model["layers"]) == ("tiny/model", "UGround", 4)
    assert model["layer"] == "greedy" and model["max_prompt"] == 2000


def test_the_client_gets_arrays_and_turns(url, tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(photo())
    client = GroundingClient(url)

    answer = client.ground(path, "Where is the ball?")
    pieces: list[str] = []
    streamed = client.ground(photo(), "Where is the ball?", turns=[answer.turn], on_text=pieces.append)

    assert answer.text == "".join(pieces) == ANSWER
    assert answer.masks.shape == (2, 30, 44) and answer.masks.dtype == bool
    assert [mask.sum() for mask in answer.masks] == [target["pixels"] for target in ask(url).json()["targets"]]
    assert len(answer.scores) == len(answer.layers) == 2
    assert not np.array_equal(streamed.masks, answer.masks)
    assert client.ready() and client.model()["system"] == "UGround"
