"""Long documents of real text: the files of one package, joined in the order of their paths.

Code (``.py``) and manuals (``.rst``, ``.md``, ``.txt``) of pinned public distributions, each kind
by itself, cut into tokens file by file and joined until a document is long enough. What belongs
here: which distributions, which of their files, how they are joined. A split never divides a
distribution. Tests, lists of changes and what is no prose (requirements, metadata) are left out.

    documents("runs/sources", tokenizer, bos=False)    # {"split", "source", "name", "kind", ...}
"""

import dataclasses
import re
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from cream.data.tokenization import encoded
from cream.data.writer import token_type
from cream.utils.downloads import Pinned, fetch_file
from cream.utils.files import atomic_path
from cream.utils.provenance import hash_of

__all__ = ["KINDS", "LONG", "LONGER", "PACKAGES", "Package", "cut_points", "documents", "facts",
           "read_files"]  # fmt: skip

VERSION = 1  # raised whenever the same archives give other documents
KINDS = {"code": (".py",), "manual": (".rst", ".md", ".txt")}
LONG, LONGER = 66_560, 263_168  # least tokens of a document: L = 65,536 and 262,144, and 1,024 more
EVERY = 8  # one document in so many is a longer one, where so much is left
MOST_CHARACTERS = 400_000  # of a file: larger ones are tables
_TESTS = re.compile(r"(^|/)_?tests?(/|_|\.)|_test\.py$|(^|/)conftest\.py$")
_CHANGES = re.compile(r"release|relnote|change(?!_)|histor|whatsnew|(^|[/_])news([/._]|$)", re.I)
_NO_PROSE = re.compile(r"requirements|(^|/)(SOURCES|top_level|entry_points|LICEN[CS]E)", re.I)


@dataclass(frozen=True)
class Package:
    """One pinned distribution, its licence (an SPDX id), its split, and what is read of it."""

    pinned: Pinned
    licence: str
    split: str
    kinds: tuple[str, ...] = ("code", "manual")
    skipped: tuple[str, ...] = ()  # folders


def _package(
    package: str, version: str, sha256: str, licence: str, split: str, file: str = "", **more: Any
) -> Package:
    """A source archive of the usual name, or a wheel, which has no manual to speak of."""
    file = file or f"{package.replace('-', '_')}-{version}.tar.gz"
    kinds = ("code",) if file.endswith(".whl") else ("code", "manual")
    return Package(Pinned(package, version, file, sha256), licence, split, kinds, **more)


