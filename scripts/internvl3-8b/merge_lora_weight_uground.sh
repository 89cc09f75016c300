#!/usr/bin/env bash
# Merges UGround on InternVL3-8B into one self-contained model, and checks it.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
merge internvl3-8b/uground "$@"
