"""What the page shows, as HTML: every word of a person, a file or a model escaped, here alone.

What belongs here: the style sheet, and from a conversation to the HTML of its panel.
"""

from html import escape

from cream.chat.conversation import Chat, TextFile, Turn
from cream.chat.models import ChatModel
from cream.chat.sources import Source, find_source

__all__ = ["STYLE", "heading", "panel", "placeholder", "sidebar"]

STYLE = """
.gradio-container {max-width: 1600px !important; padding: 0 16px !important}
.gradio-container main.contain, .gradio-container main {padding-top: 8px !important}
footer {display: none !important}
.cc {font-size: 14px; line-height: 1.45; color: var(--body-text-color)}
.cc h1 {font-size: 17px; font-weight: 600; margin: 0}
.cc .dim {opacity: .72; font-size: 12.5px; font-weight: 400}
.panel-box {border: 1px solid var(--border-color-primary); border-radius: 6px; min-width: 0;
  height: calc(100vh - 172px); min-height: 300px; overflow-y: auto !important;
  padding: 0 !important}
.panel-box .panel-box {border: 0; height: auto; min-height: 0; overflow: visible !important}
.cc-head {position: sticky; top: 0; background: var(--background-fill-primary); z-index: 1;
  border-bottom: 1px solid var(--border-color-primary); padding: 8px 12px}
.cc-head b {font-weight: 600; overflow-wrap: anywhere}
.cc-turns {padding: 2px 12px 12px}
.cc-who {font-size: 12px; opacity: .72; margin: 10px 0 2px}
.cc-text {white-space: pre-wrap; overflow-wrap: anywhere}
.cc-user {background: var(--background-fill-secondary); border-radius: 6px; padding: 6px 10px}
.cc-chip {display: inline-block; border: 1px solid var(--border-color-primary); border-radius: 4px;
  padding: 0 6px; font-size: 12.5px; margin: 0 4px 4px 0; overflow-wrap: anywhere}
.cc-source {border-left: 3px solid #2b6cb0; padding: 2px 0 2px 10px; margin: 8px 0; font-size: 13px}
.cc-source.none {border-color: var(--border-color-primary); opacity: .72}
.cc-source mark {background: #ffe58a; color: #1a1a1a; padding: 0 1px}
.cc-depth {position: relative; height: 8px; border-radius: 4px; margin: 5px 0;
  background: var(--border-color-primary)}
.cc-depth i {position: absolute; top: -2px; width: 4px; height: 12px; margin-left: -2px;
  background: #2b6cb0; border-radius: 2px}
.cc-usage {margin-bottom: 12px; overflow-wrap: anywhere}
.cc-bar {height: 8px; border-radius: 4px; background: var(--border-color-primary);
  overflow: hidden; margin-top: 4px}
.cc-bar i {display: block; height: 100%; background: #2b6cb0}
.cc-bar.over i {background: #b7791f}
.cc-notice {border: 1px solid var(--border-color-primary); border-radius: 6px; padding: 6px 8px;
  margin-top: 8px; overflow-wrap: anywhere; font-size: 13px}
.cc-notice.refused {border-color: #c53030}
"""
WHO = {"user": "You", "assistant": "Model"}


def heading(models: list[ChatModel]) -> str:
    """The page's first line: which models, and how they answer."""
    names = " beside the original ".join(escape(one.name) for one in models)
    return (
        f'<div class="cc"><h1>{names}</h1><span class="dim">The same question to each; greedy '
        "decoding. What a model says may be wrong: the source shows where in the file its words "
        "stand.</span></div>"
    )


def placeholder(model: ChatModel) -> str:
    """What the empty field for questions says."""
    if model.has_template:
        return "Ask a question (Enter asks, Shift+Enter begins a line)"
    return "Text to continue: this base model has no chat template (Enter asks)"


def sidebar(chats: list[Chat], notice: str = "", refused: bool = False) -> str:
    """Tokens used of L by each model, the files that wait, and what was last refused or done."""
    parts = [_usage(chat) for chat in chats]
    if waiting := chats[0].files:
        parts.append('<div class="dim">With the next question:</div>' + _chips(waiting))
    if notice:
        kind = " refused" if refused else ""
        parts.append(f'<div class="cc-notice{kind}" role="status">{escape(notice)}</div>')
    return f'<div class="cc">{"".join(parts)}</div>'


def _usage(chat: Chat) -> str:
    budget = chat.used()
    share = min(100, 100 * budget.used / budget.limit)
    over = budget.used > budget.limit
    length = f"its window of {budget.limit:,}" if chat.model.beyond else f"L = {budget.limit:,}"
    said = f"{budget.used:,} tokens used of {length}" + (": beyond it" if over else "")
    return (
        f'<div class="cc-usage"><b>{escape(chat.model.name)}</b><br>'
        f'<span class="dim">{said}; an answer takes at most {budget.answer:,}</span>'
        f'<div class="cc-bar{" over" if over else ""}"><i style="width:{share:.1f}%"></i></div>'
        "</div>"
    )


def panel(chat: Chat, note: str = "", growing: str | None = None) -> str:
    """One model's conversation; `growing` is an answer that is not yet whole."""
    kind = "original" if chat.model.beyond else "model"
    head = f'<div class="cc-head"><b>{escape(chat.model.name)}</b> <span class="dim">{kind}'
    if not chat.model.has_template:
        head += "; no chat template, so it continues the text"
    head += f"{' · ' + escape(note) if note else ''}</span></div>"
    files: list[TextFile] = []
    turns, question = [], ""
    for turn in chat.turns:
        files += [file for file in turn.files if file not in files]
        turns.append(_turn(turn, files, question))
        question = turn.text
    if growing is not None:
        turns.append(_said("assistant", growing + " ▌"))
    return f'<div class="cc">{head}<div class="cc-turns">{"".join(turns)}</div></div>'


def _turn(turn: Turn, files: list[TextFile], question: str) -> str:
    said = _said(turn.role, turn.text, _chips(turn.files))
    if turn.role == "user" or not files:
        return said
    each = [(file, find_source(turn.text, file.text, question)) for file in files]
    found = [(file, source) for file, source in each if source]
    if not found:
        return said + '<div class="cc-source none">not found in the text</div>'
    best = max(found, key=lambda one: (one[1].exact, one[1].weight))
    return said + _source(*best)


def _said(role: str, text: str, before: str = "") -> str:
    style = " cc-user" if role == "user" else ""
    words = escape(text) if text else '<span class="dim">(no words)</span>'
    return (
        f'<div class="cc-who">{WHO[role]}</div>'
        f'<div class="cc-text{style}">{before}{words}</div>'
    )


def _chips(files: list[TextFile] | tuple[TextFile, ...]) -> str:
    return "".join(f'<span class="cc-chip">{escape(one.name)}</span>' for one in files)


def _source(file: TextFile, source: Source) -> str:
    before, here, after = map(escape, source.excerpt(file.text))
    return (
        f'<div class="cc-source"><b>{escape(file.name)}</b>: {escape(str(source))}'
        f'<div class="cc-depth" title="the whole text, from its beginning to its end">'
        f'<i style="left:{source.depth_percent:.1f}%"></i></div>'
        f'<span class="cc-text">{before}<mark>{here}</mark>{after}</span></div>'
    )
