#!/usr/bin/env bash
# UGround on LLaVA-1.5-13B, learned critic as baseline: label maps, referring expressions, reasoning questions.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
train --dataset "sem_seg||refer_seg||reason_seg" --sample_rates 12,12,12 \
    --lr 3e-4 --steps_per_epoch 10000 --epochs 30 --eval_interval 10 \
    --val_dataset "ReasonSeg|val" "$@"
