"""The service's addresses as an ASGI application; every error is a `Problem` in JSON.

POST /v1/ground   GET /v1/model   GET /v1/health   GET /v1/openapi.json
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from fastapi.security import HTTPBearer
from fastapi.sse import format_sse_event
from pydantic.json_schema import models_json_schema
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from groundscore.errors import UserError
from inference.limits import Limits
from inference.reply import Question as Asked
from inference.reply import Reply
from inference.service.desk import Desk, GivenUp, Ticket, TooBusy
from inference.service.hosts import refusal
from inference.service.keys import Keys
from inference.service.messages import Answer, FormQuestion, Health, Model, Problem, Question, TextPiece, answer_of
from inference.service.reading import Images, Refused, read_question

if TYPE_CHECKING:
    from inference.session import ChatSession

log = logging.getLogger(__name__)

VERSION = "1"
PREFIX = f"/v{VERSION}"
_LOADING_AGAIN = 5  # seconds after which to ask whether the model is loaded
_BEAT = 15.0  # seconds of silence after which a stream sends a comment, so that no proxy closes it

_REASONS = {
    400: "The body is not what its type says.",
    401: "The API key is missing or wrong.",
    403: "The request comes from another site, or names another host.",
    408: "The request took too long to arrive.",
    413: "The request or the image's file is too large.",
    415: "The body is of another type.",
    422: "A value cannot be used: the image, the prompt, the layer.",
    429: "Too many questions are waiting; Retry-After says when to come back.",
    500: "An unexpected error, which the log of the service has.",
    503: "The model is still being loaded (Retry-After says when to come back), or could not be loaded.",
    504: "The answer took too long.",
}


def build_api(
    desk: Desk, limits: Limits, keys: Keys, *, hosts: Sequence[str] | None = None, root_path: str = ""
) -> FastAPI:
    """Returns the service. hosts: names under which it may be addressed, None for any. root_path: where a proxy shows
    it."""
    api = FastAPI(
        title="UGround",
        description="Questions about images, answered in text and masks.",
        version=VERSION,
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,  # these pages load scripts from other hosts
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
    )
    images = Images(limits)
    reading = asyncio.Semaphore(limits.waiting)  # requests that arrive at the same time

    def same_site(request: Request) -> None:
        if (reason := refusal(request.headers, hosts)) is not None:
            raise Refused(403, "foreign", reason)

    def known(request: Request) -> None:
        if not keys.admit(request.headers.get("authorization")):
            raise Refused(
                401, "no_key", "send a key of this service as Authorization: Bearer KEY", {"WWW-Authenticate": "Bearer"}
            )

    bearer = HTTPBearer(auto_error=False, description="A key of the service.")  # for the description only
    ours = [Depends(same_site)]
    asked = [*ours, Depends(known), *([Depends(bearer)] if keys else [])]

    @api.get(f"{PREFIX}/health", dependencies=ours, responses=_problems(403) | {503: {"model": Health}})
    def health() -> Health:
        """Whether questions are answered; needs no key."""
        model = desk.model
        status = "failed" if model.problem else "ready" if model.ready else "loading"
        stage = "failed; the log of the service says why" if model.problem else model.stage
        found = Health(status=status, stage=stage, waiting=desk.waiting)
        if status == "ready":
            return found
        again = {"Retry-After": str(_LOADING_AGAIN)} if status == "loading" else None
        return JSONResponse(found.model_dump(), 503, again)

    @api.get(f"{PREFIX}/model", dependencies=asked, responses=_problems(401, 403, 503))
    def model() -> Model:
        """The model that answers, and the limits of questions."""
        session = _session(desk)
        return Model(
            name=desk.model.name,
            system=session.model.config.system,
            layers=session.model.config.num_layers,
            layer=session.model.system.layer_rule(session.layer),
            max_new_tokens=session.max_new_tokens,
            max_upload_mb=limits.upload_mb,
            max_pixels=limits.pixels,
            max_prompt=limits.prompt,
            max_turns=limits.turns,
            max_waiting=limits.waiting,
            timeout=limits.timeout,
        )

    @api.post(
        f"{PREFIX}/ground",
        response_model=Answer,
        dependencies=asked,
        responses=_problems(*_REASONS) | {200: {"content": {"text/event-stream": {}}}},
        openapi_extra={"requestBody": _bodies()},
    )
    async def ground(request: Request) -> Response:
        """Answers a question about an image in text and masks.

        With `stream` the response is server-sent events: `text` for each piece of the answer ({"text": …}), then
        `answer` with the whole, or `problem`.
        """
        _session(desk)  # before an image is read for nothing
        if reading.locked():
            raise _refused(TooBusy(desk.seconds))
        async with reading:
            question = await read_question(request, limits)
            image = await run_in_threadpool(images.read, question)
        asking = Asked(image, question.prompt, tuple(each.turn for each in question.turns))
        size = image.shape[:2]
        if question.stream:
            heard: asyncio.Queue[str | None] = asyncio.Queue()
            loop = asyncio.get_running_loop()
            ticket = _join(desk, asking, question, lambda piece: loop.call_soon_threadsafe(heard.put_nowait, piece))
            ticket.reply.add_done_callback(lambda _: _tell_the_end(loop, heard))
            events = _events(ticket, heard, question, size, limits.timeout)
            return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        ticket = _join(desk, asking, question)
        try:
            reply = await _reply(request, ticket, limits.timeout)
        finally:
            ticket.give_up()
        return Response(await _encoded(reply, question, size), media_type="application/json")

    api.add_middleware(BelowRoot, root_path=root_path)
    _answer_errors(api)
    _describe(api)
    return api


class BelowRoot:
    """ASGI middleware: a proxy shows the service below root_path, and removes that part of the address or not."""

    def __init__(self, app: ASGIApp, root_path: str):
        self.app, self.root_path = app, root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app({**scope, "root_path": self.root_path}, receive, send)


# --- from the queue to the response -----------------------------------------------------------------------------------


def _session(desk: Desk) -> "ChatSession":
    """The loaded model."""
    if desk.model.problem:
        raise Refused(503, "no_model", "the model could not be loaded; the log of the service says why")
    if not desk.model.ready:
        again = {"Retry-After": str(_LOADING_AGAIN)}
        raise Refused(503, "loading", f"the model is still being loaded ({desk.model.stage})", again)
    return desk.model.get()


def _join(desk: Desk, asking: Asked, question: Question, on_text: Callable[[str], None] | None = None) -> Ticket:
    try:
        return desk.ask(asking, question.layer, on_text)
    except UserError as error:
        raise _refused(error) from None


async def _reply(request: Request, ticket: Ticket, seconds: float) -> Reply:
    """The reply to a ticket, unless the client leaves or the time is over."""
    reply, gone = asyncio.wrap_future(ticket.reply), asyncio.ensure_future(_left(request))
    try:
        done, _ = await asyncio.wait({reply, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
    if reply not in done:
        reply.cancel()
        raise _late(seconds)
    try:
        return reply.result()
    except Exception as error:
        raise _refused(error) from None


async def _left(request: Request) -> None:
    """Returns when the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _events(
    ticket: Ticket, heard: "asyncio.Queue[str | None]", question: Question, size: tuple[int, int], seconds: float
) -> AsyncIterator[bytes]:
    """The pieces of an answer, then the whole, as server-sent events; comments while nothing is said."""
    end = time.monotonic() + seconds
    try:
        while True:
            try:
                piece = await asyncio.wait_for(heard.get(), max(0.0, min(_BEAT, end - time.monotonic())))
            except TimeoutError:
                if time.monotonic() >= end:
                    raise _late(seconds) from None
                yield format_sse_event(comment="waiting")
                continue
            if piece is None:
                break
            yield _event("text", TextPiece(text=piece).model_dump_json())
        yield _event("answer", await _encoded(ticket.reply.result(), question, size))
    except Exception as error:
        yield _event("problem", _refused(error).problem.model_dump_json())
    finally:
        ticket.give_up()


