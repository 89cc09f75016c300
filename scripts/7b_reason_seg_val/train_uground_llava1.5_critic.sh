#!/usr/bin/env bash
# UGround on LLaVA-1.5-7B, learned critic as baseline: referring expressions and reasoning questions.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
train --dataset "refer_seg||reason_seg" --sample_rates 12,12 \
    --lr 3e-4 --steps_per_epoch 100 --epochs 120 --eval_interval 10 \
    --val_dataset "ReasonSeg|val" "$@"
