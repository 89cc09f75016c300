"""The page of backbones and mask decoders: what it compares, and what it refuses."""

import json
from pathlib import Path

import pytest

from groundscore.errors import UserError
from groundscore.splits import QUERY_KINDS
from miniature import pairs

ROOT = Path(__file__).resolve().parents[1]
SCORES = {"llava+sam": 0.5, "llava+sam2": 0.6, "qwen3_vl+sam2": 0.7}


def write_results(directory: Path, base: str, score: float, limit: int = 30) -> None:
    """Results of LISA and, ten points higher, of UGround, with two seeds."""
    settings = {"batch_size": "8", "limit": str(limit), "splits": "all", "held_out": "data", "base": base}
    (directory / "200_steps").mkdir(parents=True)
    for system, more in (("LISA", 0.0), ("UGround", 0.1)):
        for seed in (0, 1):
            result = {
                "row": f"{system}.full",
                "seed": seed,
                "settings": settings,
                "queries": {"generated": dict.fromkeys(QUERY_KINDS, score + more)},
                "history": [{"train/loss": 3.0}],
                "seconds": {"training": 100, "scoring": 20},
            }
            (directory / f"200_steps/{system}.full.seed{seed}.json").write_text(json.dumps(result))


def page_of(tmp_path: Path, *words: str) -> str:
    pairs.main([*words, "--out", str(tmp_path / "page.md")])
    return (tmp_path / "page.md").read_text()


def test_pairs_that_share_a_part_are_compared_in_the_other_and_the_method_in_each(tmp_path):
    for name, score in SCORES.items():
        write_results(tmp_path / name, name, score)
    text = page_of(tmp_path, *(str(tmp_path / name) for name in SCORES))
    both, backbone, decoder, method = (
        " ".join(text.split(f"## {heading}")[1].split("## ")[0].split()) for heading in pairs.QUESTIONS.values()
    )
    assert both.count("- **") == 2 and "UGround: Qwen3-VL + SAM 2.1 against LLaVA + SAM**: better at" in both
    assert backbone.count("- **") == decoder.count("- **") == 2 and method.count("- **") == 3
    assert "LISA: Qwen3-VL + SAM 2.1 against LLaVA + SAM 2.1**: better at explicit +10.0" in backbone
    assert "UGround: LLaVA + SAM 2.1 against LLaVA + SAM**: better at explicit +10.0" in decoder
    assert "LLaVA + SAM: UGround against LISA**: better at explicit +10.0" in method
    assert "| UGround, Qwen3-VL + SAM 2.1 | 2 " in text and "80.0 ± 0.0" in text
    assert "for the first time" in text


def test_a_question_that_no_pair_answers_is_not_asked(tmp_path):
    write_results(tmp_path / "a", "llava+sam", 0.5)
    write_results(tmp_path / "b", "qwen3_vl+sam2", 0.6)
    text = page_of(tmp_path, str(tmp_path / "a"), str(tmp_path / "b"))
    assert [line for line in text.splitlines() if "alike" in line] == [
        "## Both, the method alike",
        "## The method, the rest alike",
    ]
    assert "for the first time" not in text


def test_the_shipped_page_follows_from_the_shipped_results(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert page_of(tmp_path) == (ROOT / "docs/pairs.md").read_text()


def test_a_directory_without_results_says_how_to_make_them(tmp_path):
    message = "nowhere/200_steps holds no result of LISA or UGround on everything; make one with python -m miniature"
    with pytest.raises(UserError, match=message):
        page_of(tmp_path, "nowhere")


def test_a_pair_is_there_once(tmp_path):
    write_results(tmp_path / "a", "llava+sam", 0.5)
    write_results(tmp_path / "b", "llava+sam", 0.6)
    with pytest.raises(UserError, match=r"a and .*b are both of llava\+sam: each pair once"):
        page_of(tmp_path, str(tmp_path / "a"), str(tmp_path / "b"))


def test_results_of_other_settings_make_no_page(tmp_path):
    write_results(tmp_path / "a", "llava+sam", 0.5)
    write_results(tmp_path / "b", "qwen3_vl+sam", 0.5, limit=60)
    with pytest.raises(UserError, match=r"b was made with another --limit than .*a: they do not belong in one table"):
        page_of(tmp_path, str(tmp_path / "a"), str(tmp_path / "b"))


def test_results_that_do_not_say_of_which_base_they_are_are_refused(tmp_path):
    write_results(tmp_path / "a", "llava+sam", 0.5)
    for path in (tmp_path / "a").rglob("*.json"):
        path.write_text(path.read_text().replace(', "base": "llava+sam"', ""))
    with pytest.raises(UserError, match="do not say from which base"):
        page_of(tmp_path, str(tmp_path / "a"))
