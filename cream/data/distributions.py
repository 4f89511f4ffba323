"""The pinned public distributions the miniature's text comes from.

What belongs here: names, versions, hashes, licences, splits; nothing about tokens, and fetching is
in `utils.downloads`. A split never divides a distribution. Two tiers: the "reproduce" sources
(about 24 MB, half a minute) serve every fine-tuning and evaluation on a laptop; the "pretrain"
sources were added for the base model alone. None of it is committed.
"""

import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from cream.data import manuals
from cream.utils.downloads import Pinned, fetch_file
from cream.utils.files import atomic_write
from cream.utils.provenance import hash_of

__all__ = [
    "DISTRIBUTIONS",
    "SPLITS",
    "TIERS",
    "Distribution",
    "distributions",
    "documents",
]

SPLITS = ("train", "validation", "test")
TIERS = ("reproduce", "pretrain")


@dataclass(frozen=True)
class Distribution:
    """One pinned source distribution: what it is, and where its words are."""

    name: str
    version: str
    sha256: str
    licence: str
    split: str
    tier: str
    roots: tuple[str, ...]
    modules: tuple[str, ...] = ()
    books: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()

    @property
    def pinned(self) -> Pinned:
        """Its source archive, as `fetch_file` fetches it."""
        return Pinned(self.name, self.version, f"{self.name}-{self.version}.tar.gz", self.sha256)


OPENSTACK = ("doc/source", "api-guide/source", "specs")
DISTRIBUTIONS: tuple[Distribution, ...] = (
    Distribution(
        "sqlalchemy", "2.1.9", "d700a8b2edfb26282a470333d6bc4a454c4acda4d201a3bea7b72fa76c217d28",
        "MIT", "test", "reproduce", ("doc/build",), (), ("doc/build/tutorial",
        "doc/build/orm/queryguide", "doc/build/orm/extensions"),
    ),
    Distribution(
        "celery", "5.7.0", "6a5dfcf6662287204f009a02002b9e66c83d4105e47ebabdc7079108772fc6f0",
        "BSD-3-Clause", "validation", "reproduce", ("docs",),
    ),
    Distribution(
        "django", "5.2.19", "ad03d8abc51dbff95ebf34b27123cf0c26a3b62db7ba0cd520783686362533d1",
        "BSD-3-Clause", "train", "reproduce", ("docs",), (), ("docs/intro", "docs/ref/contrib/gis"),
    ),
    Distribution(
        "salt", "3008.5", "0259deafd601d783721e5aa8ed10677d8c4d6cc12f5de17499af71590d593315",
        "Apache-2.0", "train", "pretrain", ("doc",),
        ("salt/modules", "salt/states", "salt/runners", "salt/returners", "salt/cloud",
         "salt/utils", "salt/pillar", "salt/beacons", "salt/engines"),
        ("doc/topics/cloud",), ("doc/topics/releases",),
    ),
    Distribution(
        "nova", "34.0.0", "919eef77cda4ce0cc4746a5853b5d9341ebd0ae37bc8b1939eb77d17727c00df",
        "Apache-2.0", "train", "pretrain", OPENSTACK, ("nova",),
    ),
    Distribution(
        "neutron", "29.0.0", "4dc123ed085a4b2cc8af1c4fa8d7162042c4e7cfa5e895f62e99a3b46d92ba31",
        "Apache-2.0", "train", "pretrain", OPENSTACK, ("neutron",),
    ),
    Distribution(
        "cinder", "29.0.0", "6372ca98db3d7781031ce5950b44698badd6176db794ff1f74b0621be583429e",
        "Apache-2.0", "train", "pretrain", OPENSTACK, ("cinder",),
    ),
    Distribution(
        "ironic", "39.0.0", "205364829cf7ab1d03f80e4c684cf2aa6693170eae8457b9344100e43b737a5e",
        "Apache-2.0", "train", "pretrain", OPENSTACK, ("ironic",),
    ),
    Distribution(
        "manila", "23.0.1", "8594a27326116fc9203b1381faea327ea2777a30f85cbbaa4fa29d4818efd4c9",
        "Apache-2.0", "train", "pretrain", OPENSTACK, ("manila",),
    ),
    Distribution(
        "octavia", "19.0.0", "accaa633297c9994439a060e8b786c336fe549bfee6c7314663b514f59a81004",
        "Apache-2.0", "train", "pretrain", OPENSTACK, ("octavia",),
    ),
    Distribution(
        "keystone", "30.0.0", "8f3f77175a039e408d870c6ea697a4cc4e9cf2755bd6cbc11230db4146dd7df4",
        "Apache-2.0", "train", "pretrain", OPENSTACK, ("keystone",),
    ),
    Distribution(
        "swift", "2.38.3", "561b2f8acc5ce834a0a2bac200e8ccd8784cb5c4a9e3731881d2e66dec4b6006",
        "Apache-2.0", "train", "pretrain", OPENSTACK, ("swift",),
    ),
    Distribution(
        "sympy", "1.14.0", "d3d3fe8df1e5a0b42f0e7bdf50541697dbe7d23746e894990c030e2b05e72517",
        "BSD-3-Clause", "train", "pretrain", ("doc/src",), ("sympy",),
    ),
    Distribution(
        "twisted", "26.10.0", "5f0355403e507fc23ceea85e9dbb4bc59335aabde41dd324e8b8cea180dd38de",
        "MIT", "train", "pretrain", ("docs",), ("src/twisted",),
    ),
    Distribution(
        "scrapy", "2.19.0", "34130726582b64c91531162ab277c4053e558876d49ba219cb43679e71d80a87",
        "BSD-3-Clause", "train", "pretrain", ("docs",), ("scrapy",),
    ),
    Distribution(
        "sphinx", "9.0.4", "594ef59d042972abbc581d8baa577404abe4e6c3b04ef61bd7fc2acbd51f3fa3",
        "BSD-2-Clause", "train", "pretrain", ("doc",), ("sphinx",),
    ),
    Distribution(
        "roundup", "2.6.0", "12fd8fb806047415f22131f965c6ab4026a28dc63f7054e055c8f891950591d4",
        "MIT", "train", "pretrain", ("doc",), ("roundup",),
    ),
    Distribution(
        "nikola", "8.3.3", "636d7d6ffc2ab24f4c2649e8695f8bb5604e309153ea4b60b786facae03ab1c7",
        "MIT", "train", "pretrain", ("docs",), ("nikola",),
    ),
)  # fmt: skip


