"""What the YAML files of this folder call: documents from the data sets on disk, and scores of the responses.

A document is one expression. A response holds its masks as RLE in JSON, with any words around them, or none
(`groundscore.exchange.lmms_eval.masks_in_text`). Each response is counted when it comes; the scores of all of them are
computed as those of a report.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import datasets
from lmms_eval.api.task import ConfigurableTask
from PIL import Image

from groundscore.benchmark import Benchmark, load
from groundscore.exchange.lmms_eval import masks_in_text
from groundscore.scoring.counts import row_from_dict
from groundscore.scoring.metrics import kind_of
from groundscore.scoring.scorer import Answered
from groundscore.scoring.split_scores import score_split

ROOT = "GROUNDSCORE_DATA"  # the variable that names the data root
METRICS = {"plain": ("gIoU", "cIoU"), "gres": ("gIoU", "cIoU", "N_acc", "T_acc")}  # as in the YAML files
_SPLIT = "test"  # of the datasets library; the split that is scored is the `dataset_name`


@cache
def benchmark_of(spec: str) -> Benchmark:
    """Returns the benchmark of a split, such as "refcoco|unc|val", below the root that `GROUNDSCORE_DATA` names."""
    return load(spec, root=os.environ.get(ROOT, "dataset"))


class GroundscoreTask(ConfigurableTask):
    """A task whose documents are the expressions of a split on disk; nothing is downloaded."""

    def __init__(self, config: dict[str, Any] | None = None, model_name: str | None = None):
        config = {key: value for key, value in (config or {}).items() if key != "class"}
        super().__init__(config=config, model_name=model_name)

    def download(self, dataset_kwargs: Mapping[str, Any] | None = None) -> None:
        """Makes the documents, without their images."""
        spec = self.config.dataset_name
        documents = datasets.Dataset.from_list(list(_documents(benchmark_of(spec))))
        self.dataset = self.dataset_no_image = datasets.DatasetDict({_SPLIT: documents})


def _documents(benchmark: Benchmark) -> Iterator[dict[str, Any]]:
    """Yields the document of each expression, in the order of `groundscore export-items`."""
    for number in range(len(benchmark)):
        item = benchmark[number]
        for index, text in enumerate(item.expressions):
            yield {
                "split": benchmark.spec,
                "id": item.expression_ids[index],
                "image": item.path_below(benchmark.root),
                "item": number,
                "expression": index,
                "text": text,
                "prompt": item.prompts[index],
                "height": item.size[0],
                "width": item.size[1],
            }


def doc_to_visual(doc: Mapping[str, Any]) -> list[Image.Image]:
    """Returns the image."""
    return [Image.fromarray(benchmark_of(doc["split"])[doc["item"]].image)]


def doc_to_text(doc: Mapping[str, Any], lmms_eval_specific_kwargs: Mapping[str, str] | None = None) -> str:
    """Returns the question, with what the YAML file puts before and after it; `{height}`, `{width}`: of the image."""
    around = lmms_eval_specific_kwargs or {}
    before, after = around.get("pre_prompt", ""), around.get("post_prompt", "")
    for name in ("height", "width"):
        after = after.replace(f"{{{name}}}", str(doc[name]))
    return f"{before}{doc['prompt']}{after}"


def doc_to_target(doc: Mapping[str, Any]) -> str:
    """Returns the id of the expression, by which a sample log is read again."""
    return doc["id"]


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Returns the counts of a response, the same for every metric."""
    benchmark = benchmark_of(doc["split"])
    item = benchmark.read(doc["item"])
    response = results[0] if results else ""
    masks = masks_in_text(response)
    where = f"{doc['split']}, {doc['id']}"
    answered = Answered(where=where, masks=masks, present=bool(masks), protocol="generated")
    counted = {"split": doc["split"]} | benchmark.scorer().row(item, doc["expression"], answered).to_dict()
    return dict.fromkeys(METRICS[kind_of(doc["split"])], counted)


def _aggregation(metric: str) -> Callable[[Sequence[dict[str, Any]]], float]:
    """Returns what makes a score of the counts of all responses; -1 where the metric does not apply to any."""

    def aggregate(results: Sequence[dict[str, Any]]) -> float:
        rows = [row_from_dict({key: value for key, value in one.items() if key != "split"}) for one in results]
        value = score_split(results[0]["split"], rows, bootstrap=0)[metric]
        return -1.0 if value is None else value

    return aggregate


giou, ciou, n_acc, t_acc = map(_aggregation, METRICS["gres"])
