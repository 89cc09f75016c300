"""Mask decoders, one file each: prompts -> masks."""
