"""What transformers and its hub offer to every model works for ours."""

import base64
import json

import huggingface_hub
import pytest
import torch
from huggingface_hub.utils import _http
from transformers import AutoConfig, AutoModel, AutoProcessor

import checkpoints.registration  # noqa: F401  (importing it is what registers)
from checkpoints import load_model, push_to_hub, save_model
from checkpoints.processing import GroundingProcessor
from groundscore.errors import UserError
from model.config import GroundingConfig
from model.grounding import GroundingModel
from model.systems import SYSTEMS
from tests.tiny import tiny_model

httpx = getattr(_http, "httpx2", None) or _http.httpx  # whichever client this version of the hub's library uses


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_auto_classes_read_a_saved_directory(tmp_path, system):
    ours, processor = tiny_model(system)
    save_model(ours, processor, tmp_path / "saved")
    assert isinstance(AutoConfig.from_pretrained(tmp_path / "saved"), GroundingConfig)
    again = AutoModel.from_pretrained(tmp_path / "saved")
    assert isinstance(again, GroundingModel) and again.config.system == system
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in ours.state_dict().items())
    other = AutoProcessor.from_pretrained(tmp_path / "saved")
    assert isinstance(other, GroundingProcessor)
    assert vars(other) == vars(processor) | {"tokenizer": other.tokenizer}
    assert other.tokenizer.added_tokens == processor.tokenizer.added_tokens


def test_save_pretrained_of_model_and_processor_make_a_directory_of_ours(tmp_path):
    ours, processor = tiny_model("UGround")
    ours.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    again, _, report = load_model(tmp_path / "saved")
    assert not report.new
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in ours.state_dict().items())


# --- the hub ---------------------------------------------------------------------------------------------------------


class Hub:
    """The hub's side of an upload: takes every file in the commit itself."""

    def __init__(self):
        self.created, self.files, self.refuses = None, {}, False

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path, body = request.url.path, request.read()
        if self.refuses:
            return httpx.Response(403, request=request)
        if path == "/api/repos/create":
            self.created = json.loads(body)
            return httpx.Response(200, json={"url": "https://huggingface.co/me/kite", "name": "me/kite"})
        if "/preupload/" in path:
            files = [{"path": file["path"], "uploadMode": "regular"} for file in json.loads(body)["files"]]
            return httpx.Response(200, json={"files": [file | {"shouldIgnore": False} for file in files]})
        if "/commit/" in path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return httpx.Response(200, json={"commitUrl": "https://huggingface.co/me/kite/commit/1", "commitOid": "1"})
        if path == "/api/validate-yaml":
            return httpx.Response(200, json={"errors": [], "warnings": []})
        if request.method == "GET":
            return httpx.Response(200, json={"id": "me/kite", "sha": "0" * 40, "siblings": []})
        return httpx.Response(500, text=path)


@pytest.fixture
def hub():
    server = Hub()
    huggingface_hub.set_client_factory(lambda: httpx.Client(transport=httpx.MockTransport(server)))
    yield server
    huggingface_hub.set_client_factory(_http.default_client_factory)


def test_a_model_goes_to_the_hub_whole_and_with_a_card(hub, tmp_path):
    ours, processor = tiny_model("READ")
    scores = {"ReasonSeg|val": {"gIoU": 0.5123, "cIoU": None}}
    address = push_to_hub(ours, processor, "me/kite", token="hf_x", base="liuhaotian/llava", scores=scores)
    assert address == "https://huggingface.co/me/kite/commit/1"
    assert hub.created["name"] == "kite" and hub.created["organization"] == "me"
    for name, content in hub.files.items():
        (tmp_path / name).write_bytes(content)
    again, _, report = load_model(tmp_path)
    assert report.system == "READ" and not report.new
    assert torch.equal(again.lm_head.weight, ours.lm_head.weight)
    card = huggingface_hub.ModelCard.load(tmp_path / "README.md")
    assert card.data.library_name == "transformers" and card.data.base_model == "liuhaotian/llava"
    assert "| ReasonSeg\\|val | 51.2 | none |" in card.text
    assert "--version me/kite" in card.text


def test_a_refused_upload_is_explained(hub):
    ours, processor = tiny_model("LISA")
    with pytest.raises(UserError, match="checkpoints.push_to_hub"):
        ours.push_to_hub("me/kite")
    hub.refuses = True
    with pytest.raises(UserError, match="me/kite was not uploaded: .*403"):
        push_to_hub(ours, processor, "me/kite", token="hf_x")


def test_the_card_does_not_tell_where_files_lay(tmp_path):
    ours, processor = tiny_model("LISA")
    save_model(ours, processor, tmp_path / "kite", base=str(tmp_path / "llava-v1.5-7b"))
    card = (tmp_path / "kite" / "README.md").read_text()
    assert "| base | llava-v1.5-7b |" in card and str(tmp_path) not in card
    assert "No scores were recorded" in card
