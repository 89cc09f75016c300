"""Scoring a model on a split: counts, batches, what stops an evaluation, and how it goes on."""

import numpy as np
import pytest
import torch

from evaluation.predicting import predict
from evaluation.progress import ScoreBar
from evaluation.questions import Protocol
from evaluation.records import PartialResults, fingerprint, weights_hash
from evaluation.running import Effort, evaluate
from groundscore.errors import UserError
from tests.evaluation.balls import Oracle, item_of, muse_item
from tests.tiny import tiny_model, write_answer
from training.validation import Validation

ITEMS = [item_of(0, 1, ignored=True), item_of(1, 5), item_of(2, 2, empty=1), item_of(3, 1)]
ONE_TARGET = "Sure, [SEG]."
GIVEN = Protocol("given")


def run(model, processor, protocol=GIVEN, items=ITEMS, **options):
    return evaluate(model, processor, "balls|val", "nowhere", protocol, items=items, **options)


def talkative(answer: str = ONE_TARGET):
    """A tiny model that gives every prompt the same answer."""
    model, processor = tiny_model()
    write_answer(model, processor.tokenizer.encode(answer, bos=False))
    return model, processor


@pytest.fixture
def oracle():
    model, processor = tiny_model()
    return Oracle(model, processor, ITEMS, missed="ball 3"), processor


def places_of(outcome):
    return [(row.item, row.expression) for row in outcome.rows]


@pytest.mark.parametrize("answer", ["given", "generated"])
@pytest.mark.parametrize("images", [1, 3, 50])
def test_rows_are_those_counted_by_hand(oracle, answer, images):
    protocol = Protocol(answer, max_new_tokens=16)
    outcome = run(*oracle, protocol, effort=Effort(images=images))

    assert places_of(outcome) == [(0, 0), *((1, index) for index in range(5)), (2, 0), (2, 1), (3, 0)]
    counts = [(row.intersection, row.union, row.predicted_area, row.target_area) for row in outcome.rows]
    found = (96, 96, 96, 96)
    drawn_wrongly = (0, 25, 25, 0) if answer == "given" else (0, 0, 0, 0)
    # Of image 0 the first 3 of 8 rows of 12 are ignored.
    assert counts == [(60, 60, 60, 60), found, found, found, (0, 96, 0, 96), found, found, drawn_wrongly, found]
    assert [row.present for row in outcome.rows] == [True] * 7 + [answer == "given", True]
    assert [row.exists for row in outcome.rows] == [True] * 7 + [False, True]
    assert [row.ref for row in outcome.rows] == [10, 10, 11, 12, 13, 14, 10, 11, 10]
    assert outcome.images == 4
    assert outcome.layers == ({3: 9} if answer == "given" else {1: 8, 2: 8})


@pytest.mark.parametrize("answer", ["given", "generated"])
@pytest.mark.parametrize("expressions", ["together", "single"])
def test_batches_and_parts_change_nothing(answer, expressions):
    outcomes = []
    for effort in (Effort(1, 1), Effort(1, 64), Effort(2, 3), Effort(50, 64)):
        model, processor = talkative() if answer == "generated" else tiny_model()
        outcomes.append(run(model, processor, Protocol(answer, expressions, max_new_tokens=9), effort=effort))
    assert all(outcome.rows == outcomes[0].rows for outcome in outcomes)
    assert all(outcome.layers == outcomes[0].layers for outcome in outcomes)


def test_a_limit_scores_the_first_images_only(oracle):
    assert places_of(run(*oracle, Protocol("given", limit=2)))[-1] == (1, 4)


def test_reading_ahead_changes_nothing(oracle):
    assert run(*oracle).rows == run(*oracle, effort=Effort(workers=2)).rows


def test_validation_reads_images_in_processes_and_scores_the_same(monkeypatch):
    monkeypatch.setattr("training.validation.evaluation_set", lambda *_: ITEMS)
    model, processor = tiny_model()
    scores = []
    for workers in (0, 2):
        validation = Validation(["a|val"], "nowhere", answer="given", layer=None, batch_size=2, workers=workers)
        scores.append(validation.score("a|val", model, processor))
    assert scores[0] == scores[1] and scores[0]["images"] == 4


