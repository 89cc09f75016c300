#!/usr/bin/env bash
# Talks with PixelLM on LLaVA-1.6-7B about images, in a browser.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
model_page 7b/pixellm ground "$@"
