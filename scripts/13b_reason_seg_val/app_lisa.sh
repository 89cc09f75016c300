#!/usr/bin/env bash
# Talks with LISA on LLaVA-1.6-13B about images, in a browser.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
model_page 13b/lisa ground "$@"
