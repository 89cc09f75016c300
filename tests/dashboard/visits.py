"""A dashboard for tests, with a real but tiny model, and visitors that talk to it over HTTP as the page does."""

import json
import time
import uuid
from contextlib import contextmanager
from pathlib import Path

import httpx

import app
from dashboard.serving import Server
from inference.limits import Limits
from inference.session import ChatSession
from tests.tiny import tiny_model, write_answer

ANSWER = "Sure, the ball is [SEG] and the house is [SEG]."


class ScriptedSession:
    """A real session of a tiny model that always gives the same answer; `slowed` lets it take a while over it."""

    def __init__(self, answer: str, system: str):
        self.model, self.processor = tiny_model(system)
        write_answer(self.model, self.processor.tokenizer.encode(answer, bos=False))
        self._session = ChatSession(self.model, self.processor, max_new_tokens=200)
        self._seconds = 0.0

    @property
    def layer(self):
        return self._session.layer

    @layer.setter
    def layer(self, layer):
        self._session.layer = layer

    @contextmanager
    def slowed(self, seconds: float):
        """Wait so long before every piece of text."""
        self._seconds = seconds
        yield
        self._seconds = 0.0

    def ask(self, *arguments, on_text, **options):
        def slowly(piece: str) -> None:
            time.sleep(self._seconds)
            on_text(piece)

        self.model.lm_head.step = 0  # an answer before may have been stopped
        return self._session.ask(*arguments, on_text=slowly, **options)

    def segment_again(self, *arguments):
        return self._session.segment_again(*arguments)

    def batch(self, *arguments):
        return self._session.batch(*arguments)


def tiny_session(answer: str = ANSWER, system: str = "UGround") -> ScriptedSession:
    return ScriptedSession(answer, system)


@contextmanager
def running(session, limits: Limits | None = None, *flags: str, tab: str | None = "ground"):
    """A dashboard with one tab (None: all) on a free port, its model loaded; one at a time, since Gradio keeps its
    folder in the environment."""
    flags += ("--tab", tab) if tab else ()
    parsed = app.build_parser().parse(["--version", "tiny/model", *flags])
    server = Server(parsed, limits or Limits(), lambda tell: session)
    try:
        server.start()
        if server.context.model:
            server.context.model.wait(30)
        yield server
    finally:
        server.close()


class Visit:
    """One browser tab's side of the conversation with a dashboard."""

    def __init__(self, url: str, **options):
        self.http = httpx.Client(base_url=url, timeout=60, **options)
        self.session = uuid.uuid4().hex[:11]
        self.config = self.http.get("/config").json()
        ticks = [each for each in self.config["dependencies"] if "tick" in [name for _, name in each["targets"]]]
        for tick in (each for each in ticks if each["queue"] is False):  # what the page does until the model is there
            body = {"data": [[]] * len(tick["inputs"]), "fn_index": tick["id"], "session_hash": self.session}
            self.http.post("/gradio_api/run/predict", json=body).raise_for_status()

    def close(self) -> None:
        self.http.close()

    def element(self, elem_id: str) -> dict:
        return next(part for part in self.config["components"] if part["props"].get("elem_id") == elem_id)

    def event(self, elem_id: str, name: str) -> dict:
        """The first event of this name that the widget triggers."""
        target = [self.element(elem_id)["id"], name]
        return next(each for each in self.config["dependencies"] if target in map(list, each["targets"]))

    def upload(self, name: str, content: bytes) -> httpx.Response:
        return self.http.post("/gradio_api/upload", files={"files": (name, content)})

    def picture(self, path: str, name: str = "photo.png") -> dict:
        return {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}

    def ask(self, picture: dict | None, prompt: str | None, **options) -> list[dict]:
        """Press Ask; every message of the server until the answer is complete."""
        values = {"follow_up": False, "rule": "Policy's choice", "layer": 3} | options
        data = [None, picture, prompt, values["follow_up"], values["rule"], values["layer"]]
        return self.trigger(self.event("ground-ask", "click"), data)

    def trigger(self, event: dict, data: list, event_data=None) -> list[dict]:
        body = {
            "data": data,
            "fn_index": event["id"],
            "session_hash": self.session,
            "event_data": event_data,
            "trigger_id": event["targets"][0][0] if event["targets"] else None,
        }
        joined = self.http.post("/gradio_api/queue/join", json=body)
        if joined.status_code != 200:
            return [{"msg": "refused", "status": joined.status_code, "text": joined.text}]
        messages = []
        with self.http.stream("GET", "/gradio_api/queue/data", params={"session_hash": self.session}) as stream:
            for line in stream.iter_lines():
                if line.startswith("data:"):
                    messages.append(json.loads(line[5:]))
                    if messages[-1]["msg"] in ("process_completed", "close_stream", "queue_full"):
                        break
        return messages


def shown(messages: list[dict]) -> str:
    """Everything that the messages tell the page, as text."""
    return json.dumps(messages, ensure_ascii=False)


def server_path(response: httpx.Response) -> str:
    return response.json()[0]


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
