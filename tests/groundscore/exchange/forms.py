"""The same predictions written in every form that people have them in."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from groundscore.exchange.jsonl import write_predictions
from groundscore.exchange.mask_files import slug
from groundscore.rle import decode
from groundscore.scoring.masks import encode_mask
from groundscore.scoring.metrics import kind_of


def noisy_predictions(split, seed=0):
    """Yields (item, index of the expression, masks [n, H, W]): one mask with a pixel, or none; several for MUSE."""
    rng = np.random.default_rng(seed)
    for item in split:
        for index, targets in enumerate(item.targets):
            truth = np.stack([decode(target) for target in targets] or [np.zeros(item.size, np.uint8)]).astype(bool)
            if kind_of(split.spec) != "muse":
                truth = truth.any(0, keepdims=True)
            masks = truth ^ (rng.random(truth.shape) < 0.2)
            masks[:, 0, 0] = True
            yield item, index, masks if rng.random() < 0.8 else masks[:0]


def as_jsonl(path: Path, split):
    several = kind_of(split.spec) == "muse"
    lines = []
    for item, index, masks in noisy_predictions(split):
        encoded = [encode_mask(mask) for mask in masks]
        line = {"split": split.spec, "image": item.path_below(split.root), "expression": index}
        line |= {} if item.index is None else {"index": item.index}
        line |= {"masks": encoded} if several else {"mask": encoded[0] if encoded else None}
        lines.append(line | {"present": bool(encoded)})
    write_predictions(path, lines)
    return path


def as_coco(path: Path, split, key="expression_id"):
    entries = []
    for item, index, masks in noisy_predictions(split):
        ids = {
            "expression_id": item.expression_ids[index],
            "sent_id": item.sentence_ids[index] if item.sentence_ids else None,
            "file_name": item.image_path.name,
        }
        named = {key: ids[key]} | ({"text": item.expressions[index]} if key == "file_name" else {})
        for mask in [encode_mask(mask) for mask in masks] or [None]:
            entry = {"image_id": item.image_path.name, "category_id": 1, "score": 0.7, "segmentation": mask}
            entries.append(entry | named)
    path.write_text(json.dumps(entries))
    return path


def as_png(path: Path, split):
    path.mkdir(parents=True)
    for item, index, masks in noisy_predictions(split):
        name = path / item.expression_ids[index]
        files = [name.with_name(f"{name.name}.png")]
        if kind_of(split.spec) == "muse":
            name.mkdir()
            files = [name / f"{number}.png" for number in range(len(masks))]
            masks = masks if files else np.zeros((1, *item.size), bool)
            files = files or [name / "0.png"]
        elif not len(masks):
            masks = np.zeros((1, *item.size), bool)
        for file, mask in zip(files, masks, strict=True):
            Image.fromarray(mask.astype(np.uint8) * 255).save(file)
    return path


def as_npz(path: Path, split):
    arrays = {
        item.expression_ids[index]: masks if kind_of(split.spec) == "muse" else masks.any(0)
        for item, index, masks in noisy_predictions(split)
    }
    np.savez_compressed(path, **arrays)
    return path


def as_sam3_agent(path: Path, split):
    """The layout of facebookresearch/sam3's `run_single_image_inference`."""
    path.mkdir(parents=True)
    for number, (item, index, masks) in enumerate(noisy_predictions(split)):
        height, width = item.size
        content = {
            "original_image_path": f"/data/{item.image_path.name}",
            "orig_img_h": height,
            "orig_img_w": width,
            "pred_boxes": [[0.1, 0.1, 0.2, 0.2]] * len(masks),
            "pred_scores": [0.9] * len(masks),
            "pred_masks": [encode_mask(mask)["counts"] for mask in masks],
            "text_prompt": item.expressions[index],
            "image_path": f"/data/{item.image_path.name}",
        }
        (path / f"{item.image_path.stem}_{number}_agent_qwen_pred.json").write_text(json.dumps(content, indent=4))
    return path


def as_lmms_eval(path: Path, split):
    """The layout of lmms-eval's `EvaluationTracker.save_results_samples`."""
    path.mkdir(parents=True)
    lines = []
    for number, (item, index, masks) in enumerate(noisy_predictions(split)):
        text = f"Sure: {json.dumps([encode_mask(mask) for mask in masks])}." if len(masks) else "There is none."
        lines.append({"doc_id": number, "target": item.expression_ids[index], "filtered_resps": text, "doc_hash": "0"})
    log = path / f"20260101_000000_samples_groundscore_{slug(split.spec)}.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
