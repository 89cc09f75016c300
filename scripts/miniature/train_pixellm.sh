#!/usr/bin/env bash
# PixelLM on the miniature with 3 x 2 tokens, its decoder on CLIP features of 256 pixels and no SAM.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
train --dataset "refer_seg||reason_seg" --sample_rates 1,1 --refer_seg_data refcoco --dice_loss_weight 4 \
    --seg_token_num 3 --image_feature_scale_num 2 --vision_tower_for_mask --separate_mm_projector \
    --pad_train_clip_images --resize_vision_tower --resize_vision_tower_size 256 \
    --unfreeze image_feature_neck --val_dataset "ReasonSeg|val" "$@"
