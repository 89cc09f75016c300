"""The flags of the reference's published training scripts, as facts: what ours are compared with in `test_recipes.py`.

A family with share 0 draws nothing and is left out; flags that the reference parses and never reads are, too.
"""

COMMON = {
    "batch_size": 2,
    "grad_accumulation_steps": 10,
    "num_classes_per_question": 3,
    "use_expand_question_list": True,
    "warmup_num_steps": 100,
    "warmup_min_lr": 0,
    "ce_loss_weight": 1,
    "bce_loss_weight": 2,
    "resume_from_best": True,
    "separate_mm_projector": True,
    "lora_alpha": 16,
    "lora_dropout": 0.05,
    "explanatory": 0.1,
    "beta1": 0.9,
    "beta2": 0.95,
    "num_classes_per_sample": 3,
    "gpus": 1,
}
UGROUND = COMMON | {
    "dice_loss_weight": 4,
    "eval_legacy": True,
    "pad_train_clip_images": True,
    "mode": 3,
    "refer_seg_data": "refclef||refcoco||refcoco+||refcocog||refzom||grefcoco",
}


def _uground(data: dict, val: str, steps: int, every: int, epochs: int, lr: float = 3e-4, **more) -> dict:
    return UGROUND | {
        "data": data, "val_dataset": val, "steps_per_epoch": steps, "eval_interval": every, "epochs": epochs, "lr": lr,
    } | more  # fmt: skip


REASON = {"reason_seg": 12}
REFER = {"refer_seg": 12}
REFER_REASON = {"refer_seg": 12, "reason_seg": 12}
SEM_REFER_REASON = {"sem_seg": 12, "refer_seg": 12, "reason_seg": 12}
VAL, TEST, GRES, REFCOCO = "ReasonSeg|val", "ReasonSeg|test", "grefcoco|unc|testB", "refcoco|unc|val"
LLAVA_16 = _uground(REASON, VAL, 100, 10, 30, 1e-4)  # the same in every folder but for the split

# folder -> base and baseline -> flags
UGROUND_RECIPES = {
    "7b_reason_seg_val": {
        "llava1.5_ema": _uground(REASON, VAL, 200, 10, 120, mode=1),
        "llava1.5_critic": _uground(REFER_REASON, VAL, 100, 10, 120, mode=1),
        "llava1.6_ema": LLAVA_16,
        "llava1.6_critic": LLAVA_16,
    },
    "7b_reason_seg_test": {
        "llava1.5_ema": _uground(SEM_REFER_REASON, TEST, 1000, 10, 30),
        "llava1.5_critic": _uground(REASON, TEST, 100, 10, 30),
        "llava1.6_ema": LLAVA_16 | {"val_dataset": TEST},
        "llava1.6_critic": LLAVA_16 | {"val_dataset": TEST},
    },
    "7b_grefer_seg": {
        "llava1.5_ema": _uground(REFER, GRES, 10000, 50, 30, 1e-4, refer_seg_data="refcocog||refzom||grefcoco"),
        "llava1.5_critic": _uground(
            REFER, GRES, 1000, 20, 30, resize_vision_tower=True, resize_vision_tower_size=336, gpus=2
        ),
        "llava1.6_ema": LLAVA_16,
        "llava1.6_critic": LLAVA_16,
    },
    "7b_refer_seg": {
        "llava1.5_ema": _uground(REFER, REFCOCO, 1000, 50, 40),
        "llava1.5_critic": _uground(REFER, REFCOCO, 1000, 50, 40),
        "llava1.6_ema": LLAVA_16,
        "llava1.6_critic": LLAVA_16,
    },
    "13b_reason_seg_val": {
        "llava1.5_ema": _uground(REFER_REASON, VAL, 10000, 10, 30),
        "llava1.5_critic": _uground(SEM_REFER_REASON, VAL, 10000, 10, 30),
        "llava1.6_ema": LLAVA_16,
        "llava1.6_critic": LLAVA_16,
    },
    "13b_reason_seg_test": {
        "llava1.5_ema": _uground(SEM_REFER_REASON, TEST, 1000, 10, 30),
        "llava1.5_critic": _uground(REASON, TEST, 100, 10, 30),
        "llava1.6_ema": LLAVA_16 | {"val_dataset": TEST},
        "llava1.6_critic": LLAVA_16 | {"val_dataset": TEST},
    },
}

# The other systems: one recipe each, the same file in every folder, always 7B on LLaVA-1.6.
SHARES = {"sem_seg": 12, "refer_seg": 12, "vqa": 3, "multi_reason_seg": 3}
OTHER = COMMON | {"lr": 3e-4, "val_dataset": VAL, "steps_per_epoch": 500, "eval_interval": 0, "lora_r": 8}
OTHER_RECIPES = {
    "lisa": OTHER | {"data": REFER, "refer_seg_data": "grefcoco", "dice_loss_weight": 0.5, "epochs": 20},
    "sesame": OTHER | {"data": REASON, "dice_loss_weight": 0.5, "epochs": 20},
    "read": OTHER | {"data": REASON, "dice_loss_weight": 4, "epochs": 30},
    "gsva": OTHER | {"data": SHARES, "dice_loss_weight": 4, "epochs": 30, "num_classes_per_question": 5, "gpus": 2},
    "pixellm": OTHER
    | {
        "data": SHARES,
        "dice_loss_weight": 4,
        "epochs": 30,
        "seg_token_num": 3,
        "image_feature_scale_num": 2,
        "pad_train_clip_images": True,
        "resize_vision_tower": True,
        "resize_vision_tower_size": 448,
        "vision_tower_for_mask": True,
        "vision_pretrained": None,
        "unfreeze": "",
    },
}
