"""Sample -> Batch: templates, tokenization, packing, image preparation."""
