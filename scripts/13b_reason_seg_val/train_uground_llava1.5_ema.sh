#!/usr/bin/env bash
# UGround on LLaVA-1.5-13B, EMA baseline: referring expressions and reasoning questions.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
train --dataset "refer_seg||reason_seg" --sample_rates 12,12 \
    --lr 3e-4 --steps_per_epoch 10000 --epochs 30 --eval_interval 10 \
    --val_dataset "ReasonSeg|val" "$@"
