#!/usr/bin/env bash
# Trains PixelLM on the miniature with 3 x 2 tokens a target, its decoder on CLIP features of 256 pixels and no SAM.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
train miniature/pixellm "$@"
