"""What the rules of axe-core find on the page: nothing, on any tab, light and dark, wide and narrow."""

import pytest

from dashboard import TABS
from miniature import data
from tests.axe import complaints
from tests.dashboard.screens import Screen
from tests.dashboard.test_experiments import write_run
from tests.dashboard.visits import running, tiny_session


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tabs")
    data.write(folder / "dataset", seed=5, scale=0.02, sets=["refcoco"])
    write_run(folder / "runs/first", [{"step": step, "train/loss": 5 / step} for step in range(1, 9)])
    places = ("--dataset_dir", str(folder / "dataset"), "--runs_dir", str(folder / "runs"))
    with running(tiny_session(), None, *places, tab=None) as server:
        yield server


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_reports_nothing_on_any_tab(browser, server, width, theme):
    screen = Screen(browser, f"{server.url}?__theme={theme}", width, "#ground-ask:not([disabled])")
    page = screen.page
    page.wait_for_selector(".turn.shown")
    there = {"data": "#data-overlay img", "layers": "#layers-show:not([disabled])", "runs": "#runs-plot .vega-embed"}
    for name, tab in TABS.items():
        screen.open_tab(tab.title)
        page.wait_for_selector(there.get(name, "#ground-viewer .legend li"))
        assert complaints(page) == [], name
        assert not screen.cut_off()
    screen.leave()