def distributions(tier: str = "reproduce") -> tuple[Distribution, ...]:
    """Return the pinned sources of a tier; "pretrain" includes those of "reproduce"."""
    if tier not in TIERS:
        raise ValueError(f"source tier {tier!r} is unknown: choose one of {', '.join(TIERS)}")
    return tuple(d for d in DISTRIBUTIONS if TIERS.index(d.tier) <= TIERS.index(tier))


def _manual(one: Distribution, folder: Path) -> list[tuple[str, str]]:
    """Return (name, text) of a distribution's documents, extracted once and then kept."""
    place = (one.roots, one.modules, one.books, one.skipped)
    kept = folder / f"{one.name}-{hash_of(one.sha256, place, manuals.VERSION)}.json.gz"
    if kept.is_file():
        return [tuple(each) for each in json.loads(gzip.decompress(kept.read_bytes()))]
    try:
        archive = fetch_file(one.pinned, folder)
    except ConnectionError as error:
        raise ConnectionError(
            f"{error}\nOnce the registry is reachable, run notebooks/01_data again (what came is "
            "kept); with -p source FILE it reads text of your own"
        ) from error
    manual = list(manuals.read_manual(archive, *place))
    atomic_write(kept, gzip.compress(json.dumps(manual).encode(), mtime=0))
    return manual


def documents(
    folder: Path, tier: str = "reproduce", names: Sequence[str] = (), progress: bool = True
) -> Iterator[dict[str, str]]:
    """Fetch a tier's distributions into ``folder`` and yield their documents.

    Yields:
        ``{"split", "source", "name", "text", "kind"}``, kind "text", source "name version".
    """
    chosen = [d for d in distributions(tier) if not names or d.name in names]
    for one in tqdm(chosen, desc="public text", unit="source", disable=not progress):
        for name, text in _manual(one, folder):
            yield {"split": one.split, "source": f"{one.name} {one.version}", "name": name,
                   "text": text, "kind": "text"}  # fmt: skip
