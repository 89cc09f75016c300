"""Multimodal LLMs, one file each: images and text -> hidden states of every layer."""
