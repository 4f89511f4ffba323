"""A model to talk to: `python -m cream.chat RUN` in a terminal, or on a page with `--web`.

Belongs here: a conversation within a model's target length, answers as they are generated, where
in a file an answer's words stand, the terminal and the page. Does not: chat templates of training
data (`data.chat`, which turns stored conversations into text), nor answers that are counted
(`evaluation`). Read first: `conversation`; then `streaming`, which generates.
"""

from cream.chat.conversation import Chat, TextFile, TooLong
from cream.chat.models import ChatModel, open_model, open_original
from cream.chat.sources import Source, find_source

__all__ = [
    "Chat",
    "ChatModel",
    "Source",
    "TextFile",
    "TooLong",
    "find_source",
    "open_model",
    "open_original",
]
