#!/usr/bin/env bash
# Talks with UGround on InternVL3-8B about images, in the terminal.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
chat internvl3-8b/uground "$@"
