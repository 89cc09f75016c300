#!/usr/bin/env bash
# Trains PixelLM on LLaVA-1.6-7B with 3 x 2 tokens a target, its decoder on CLIP features of 448 pixels and no SAM.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
train 7b/pixellm "$@"
