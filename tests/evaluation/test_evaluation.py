"""Scoring a model: both protocols, batches and processes, reports and sheets."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import eval as eval_script
from dataloaders.evaluation import EvaluationItem
from model.outputs import Answer, Segmentation
from tests.tiny import tiny_model, write_answer
from utils import evaluation
from utils.chat_session import ChatSession
from utils.errors import UserError
from utils.evaluation import evaluate, sample_rows


def item_of(number: int, expressions: int, *, ignored: bool = False, empty: int | None = None) -> EvaluationItem:
    """A picture of noise with some rectangles; expression `empty` has no pixel."""
    rng = np.random.default_rng(number)
    size = (20 + number, 30)
    masks = np.zeros((expressions, *size), np.uint8)
    for index in range(expressions):
        if index != empty:
            masks[index, index : index + 8, number : number + 12] = 1
    ignore = None
    if ignored:
        ignore = np.zeros(size, bool)
        ignore[:3] = True
    tokens = ["[REJ]" if index == empty else "[SEG]" for index in range(expressions)]
    names = [f"ball {index}" for index in range(expressions)]
    return EvaluationItem(
        image_path=Path(f"{number}.jpg"),
        image=rng.integers(0, 256, (*size, 3), dtype=np.uint8),
        expressions=names,
        prompts=[f"What is {name} in this image?" for name in names],
        given_answers=[f"{token}." for token in tokens],
        joint_prompt=f" What are {', '.join(names)}in this image?",
        joint_answer="Sure," + ", ".join(f"{name}:{token}" for name, token in zip(names, tokens)) + ".",
        masks=masks,
        ignore=ignore,
        exists=[index != empty for index in range(expressions)],
        dataset="balls",
        split="val",
    )


ITEMS = [item_of(0, 1, ignored=True), item_of(1, 5), item_of(2, 2, empty=1), item_of(3, 1)]


def score(model, processor, **options):
    return evaluate(model, processor, "balls|val", "nowhere", items=ITEMS, max_new_tokens=16, **options)


class Oracle:
    """Stands for a model that finds every mask but the given one, which it misses."""

    def __init__(self, model, missed: str):
        self.model, self.missed = model, missed

    def __getattr__(self, name):
        return getattr(self.model, name)

    def _logits(self, item: EvaluationItem, index: int) -> torch.Tensor:
        mask = item.masks[index] != 0
        if item.expressions[index] == self.missed:
            mask = np.zeros_like(mask)
        return torch.from_numpy(np.where(mask, 3.0, -3.0)).float()

    def segment(self, batch, layer=None):
        results = []
        for size, kinds in zip(batch.original_sizes, batch.target_is_seg):
            item = ITEMS[size[0] - 20]
            logits = [self._logits(item, index) for index, is_seg in enumerate(kinds) if is_seg]
            results.append(Segmentation(torch.stack(logits), [True] * len(kinds), [3] * len(logits), None))
        return results

    def generate(self, batch, max_new_tokens, layer=None):
        answers = []
        for row, image in enumerate(batch.image_index.tolist()):
            item = ITEMS[batch.original_sizes[image][0] - 20]
            asked = self.model.decode([token for token in batch.input_ids[row].tolist() if token >= 0])
            index = int(asked.split("ball ")[1][0])
            halves = self._logits(item, index).repeat(2, 1, 1)  # two targets that make up the mask
            halves[0, : halves.shape[1] // 2] = halves[1, halves.shape[1] // 2 :] = -3
            present = item.exists[index]
            answers.append(
                Answer(
                    [5], [0, 1] if present else [], halves if present else halves[:0], [1, 2][: 2 * present], None, []
                )
            )
        return answers


@pytest.fixture
def oracle():
    model, processor = tiny_model()
    model.decode = processor.decode
    return Oracle(model, missed="ball 3"), processor


@pytest.mark.parametrize("answer", ["given", "generated"])
@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_scores_are_those_counted_by_hand(oracle, answer, batch_size):
    report = score(*oracle, answer=answer, batch_size=batch_size)

    areas = [[60], [96] * 5, [96, 0], [96]]  # of picture 0 the first 3 of 8 rows of 12 are ignored
    whole = sum(map(sum, areas))
    assert report.gIoU == pytest.approx(8 / 9, abs=1e-12)  # the empty target is rightly empty
    assert report.cIoU == (whole - 96) / whole
    assert report.precision["P@0.9"] == 7 / 8
    assert (report.images, report.expressions, report.empty_targets, report.silent) == (4, 9, 1, 1)
    assert report.layers == ({3: 8} if answer == "given" else {1: 8, 2: 8})


def test_the_given_protocol_runs_on_a_real_model_and_batches_change_nothing():
    model, processor = tiny_model()
    one, many = (score(model, processor, answer="given", batch_size=size) for size in (1, 4))
    assert one.cIoU == many.cIoU and one.gIoU == many.gIoU
    assert sum(one.layers.values()) == 8


def test_the_generated_protocol_runs_on_a_real_model_and_batches_change_nothing():
    reports = []
    for size in (1, 3, 50):
        model, processor = tiny_model()
        write_answer(model, processor.tokenizer.encode("Sure, [SEG] and [SEG].", bos=False))
        reports.append(score(model, processor, answer="generated", batch_size=size))
    assert len({(report.gIoU, report.cIoU) for report in reports}) == 1
    assert sum(reports[0].layers.values()) == 18


def test_an_answer_without_target_predicts_nothing():
    model, processor = tiny_model()
    write_answer(model, processor.tokenizer.encode("It is not there.", bos=False))
    report = score(model, processor, answer="generated")
    assert (report.cIoU, report.gIoU, report.silent) == (0.0, 1 / 9, 9)


def test_the_layer_is_passed_on():
    model, processor = tiny_model()
    assert set(score(model, processor, answer="given", layer=1).layers) == {1}


def test_reading_ahead_changes_nothing(oracle):
    plain, ahead = score(*oracle, answer="given"), score(*oracle, answer="given", workers=2)
    assert (plain.gIoU, plain.cIoU, plain.expressions) == (ahead.gIoU, ahead.cIoU, ahead.expressions)


def test_a_limit_scores_the_first_images_only(oracle):
    assert score(*oracle, limit=2).expressions == 6


def test_the_model_goes_back_to_training():
    model, processor = tiny_model()
    model.train()
    score(model, processor, answer="given")
    assert model.training


def test_masks_that_are_not_numbers_are_an_error(oracle):
    model, processor = oracle
    model._logits = lambda item, index: torch.full(item.masks[index].shape, float("nan"))
    with pytest.raises(UserError, match="not finite"):
        score(model, processor, answer="given")


def test_an_empty_split_is_an_error(oracle):
    with pytest.raises(UserError, match="holds no images"):
        evaluate(*oracle, "balls|val", "nowhere", items=[])


def test_progress_reaches_the_number_of_images(oracle):
    seen = []
    score(*oracle, batch_size=2, progress=lambda done, total, giou: seen.append((done, total)))
    assert seen[-1] == (4, 4)


def _score_in_process(rank: int, world: int, directory: Path, answer: str) -> None:
    torch.set_num_threads(1)
    store = f"file://{directory / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=world)
    model, processor = tiny_model()
    if answer == "generated":
        write_answer(model, processor.tokenizer.encode("Sure, [SEG].", bos=False))
    report = score(model, processor, answer=answer, batch_size=2)
    (directory / f"{rank}.json").write_text(json.dumps(report.to_dict()))
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("answer", ["given", "generated"])
def test_two_processes_report_what_one_does(tmp_path, answer):
    model, processor = tiny_model()
    if answer == "generated":
        write_answer(model, processor.tokenizer.encode("Sure, [SEG].", bos=False))
    alone = score(model, processor, answer=answer, batch_size=2).to_dict()

    torch.multiprocessing.spawn(_score_in_process, (2, tmp_path, answer), nprocs=2)
    both = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]

    for report in (alone, *both):
        del report["seconds"]
    assert both == [alone, alone]


def test_a_sheet_shows_samples_spread_over_the_split():
    model, processor = tiny_model()
    write_answer(model, processor.tokenizer.encode("Sure, [SEG].", bos=False))

    rows = sample_rows(ChatSession(model, processor), "balls|val", ITEMS, 2)

    assert [row.image.shape[0] for row in rows] == [21, 23]
    assert all(row.label == "balls|val" and row.answer == "Sure, [SEG]." and 0 <= row.iou <= 1 for row in rows)
    assert all(row.similarity.shape == row.image.shape[:2] for row in rows)


# --- eval.py ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def loaded(monkeypatch, tmp_path):
    """eval.py with a tiny model and the pictures above in place of what the flags name."""
    model, processor = tiny_model()
    write_answer(model, processor.tokenizer.encode("Sure, [SEG].", bos=False))
    monkeypatch.setattr(eval_script, "load_flagged_model", lambda flags, local_rank: (model, processor))
    monkeypatch.setattr(
        "dataloaders.evaluation.evaluation_sets", lambda specs, root: dict.fromkeys(specs.split("||"), ITEMS)
    )
    return ["--version", "x", "--dataset_dir", str(tmp_path)]


def test_a_report_has_a_place_for_every_split_and_protocol(loaded, tmp_path, capsys):
    output = tmp_path / "deep" / "report.json"

    eval_script.main([*loaded, "--val_dataset", "a|val||b|x|val", "--answer", "both", "--output", str(output)])

    report = json.loads(output.read_text())
    assert list(report["splits"]) == ["a|val", "b|x|val"]
    for split in report["splits"].values():
        assert list(split) == ["given", "generated"]
        assert all(0 <= split[answer][name] <= 1 for answer in split for name in ("gIoU", "cIoU", "P@0.5"))
    assert sum(report["layers"].values()) == 2 * (8 + 9)
    printed = capsys.readouterr().out
    assert "generated" in printed and "a\\|val" in printed
    assert not list(output.parent.glob("*.part"))


def test_a_sheet_and_pictures_are_written(loaded, tmp_path):
    sheet, pictures = tmp_path / "new" / "sheet.png", tmp_path / "vis"

    flags = ["--sheet", str(sheet), "--sheet_samples", "3", "--vis", "1", "--vis_save_path", str(pictures)]
    eval_script.main([*loaded, "--val_dataset", "a|val||b|x|val", *flags])

    assert sheet.stat().st_size > 1000
    assert sorted(str(path.relative_to(pictures)) for path in pictures.rglob("*.png")) == [
        "a_val/0001.png",
        "b_x_val/0001.png",
    ]


@pytest.mark.parametrize(
    "flags,message",
    [
        (["--dataset_dir", "nowhere"], "nowhere"),
        (["--dataset_dir", ".", "--val_dataset", "ReasonSeg|val", "--output", "tests"], "is a directory"),
        (["--dataset_dir", ".", "--val_dataset", "ReasonSeg|val", "--sheet", "eval.py/x.png"], "file is in its place"),
        (["--dataset_dir", ".", "--val_dataset", "ReasonSeg|nowhere"], "ReasonSeg/nowhere is missing"),
        (["--dataset_dir", ".", "--val_dataset", "Cityscapes"], "unknown evaluation set"),
        (["--answer", "guessed"], "guessed"),
        (["--val_batch_size", "0"], "not a positive number"),
        (["--val-datsaet", "x"], "did you mean --val_dataset"),
    ],
)
def test_wrong_flags_are_explained_before_anything_is_loaded(flags, message):
    with pytest.raises(UserError, match=message):
        eval_script.main(["--version", "x", *flags])


def test_an_unknown_protocol_is_our_own_mistake(oracle):
    with pytest.raises(ValueError):
        score(*oracle, answer="guessed")
    assert evaluation.PROTOCOLS == ("given", "generated")
