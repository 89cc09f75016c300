#!/usr/bin/env bash
# UGround on LLaVA-1.6-7B, learned critic as baseline: reasoning questions.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
train --dataset reason_seg --sample_rates 12 \
    --lr 1e-4 --steps_per_epoch 100 --epochs 30 --eval_interval 10 \
    --val_dataset "ReasonSeg|val" "$@"
