"""The extended checkpoint for other engines: transformers 4, vLLM, SGLang, llama.cpp.

Belongs here: writing and checking such a copy, its model card. Does not: our own checkpoints
(`models.checkpoints`). Read first: `checkpoint`.
"""
