"""Every event of every tab, sent by hand with values that no widget gives: answered without a look behind the page."""

import json

import pytest

from miniature import data
from tests.dashboard.test_experiments import write_run
from tests.dashboard.visits import Visit, running, tiny_session

WRONG = [
    None,
    -1,
    1e300,
    "../../etc/passwd",
    ["../../etc/passwd"],
    "<script>alert(1)</script>" * 1000,
    {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}},
]
SECRETS = ("Traceback", "site-packages", "root:", 'File \\"')


@pytest.fixture(scope="module")
def visit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("events")
    data.write(folder / "dataset", seed=5, scale=0.02, sets=["refcoco"])
    write_run(folder / "runs/one", [{"step": 1, "train/loss": 1.0}])
    places = ("--dataset_dir", str(folder / "dataset"), "--runs_dir", str(folder / "runs"))
    with running(tiny_session(), None, *places, tab=None) as server:
        visit = Visit(server.url)
        yield visit
        visit.close()


@pytest.mark.parametrize("value", WRONG, ids=lambda value: str(value)[:16])
def test_no_event_shows_what_is_behind_the_page(visit, value):
    for event in visit.config["dependencies"]:
        messages = visit.trigger(event, [value] * len(event["inputs"]), {"index": value, "value": value})
        said = json.dumps(messages)
        assert not [secret for secret in SECRETS if secret in said], (event["targets"], said[:1000])
    assert visit.http.get("/config").status_code == 200
