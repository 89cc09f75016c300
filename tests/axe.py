"""What axe says about the accessibility of a page that is open in a browser."""

import pytest


def complaints(page) -> list[str]:
    """Everything that axe reports on the page as it is: rule, what is wrong, and the elements."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed: ./build.sh --dev")
    found = axe.Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {one['help']}: " + "; ".join(node["html"][:120] for node in one["nodes"][:3]) for one in found
    ]
