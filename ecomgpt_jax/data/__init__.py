"""From instances to device batches: tokenizer, packing plan, pipeline."""