def test_the_layer_is_passed_on():
    assert set(run(*tiny_model(), Protocol("given", layer=1)).layers) == {1}


def test_the_model_goes_back_to_training():
    model, processor = tiny_model()
    model.train()
    run(model, processor)
    assert model.training


# --- what cannot be scored -------------------------------------------------------------------------------------------


def test_logits_that_are_not_numbers_name_their_image(oracle):
    model, processor = oracle
    find = model.logits
    model.logits = lambda item, index: find(item, index) * (float("nan") if item is ITEMS[1] else 1.0)
    with pytest.raises(UserError, match=r"1\.jpg.*not finite"):
        run(model, processor)


@pytest.mark.parametrize("workers", [0, 1])
def test_masks_of_another_size_name_their_image(oracle, workers):
    broken = item_of(3, 1)
    broken.masks = np.ones((1, 30, 23), np.uint8)
    with pytest.raises(UserError, match=r"^balls\|val: 3\.jpg is 23 x 30 pixels, but its masks are 30 x 23"):
        run(*oracle, items=[broken], effort=Effort(workers=workers))


def test_an_empty_split_is_an_error(oracle):
    with pytest.raises(UserError, match="contains no images"):
        run(*oracle, items=[])


def test_a_question_that_does_not_fit_is_an_error():
    model, processor = tiny_model()
    model.config.text_config.max_position_embeddings = 60
    with pytest.raises(UserError, match=r"longer than the 60 .*1\.jpg.*--expressions single"):
        run(model, processor)


def test_a_given_answer_with_too_few_targets_is_an_error():
    item = muse_item(0, 2)
    item.answers = ["bar [SEG]."]
    with pytest.raises(UserError, match="names 1 targets, but there are 2 masks"):
        run(*tiny_model(), items=[item])


# --- going on --------------------------------------------------------------------------------------------------------


class Killed(Exception):
    pass


def killed_after(images: int):
    def progress(done, total, giou, ciou):
        if done >= images:
            raise Killed

    return progress


@pytest.mark.parametrize("items", [ITEMS, [muse_item(0, 1, 2), muse_item(1, 3), muse_item(2, 1), muse_item(3, 2)]])
def test_a_killed_evaluation_goes_on_where_it_stopped(tmp_path, items):
    whole = run(*talkative(), Protocol("generated", max_new_tokens=9), items=items)
    partial = PartialResults(tmp_path / "p", "abc")
    options = {"items": items, "effort": Effort(images=1), "partial": partial}
    with pytest.raises(Killed):
        run(*talkative(), Protocol("generated", max_new_tokens=9), progress=killed_after(2), **options)
    (file,) = (tmp_path / "p").iterdir()
    file.write_text(file.read_text() + '{"item": 2, "rows": [')  # killed while it wrote

    seen = []
    outcome = run(*talkative(), Protocol("generated", max_new_tokens=9), progress=lambda *p: seen.append(p), **options)

    assert outcome.resumed == 2 and seen[0][:2] == (2, 4) and seen[-1][:2] == (4, 4)
    assert outcome.rows == whole.rows and outcome.layers == whole.layers
    again = run(*talkative(), Protocol("generated", max_new_tokens=9), **options)
    assert again.resumed == 4 and again.rows == whole.rows
    partial.remove()
    assert not (tmp_path / "p").exists()


def test_another_fingerprint_finds_nothing(tmp_path, oracle):
    run(*oracle, partial=PartialResults(tmp_path, "abc"))
    assert run(*oracle, partial=PartialResults(tmp_path, "abd")).resumed == 0


def test_a_fingerprint_tells_weights_and_protocols_apart():
    first, _ = tiny_model()
    same, _ = tiny_model()
    other, _ = tiny_model(seed=1)
    assert weights_hash(first) == weights_hash(same) != weights_hash(other)
    assert fingerprint("x", Protocol("given").to_dict()) != fingerprint("x", Protocol("generated").to_dict())


def test_weights_of_half_precision_have_a_hash():
    model, _ = tiny_model()
    assert weights_hash(model) != weights_hash(model.to(torch.bfloat16))


