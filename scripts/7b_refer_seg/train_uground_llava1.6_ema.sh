#!/usr/bin/env bash
# UGround on LLaVA-1.6-7B, EMA baseline: referring expressions.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
train --dataset refer_seg --sample_rates 12 \
    --lr 1e-4 --steps_per_epoch 1000 --epochs 40 --eval_interval 50 \
    --val_dataset "refcoco|unc|val" "$@"
