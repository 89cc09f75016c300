#!/usr/bin/env bash
# UGround on LLaVA-1.6-7B, learned critic as baseline: all referring sets;
# a named CLIP size also trains the projector. Two GPUs.
gpus=0,1
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
train --dataset refer_seg --sample_rates 12 \
    --lr 1e-4 --steps_per_epoch 1000 --epochs 30 --eval_interval 20 \
    --resize_vision_tower --resize_vision_tower_size 336 --val_dataset "grefcoco|unc|val" "$@"
