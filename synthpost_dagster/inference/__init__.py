"""Inference: loading models, chat templates, and the generation of replies."""
