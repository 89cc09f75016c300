"""What our HTML pages share: their head and style, facts about a report, and images inside the page.

A page needs no other file, words from data and model are escaped, and it may load or run nothing.
"""

import base64
import html
import io
import shlex
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

STYLE = """
:root { color-scheme: light dark; --line: #d5d9df; --soft: #5b6570; --card: #fff; --page: #f4f5f7; --ink: #1c1e22;
        --link: #1459b3 }
@media (prefers-color-scheme: dark) {
  :root { --line: #3a3f47; --soft: #a3adb8; --card: #22252a; --page: #17191c; --ink: #e8eaed; --link: #8cb8f5 }
}
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 1240px; padding: 24px; font: 15px/1.45 system-ui, sans-serif;
       background: var(--page); color: var(--ink) }
@media (max-width: 600px) { body { padding: 14px } }
h1 { font-size: 24px; margin: 0 0 4px; overflow-wrap: anywhere }
h2 { font-size: 19px; margin: 36px 0 4px; overflow-wrap: anywhere } h3 { font-size: 16px; margin: 20px 0 8px }
p { margin: 0 0 8px } .soft { color: var(--soft) } a { color: var(--link) }
a:focus-visible, input:focus-visible, summary:focus-visible, [tabindex]:focus-visible {
  outline: 2px solid var(--link); outline-offset: 2px }
article { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 12px; min-width: 0 }
figure { margin: 0; min-width: 0 } img { display: block; width: 100%; height: auto; border-radius: 4px }
figcaption { font-size: 12px; color: var(--soft) }
.asked { font-weight: 600; overflow-wrap: anywhere }
.facts { display: grid; grid-template-columns: max-content 1fr; gap: 2px 14px; margin: 8px 0 12px }
.facts dt { color: var(--soft) } .facts dd { margin: 0; overflow-wrap: anywhere }
@media (max-width: 600px) { .facts { grid-template-columns: 1fr; gap: 0 } .facts dd { margin-bottom: 6px } }
code { font: 13px/1.5 ui-monospace, monospace; overflow-wrap: anywhere }
"""


def page_head(title: str, style: str = "") -> str:
    """Returns a page's beginning up to its heading; it may load and run nothing. style: rules beside `STYLE`.

    The caller ends the page with `PAGE_END`.
    """
    name = html.escape(title)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name}</title>\n<style>{STYLE}{style}</style>\n</head>\n<body>\n<main>\n<h1>{name}</h1>\n"
    )


PAGE_END = "</main>\n</body>\n</html>\n"


def facts_list(facts: Mapping[str, str]) -> str:
    """Returns names and what is said of them, as a list."""
    shown = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(fact)}</dd>" for name, fact in facts.items())
    return f'<dl class="facts">{shown}</dl>\n' if facts else ""


def report_facts(report: Mapping[str, Any]) -> dict[str, str]:
    """What a report says besides scores: the model or the file of masks, data, protocol, program."""
    facts = {}
    if checkpoint := report.get("checkpoint"):
        facts = {"checkpoint": checkpoint["version"], "system": checkpoint["system"]}
        facts["weights (SHA-256)"] = checkpoint["sha256"]
        facts["run with"] = f"{checkpoint['dtype']} on {checkpoint['device']}"
    elif predictions := report.get("predictions"):
        facts = {"masks from": predictions["file"]}
    protocol = report["protocol"]
    limit = protocol.get("limit")
    facts["data"] = f"{report['dataset_dir']}, " + ("all images" if limit is None else f"the first {limit} images each")
    facts["protocol"] = ", ".join(
        f"{name} {protocol[name]}"
        for name in ("answer", "expressions", "layer", "max_new_tokens", "gres_reference")
        if protocol.get(name) and (name != "answer" or checkpoint)  # of saved masks the headings of the splits say it
    )
    if report.get("versions"):
        facts["versions"] = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    if report.get("command"):
        facts["command"] = shlex.join(report["command"])
    return {name: str(fact) for name, fact in facts.items() if fact}


def inline_image(image: np.ndarray) -> str:
    """Returns an image uint8 [H, W, 3] as base64 JPEG for a `data:` address."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=85)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
