"""The tiny project that the tests of this room talk to."""

import chatting
import pytest


@pytest.fixture(scope="session")
def chat_place(tmp_path_factory, tiny_model, tiny_tokenizer):
    """A project folder with base/ and runs/done, random weights, L = 1,024."""
    root = tmp_path_factory.mktemp("chat")
    chatting.lay_out(root, tiny_model(chatting.WINDOW), tiny_tokenizer)
    return root
