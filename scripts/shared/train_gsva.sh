#!/usr/bin/env bash
# GSVA on LLaVA-1.6, on label maps, referring expressions, dialogues and several targets at once; two GPUs.
gpus=0,1
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
train --dataset "sem_seg||refer_seg||vqa||multi_reason_seg" --sample_rates 12,12,3,3 --num_classes_per_question 5 \
    --lr 3e-4 --dice_loss_weight 4 --steps_per_epoch 500 --epochs 30 --val_dataset "ReasonSeg|val" "$@"
