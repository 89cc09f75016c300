#!/usr/bin/env bash
# LISA on LLaVA-1.6, on generalised referring expressions.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
train --dataset refer_seg --sample_rates 12 --refer_seg_data grefcoco --num_classes_per_question 3 \
    --lr 3e-4 --dice_loss_weight 0.5 --steps_per_epoch 500 --epochs 20 --val_dataset "grefcoco|unc|val" "$@"
