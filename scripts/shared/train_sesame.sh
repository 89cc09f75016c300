#!/usr/bin/env bash
# SESAME on LLaVA-1.6, on reasoning questions.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
train --dataset reason_seg --sample_rates 12 --num_classes_per_question 3 \
    --lr 3e-4 --dice_loss_weight 0.5 --steps_per_epoch 500 --epochs 20 --val_dataset "ReasonSeg|val" "$@"
