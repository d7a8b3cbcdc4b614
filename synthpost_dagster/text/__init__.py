"""Normal form, words, sentences and special tokens of texts."""
