#!/usr/bin/env bash
# UGround on LLaVA-1.6-7B, EMA baseline: expressions with none, one or many targets.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
train --dataset refer_seg --sample_rates 12 --refer_seg_data "refcocog||refzom||grefcoco" \
    --lr 1e-4 --steps_per_epoch 10000 --epochs 30 --eval_interval 50 \
    --val_dataset "grefcoco|unc|val" "$@"
