"""From a source distribution to plain-text documents: which files, in which order, cleaned how.

What belongs here: reading the manuals inside one archive (reStructuredText, Markdown, text, and
the docstrings of modules), putting chapters into the manual's own order, joining short ones, and
cleaning mark-up that carries no words. Which archives are read is in ``sources``; tokens are in
``corpus``. Pure functions of the archive's bytes: the same archive gives the same documents.
"""

import ast
import posixpath
import re
import tarfile
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

__all__ = ["clean", "docstrings", "join", "manual_order", "read_manual"]

VERSION = 1  # raised whenever the same archive gives other text
SUFFIXES = (".rst", ".txt", ".md", ".inc")
CHANGES = re.compile(r"release|relnote|change|history|whatsnew|\bnews\b|newsfragment", re.I)
CHANGES_SHARE = 0.2  # at most this share of a distribution's text is lists of changes

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028\u2029\ufeff]")
_RULER = re.compile(r"([=\-~^\"'`#*+_.<>:|])\1{4,}")
_MARKS = re.compile(r"(?:[+|][-=]{4})+[+|]")
_TARGET = re.compile(r"^[ \t]*\.\. +(?:_.*?:(?: .*)?|index::.*|highlight::.*|currentmodule::.*)$")
_HIDDEN = re.compile(r"^([ \t]*)\.\.(?: (?!\S.*::|_|\[).*)?$")
_DROPPED = re.compile(
    r"^([ \t]*)\.\. (?:toctree|contents|index|image|figure|highlight|meta|raw|include|"
    r"literalinclude|autoclass|automodule|autofunction|automethod|autoattribute|autosummary|"
    r"list-plugins|testsetup|testcleanup|tags|only|ifconfig|graphviz)::"
)
_ROLE = re.compile(r":[a-zA-Z][\w:+.-]*:`([^`]+)`")
_ANCHOR = re.compile(r"\s*<[^<>`]+>$")
_LINK = re.compile(r"`([^`<>]+?)\s*<[^<>`]+>`__?")
_ENTRY = re.compile(r"^(?:.*<)?([\w./*-]+?)>?\s*$")


def clean(text: str) -> str:
    """Return plain text: unified newlines, no control characters, no word-less mark-up.

    Roles and links become their words; tables of contents, targets, comments and inclusions go;
    rulers longer than four characters and runs of blank lines are shortened.
    """
    text = _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n").expandtabs(4))
    lines = [line.rstrip() for line in _visible(text.split("\n"))]
    text = _LINK.sub(r"\1", _ROLE.sub(_role_words, "\n".join(lines))).replace("``", "`")
    text = _MARKS.sub("+----+", _RULER.sub(r"\1\1\1\1", text))
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n")


def _role_words(match: re.Match[str]) -> str:
    words = _ANCHOR.sub("", match.group(1)) or match.group(1)
    return words.rsplit(".", 1)[-1] if words.startswith("~") else words.lstrip("!")


def _visible(lines: Sequence[str]) -> Iterator[str]:
    """Yield the lines outside hidden blocks (a comment's or a dropped directive's body)."""
    hidden: int | None = None
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if hidden is not None and (not line.strip() or indent > hidden):
            continue
        hidden = None
        block = _DROPPED.match(line) or _HIDDEN.match(line)
        if block:
            hidden = len(block.group(1))
        elif not _TARGET.match(line):
            yield line


def manual_order(files: Mapping[str, str]) -> list[str]:
    """Order chapters as the manual does: depth first through its tables of contents.

    Args:
        files: text by path. Chapters no table names follow, sorted by path.
    """
    seen: dict[str, None] = {}

    def visit(path: str) -> None:
        if path in seen:
            return
        seen[path] = None
        for entry in _toctree(files[path]):
            for found in _resolve(path, entry, files):
                visit(found)

    depth_first = sorted(files, key=lambda path: (path.count("/"), not _is_index(path), path))
    for path in depth_first:
        if _is_index(path):
            visit(path)
    for path in sorted(files):
        visit(path)
    return list(seen)


def _is_index(path: str) -> bool:
    return posixpath.splitext(posixpath.basename(path))[0] in ("index", "contents")


def _toctree(text: str) -> Iterator[str]:
    inside: int | None = None
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        if inside is not None and line.strip() and indent <= inside:
            inside = None
        if re.match(r"\s*\.\. toctree::", line):
            inside = indent
        elif inside is not None and not line.strip().startswith(":"):
            entry = _ENTRY.match(line.strip())
            if entry:
                yield entry.group(1)


