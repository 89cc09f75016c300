#!/usr/bin/env bash
# PixelLM on LLaVA-1.6 with 3 x 2 tokens, its decoder on CLIP features of 448 pixels and no SAM.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
train --dataset "sem_seg||refer_seg||vqa||multi_reason_seg" --sample_rates 12,12,3,3 --num_classes_per_question 3 \
    --lr 3e-4 --dice_loss_weight 4 \
    --seg_token_num 3 --image_feature_scale_num 2 --vision_tower_for_mask --separate_mm_projector \
    --pad_train_clip_images --resize_vision_tower --resize_vision_tower_size 448 \
    --steps_per_epoch 500 --epochs 30 --val_dataset "ReasonSeg|val" "$@"
