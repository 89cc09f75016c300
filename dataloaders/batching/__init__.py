"""Sample -> Batch: templates, tokenization, packing. How images are prepared is the model's (`collate.Processor`)."""
