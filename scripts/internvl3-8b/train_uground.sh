#!/usr/bin/env bash
# Trains UGround on InternVL3-8B with an EMA baseline on ReasonSeg's 239 images.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
train internvl3-8b/uground "$@"
