#!/usr/bin/env bash
# Trains READ on LLaVA-1.6-13B on ReasonSeg.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
train 13b/read "$@"
