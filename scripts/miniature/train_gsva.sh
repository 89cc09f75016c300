#!/usr/bin/env bash
# GSVA on the miniature: expressions with none, one or many targets, reasoning questions and dialogues.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
train --dataset "refer_seg||reason_seg||vqa" --sample_rates 2,1,1 --refer_seg_data "refcoco||grefcoco" \
    --num_classes_per_question 2 --dice_loss_weight 4 --val_dataset "ReasonSeg|val" "$@"