def test_images_whose_annotations_changed_are_counted_anew(tmp_path, oracle, caplog):
    partial = PartialResults(tmp_path, "abc")
    whole = run(*oracle, partial=partial)
    changed = [item_of(0, 1, ignored=True), item_of(1, 5), item_of(2, 2, empty=1), item_of(3, 1)]
    changed[1].masks = changed[1].masks.copy()
    changed[1].masks[0, :2] = 0
    outcome = run(*oracle, items=changed, partial=partial)
    assert outcome.resumed == 3 and "1 images or their annotations changed" in caplog.text
    assert outcome.rows[0] == whole.rows[0] and outcome.rows[1].target_area != whole.rows[1].target_area
    assert run(*oracle, items=changed, partial=partial).resumed == 4


def test_another_fingerprint_of_the_same_key_is_removed_unless_it_is_in_use(tmp_path, oracle):
    run(*oracle, partial=PartialResults(tmp_path, "old", "key"))
    run(*oracle, partial=PartialResults(tmp_path, "other", "else"))
    with PartialResults(tmp_path, "used", "key").open(0, 1):
        run(*oracle, partial=PartialResults(tmp_path, "new", "key"))
        assert {path.name for path in tmp_path.iterdir()} == {
            "key-new.0.partial",
            "key-used.0.partial",
            "else-other.0.partial",
        }


def test_two_processes_do_not_write_to_one_file(tmp_path):
    partial = PartialResults(tmp_path, "abc")
    with partial.open(0, 1) as one, partial.open(0, 1) as other:
        one.add([])
        other.add([])
        partial.remove()
        assert len(list(tmp_path.iterdir())) == 2, "in use"
    partial.remove()
    assert not tmp_path.exists()


# --- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["given", "generated"])
@pytest.mark.parametrize("workers", [0, 1])
def test_where_memory_ends_an_evaluation_goes_on_with_half_as_much(answer, workers, monkeypatch, caplog):
    model, protocol = talkative(), Protocol(answer, "single", max_new_tokens=9)
    whole = run(*model, protocol)
    sizes = []

    def predict_in_small_memory(model, work, *arguments):
        sizes.append(sum(len(part.refs) for part in work.parts))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return predict(model, work, *arguments)

    monkeypatch.setattr("evaluation.running.predict", predict_in_small_memory)
    outcome = run(*model, protocol, effort=Effort(images=4, expressions=8, workers=workers))
    assert outcome.rows == whole.rows and outcome.layers == whole.layers
    assert max(sizes) > 2 and sizes[-1] <= 2
    assert caplog.text.count("balls|val: out of memory with 4 images and 8 expressions at a time") == 1


def test_memory_that_does_not_suffice_for_one_expression_is_one_line(oracle, monkeypatch):
    def no_memory(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.\nTraceback")

    monkeypatch.setattr("evaluation.running.predict", no_memory)
    with pytest.raises(UserError, match=r"^out of memory even with one image and one expression at a time; [^\n]*$"):
        run(*oracle)


# --- progress --------------------------------------------------------------------------------------------------------


class Terminal:
    def __init__(self):
        self.text = ""

    def isatty(self):
        return True

    def write(self, text):
        self.text += text

    def flush(self):
        pass


def test_the_bar_shows_scores_and_the_time_left(oracle):
    terminal = Terminal()
    run(*oracle, effort=Effort(images=1), progress=ScoreBar("balls", stream=terminal))
    lines = terminal.text.split("\r\x1b[K")
    assert "2/4  gIoU 83.3  cIoU 82.2  0:00 left" in lines[3]
    assert lines[-1] == "", "the finished line makes room for the table"


def test_the_time_left_does_not_count_what_came_before_the_first_call(monkeypatch):
    now = iter([0.0, 1000.0, 1010.0])
    monkeypatch.setattr("groundscore.progress.time.monotonic", lambda: next(now))
    bar = ScoreBar("balls", stream=(terminal := Terminal()))
    bar(0, 3, None, None)
    bar(1, 3, None, None)
    assert "1/3  0:20 left" in terminal.text