PACKAGES: tuple[Package, ...] = (
    _package(
        "sqlalchemy", "2.1.9", "d700a8b2edfb26282a470333d6bc4a454c4acda4d201a3bea7b72fa76c217d28",
        "MIT", "test",
    ),
    _package(
        "networkx", "3.6.1", "26b7c357accc0c8cde558ad486283728b65b6a95d85ee1cd66bafab4c8168509",
        "BSD-3-Clause", "test",
    ),
    _package(
        "roundup", "2.6.0", "12fd8fb806047415f22131f965c6ab4026a28dc63f7054e055c8f891950591d4",
        "MIT", "test", skipped=("share",),
    ),
    _package(
        "sphinx", "9.0.4", "594ef59d042972abbc581d8baa577404abe4e6c3b04ef61bd7fc2acbd51f3fa3",
        "BSD-2-Clause", "test",
    ),
    _package(
        "celery", "5.7.0", "6a5dfcf6662287204f009a02002b9e66c83d4105e47ebabdc7079108772fc6f0",
        "BSD-3-Clause", "validation",
    ),
    _package(
        "dask", "2026.8.0", "ccc0c83a189b0398602435189771d28dad7b5773b6089bb8dce14ae732dd782c",
        "BSD-3-Clause", "validation", "dask-2026.8.0-py3-none-any.whl",
    ),
    _package(
        "django", "5.2.19", "ad03d8abc51dbff95ebf34b27123cf0c26a3b62db7ba0cd520783686362533d1",
        "BSD-3-Clause", "train",
    ),
    _package(
        "salt", "3008.5", "0259deafd601d783721e5aa8ed10677d8c4d6cc12f5de17499af71590d593315",
        "Apache-2.0", "train",
    ),
    _package(
        "nova", "34.0.0", "919eef77cda4ce0cc4746a5853b5d9341ebd0ae37bc8b1939eb77d17727c00df",
        "Apache-2.0", "train",
    ),
    _package(
        "neutron", "29.0.0", "4dc123ed085a4b2cc8af1c4fa8d7162042c4e7cfa5e895f62e99a3b46d92ba31",
        "Apache-2.0", "train",
    ),
    _package(
        "cinder", "29.0.0", "6372ca98db3d7781031ce5950b44698badd6176db794ff1f74b0621be583429e",
        "Apache-2.0", "train",
    ),
    _package(
        "manila", "23.0.1", "8594a27326116fc9203b1381faea327ea2777a30f85cbbaa4fa29d4818efd4c9",
        "Apache-2.0", "train",
    ),
    _package(
        "ironic", "39.0.0", "205364829cf7ab1d03f80e4c684cf2aa6693170eae8457b9344100e43b737a5e",
        "Apache-2.0", "train",
    ),
    _package(
        "swift", "2.38.3", "561b2f8acc5ce834a0a2bac200e8ccd8784cb5c4a9e3731881d2e66dec4b6006",
        "Apache-2.0", "train",
    ),
    _package(
        "octavia", "19.0.0", "accaa633297c9994439a060e8b786c336fe549bfee6c7314663b514f59a81004",
        "Apache-2.0", "train",
    ),
    _package(
        "keystone", "30.0.0", "8f3f77175a039e408d870c6ea697a4cc4e9cf2755bd6cbc11230db4146dd7df4",
        "Apache-2.0", "train",
    ),
    _package(
        "sympy", "1.14.0", "d3d3fe8df1e5a0b42f0e7bdf50541697dbe7d23746e894990c030e2b05e72517",
        "BSD-3-Clause", "train",
    ),
    _package(
        "twisted", "26.10.0", "5f0355403e507fc23ceea85e9dbb4bc59335aabde41dd324e8b8cea180dd38de",
        "MIT", "test",
    ),
    _package(
        "scrapy", "2.19.0", "34130726582b64c91531162ab277c4053e558876d49ba219cb43679e71d80a87",
        "BSD-3-Clause", "test",
    ),
    _package(
        "transformers", "5.24.0",
        "ff5ebedf9359f94bb63772b6380eba6e7104d010cbbb2cb82c788817ea7486f6",
        "Apache-2.0", "train", "transformers-5.24.0-py3-none-any.whl",
    ),
    _package(
        "homeassistant", "2026.2.3",
        "8167820cac4b8defe895fd2c36ac23402a445d1fe6028e8cde24caabb935282c",
        "Apache-2.0", "train", "homeassistant-2026.2.3-py3-none-any.whl",
    ),
    _package(
        "diffusers", "0.42.1", "9154faa704ce00e0b77f568e0d64786064368528aab5fc14eeea92f87d788014",
        "Apache-2.0", "train", "diffusers-0.42.1-py3-none-any.whl",
    ),
    _package(
        "jax", "0.12.0.1", "e9dfd256ba090259b10f97f0755d4fc92535b8cb38c0a40df6488a8c8a7dd8ae",
        "Apache-2.0", "train", "jax-0.12.0.1-py3-none-any.whl",
    ),
    _package(
        "keras", "3.15.1", "836460e480930acbd19bb7a17e62f9ecad40e8a9af9a651fc8d0586a96d27e20",
        "Apache-2.0", "train", "keras-3.15.1-py3-none-any.whl", skipped=("keras/api",),
    ),
    _package(
        "apache-airflow-core", "3.3.2",
        "99258922bccec15be4700ff89f3c942b8acd93407e263c287ce863e671bb3c50",
        "Apache-2.0", "train", "apache_airflow_core-3.3.2-py3-none-any.whl",
    ),
    _package(
        "tensorflow-probability", "0.25.0",
        "f3f4d6431656c0122906888afe1b67b4400e82bd7f254b45b92e6c5b84ea8e3e",
        "Apache-2.0", "train", "tensorflow_probability-0.25.0-py2.py3-none-any.whl",
        skipped=("tensorflow_probability/substrates",),
    ),
    _package(
        "peft", "0.21.2", "106ab6077ff72c54d21577f9af5970e34bac7582cb14209f7b2b511e322a4eae",
        "Apache-2.0", "train", "peft-0.21.2-py3-none-any.whl",
    ),
)  # fmt: skip


def facts(packages: Sequence[Package] = PACKAGES) -> list[dict[str, Any]]:
    """Return what a manifest says about the sources."""
    return [
        {"name": one.pinned.package, "version": one.pinned.version, "file": one.pinned.file,
         "sha256": one.pinned.sha256, "licence": one.licence, "split": one.split,
         "kinds": list(one.kinds), "skipped": list(one.skipped)}
        for one in packages
    ]  # fmt: skip