def _event(name: str, data: str) -> bytes:
    return format_sse_event(event=name, data_str=data)


async def _encoded(reply: Reply, question: Question, size: tuple[int, int]) -> str:
    """The reply as JSON, made in a thread: outlines of large masks take a while."""
    return await run_in_threadpool(lambda: answer_of(reply, question.formats, size).model_dump_json(exclude_none=True))


def _tell_the_end(loop: asyncio.AbstractEventLoop, heard: "asyncio.Queue[str | None]") -> None:
    with contextlib.suppress(RuntimeError):  # the loop has ended, and with it the stream
        loop.call_soon_threadsafe(heard.put_nowait, None)


# --- errors -----------------------------------------------------------------------------------------------------------


def _late(seconds: float) -> Refused:
    return Refused(504, "timeout", f"there was no answer within {seconds:g} s")


def _refused(error: Exception) -> Refused:
    """What a client is told of an error; unexpected ones are logged."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, TooBusy):
        return Refused(429, "too_busy", str(error), {"Retry-After": str(error.seconds)})
    if isinstance(error, UserError):
        return Refused(422, "no_answer", str(error))
    if isinstance(error, GivenUp):
        return Refused(503, "ending", "the service is being stopped")
    log.error("answering a question", exc_info=error)
    return Refused(500, "unexpected", "an unexpected error, which the log of the service has")


def _answer_errors(api: FastAPI) -> None:
    """Makes every error a `Problem`."""

    @api.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> Response:
        return JSONResponse(error.problem.model_dump(), error.status, error.headers)

    @api.exception_handler(HTTPException)
    async def of_routing(_: Request, error: HTTPException) -> Response:
        problem = Problem(problem=error.detail.lower().replace(" ", "_"), message=error.detail)
        return JSONResponse(problem.model_dump(), error.status_code, error.headers)

    @api.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> Response:
        return JSONResponse(Refused(500, "unexpected", _REASONS[500]).problem.model_dump(), 500)


# --- OpenAPI ----------------------------------------------------------------------------------------------------------


_SCHEMAS = "#/components/schemas/{model}"


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The descriptions of responses that are a `Problem`."""
    again = {"headers": {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}}
    return {
        status: {"model": Problem, "description": _REASONS[status], **(again if status in (429, 503) else {})}
        for status in statuses
    }


def _bodies() -> dict[str, Any]:
    """The two forms of a question; FastAPI describes one only."""
    forms = {"application/json": Question, "multipart/form-data": FormQuestion}
    content = {kind: {"schema": {"$ref": _SCHEMAS.format(model=form.__name__)}} for kind, form in forms.items()}
    return {"required": True, "content": content}


def _describe(api: FastAPI) -> None:
    """Adds the schemas of both forms to the description of the service."""
    made = api.openapi
    forms = [(form, "validation") for form in (Question, FormQuestion)]
    _, definitions = models_json_schema(forms, ref_template=_SCHEMAS)

    def openapi() -> dict[str, Any]:
        description = made()
        description["components"]["schemas"] |= definitions["$defs"]
        return description

    api.openapi = openapi