def _resolve(path: str, entry: str, files: Mapping[str, str]) -> list[str]:
    folder = "" if entry.startswith("/") else posixpath.dirname(path)
    target = posixpath.normpath(posixpath.join(folder, entry.lstrip("/")))
    names = [target, *(target + suffix for suffix in SUFFIXES)]
    if "*" in target:
        pattern = re.compile(re.escape(target).replace(r"\*", "[^/]*") + r"(?:\.\w+)?$")
        return sorted(name for name in files if pattern.match(name))
    return [name for name in names if name in files][:1]


def docstrings(source: str) -> str:
    """Return a module's docstrings in order, each after its name, or "" where nothing parses."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return ""
    named = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    parts = [_dedent(ast.get_docstring(tree, clean=False) or "")]
    for node in sorted((n for n in ast.walk(tree) if isinstance(n, named)), key=_line):
        words = ast.get_docstring(node, clean=False)
        if words and not node.name.startswith("_"):
            parts.append(f"{node.name}\n\n{_dedent(words)}")
    return "\n\n".join(part for part in parts if len(part) > 80)


def _dedent(words: str) -> str:
    """Dedent all lines but the first; not inspect.cleandoc, which Python versions change."""
    first, _, rest = words.expandtabs(8).strip().partition("\n")
    return f"{first}\n{textwrap.dedent(rest)}".strip()


def _line(node: ast.AST) -> int:
    return getattr(node, "lineno", 0)


def join(chapters: Iterable[tuple[str, str]], size: int) -> Iterator[tuple[str, str]]:
    """Join consecutive chapters until each document has ``size`` characters.

    Yields (name, text); the name is the first chapter's, with the number of further ones. A
    short rest is joined to the document before it.
    """
    documents: list[tuple[str, list[str]]] = []
    open_size = size
    for name, text in chapters:
        if open_size >= size:
            documents.append((name, []))
            open_size = 0
        documents[-1][1].append(text)
        open_size += len(text)
    if len(documents) > 1 and open_size < size:
        documents[-2][1].extend(documents.pop()[1])
    for name, texts in documents:
        label = name if len(texts) == 1 else f"{name} +{len(texts) - 1}"
        yield label, "\n\n".join(texts) + "\n"


def read_manual(
    archive: Path,
    roots: Sequence[str],
    modules: Sequence[str] = (),
    books: Sequence[str] = (),
    skipped: Sequence[str] = (),
    size: int = 24_000,
) -> list[tuple[str, str]]:
    """Read the documents of one source distribution.

    Args:
        archive: a ``.tar.gz``.
        roots: folders inside the archive's top folder that hold manuals ("" for files in it).
        modules: folders whose modules' docstrings are read too.
        books: folders each joined into one long document.
        skipped: folders that hold no prose. Tests are never read.
        size: characters from which a document stands alone.

    Returns:
        (name, text) in the manual's order, changes last and at most a fifth of the text.
    """
    manuals, sources = _members(archive, tuple(roots), tuple(modules), tuple(skipped))
    chapters = [(path, clean(manuals[path])) for path in manual_order(manuals)]
    chapters = [(path, text) for path, text in chapters if len(text) >= 200]
    documents: list[tuple[str, str]] = []
    for book in books:
        inside = [item for item in chapters if item[0].startswith(book + "/")]
        chapters = [item for item in chapters if not item[0].startswith(book + "/")]
        documents += join(inside, 10**9)
    changes = [item for item in chapters if CHANGES.search(item[0])]
    documents += join((item for item in chapters if not CHANGES.search(item[0])), size)
    spoken = ((path, clean(docstrings(sources[path]))) for path in sorted(sources))
    documents += join((item for item in spoken if len(item[1]) >= 400), size)
    allowed = CHANGES_SHARE * sum(len(text) for _, text in documents)
    return documents + list(join(_first(reversed(changes), allowed), size))


def _first(chapters: Iterable[tuple[str, str]], characters: float) -> Iterator[tuple[str, str]]:
    for name, text in chapters:
        if len(text) <= characters:
            characters -= len(text)
            yield name, text


def _members(
    archive: Path, roots: tuple[str, ...], modules: tuple[str, ...], skipped: tuple[str, ...]
) -> tuple[dict[str, str], dict[str, str]]:
    manuals: dict[str, str] = {}
    sources: dict[str, str] = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            path = member.name.partition("/")[2]
            wanted = _under(path, roots) and path.endswith(SUFFIXES)
            spoken = _under(path, modules) and path.endswith(".py") and "/tests/" not in path
            if not member.isfile() or _under(path, skipped) or not (wanted or spoken):
                continue
            stream = tar.extractfile(member)
            try:
                text = stream.read().decode("utf-8") if stream else ""
            except UnicodeDecodeError:
                continue
            (manuals if wanted else sources)[path] = text
    return manuals, sources


def _under(path: str, folders: tuple[str, ...]) -> bool:
    return any(path.startswith(folder + "/") if folder else "/" not in path for folder in folders)
