#!/usr/bin/env bash
# Merges SESAME on LLaVA-1.6-13B into one self-contained model, and checks it.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
merge 13b/sesame "$@"
