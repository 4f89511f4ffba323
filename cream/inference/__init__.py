"""Answers and likelihoods of a loaded model, or of a server.

Belongs here: batching, the key-value cache, stopping, likelihood at any length, HTTP. Does not:
what is asked (`tasks`). Read first: `generation`.
"""
