#!/usr/bin/env bash
# Shows the curves of UGround on the miniature with a critic baseline in a browser on this machine.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
curves miniature/uground_llava1.5_critic "$@"