def documents(
    cache: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    bos: bool,
    packages: Sequence[Package] = PACKAGES,
    lengths: tuple[int, int] = (LONG, LONGER),
    progress: bool = True,
) -> Iterator[dict[str, Any]]:
    """Fetch the packages into ``cache`` and yield their long documents, tokenised.

    What was fetched and tokenised is kept there, package by package, so that an interrupted run
    goes on where it stopped.

    Args:
        bos: whether each document begins with BOS.
        lengths: least tokens of a document, and of the longer ones (one in eight).

    Yields:
        ``{"split", "source", "name", "kind", "input_ids"}``; name is the first file's path and how
        many more follow. A package with less than one document yields none.
    """
    prefix = np.asarray([tokenizer.bos_token_id] if bos else [], dtype=np.int64)
    for one in tqdm(packages, "long text", unit="package", disable=not progress):
        archive = fetch_file(one.pinned, cache)
        for kind in one.kinds:
            names, ends, tokens = _tokenised(one, kind, archive, Path(cache), tokenizer)
            for start, stop in cut_points(ends, *lengths):
                first = ends[start - 1] if start else 0
                more = f" +{stop - start - 1}" if stop > start + 1 else ""
                yield {
                    "split": one.split,
                    "source": f"{one.pinned.package} {one.pinned.version}",
                    "name": names[start] + more,
                    "kind": kind,
                    "input_ids": np.concatenate([prefix, tokens[first : ends[stop - 1]]]),
                }


def cut_points(ends: Sequence[int], long: int, longer: int) -> list[tuple[int, int]]:
    """Return which files [start, stop) make each document.

    Args:
        ends: tokens up to the end of each file.

    A document closes with the file that brings it to `long` tokens, one in eight (the first, if
    eight have room) to `longer`. What is left over at the end joins the last document.
    """
    found: list[tuple[int, int]] = []
    start, begun = 0, 0
    whole = ends[-1] if len(ends) else 0
    for place, end in enumerate(ends):
        room = whole - begun >= longer + long
        wanted = longer if len(found) % EVERY == 0 and room and whole >= EVERY * long else long
        if end - begun >= wanted:
            found.append((start, place + 1))
            start, begun = place + 1, end
    if found and start < len(ends):
        found[-1] = (found[-1][0], len(ends))
    return found


def _tokenised(
    one: Package, kind: str, archive: Path, cache: Path, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[str], list[int], np.ndarray]:
    """Return names, ends and tokens of a package's files of one kind, computed once and kept."""
    what = hash_of(dataclasses.asdict(one), kind, VERSION, tokenizer.backend_tokenizer.to_str())
    kept = cache / f"{one.pinned.package}-{kind}-{what}.npz"
    if kept.is_file():
        try:
            with np.load(kept) as saved:
                return list(saved["names"]), saved["ends"].tolist(), saved["tokens"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            kept.unlink()  # torn: made again
    files = read_files(archive, kind, one.skipped)
    found = list(encoded(({"text": text, "kind": kind} for _, text in files), tokenizer, bos=False))
    names, ends = (
        [path for path, _ in files],
        list(accumulate(len(each["tokens"]) for each in found)),
    )
    dtype = token_type(len(tokenizer))
    tokens = np.concatenate([np.zeros(0, dtype), *(each["tokens"].astype(dtype) for each in found)])
    with atomic_path(kept) as beside, beside.open("wb") as file:
        np.savez_compressed(file, names=np.asarray(names, dtype=str), ends=ends, tokens=tokens)
    return names, ends, tokens


def read_files(archive: Path, kind: str, skipped: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Return (path, text) of an archive's files of one kind, by path.

    A source archive's own top folder is not part of the path. Files that are not UTF-8, empty, or
    longer than 400,000 characters are left out; so are tests and, of manuals, lists of changes.
    Each text ends with one empty line.
    """
    found = []
    for path, data in _members(archive, KINDS[kind]):
        if _unwanted(path, kind) or any(path.startswith(f"{each}/") for each in skipped):
            continue
        try:
            text = data.decode("utf-8").replace("\r\n", "\n").strip("\n\ufeff")
        except UnicodeDecodeError:
            continue
        if text.strip() and len(text) <= MOST_CHARACTERS:
            found.append((path, text + "\n\n"))
    return sorted(found)


def _unwanted(path: str, kind: str) -> bool:
    if _TESTS.search(path) or "-info/" in path:
        return True
    return kind == "manual" and bool(_CHANGES.search(path) or _NO_PROSE.search(path))


def _members(archive: Path, suffixes: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """Yield path and bytes of the files with a suffix; nothing is unpacked."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as opened:
            for name in opened.namelist():
                if name.endswith(suffixes):
                    yield name, opened.read(name)
        return
    with tarfile.open(archive) as opened:
        for member in opened:
            stream = opened.extractfile(member) if member.isfile() else None
            path = member.name.partition("/")[2]
            if stream and path.endswith(suffixes):
                yield path, stream.read()
