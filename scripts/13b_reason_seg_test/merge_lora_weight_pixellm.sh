#!/usr/bin/env bash
# Merges PixelLM on LLaVA-1.6-13B into one self-contained model, and checks it.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
merge 13b/pixellm "$@"
