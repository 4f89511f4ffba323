"""Each committed data file is listed in data/README.md with its true hash, and is what it says."""

import hashlib
import subprocess
from pathlib import Path

import pandas as pd
import pytest

DATA = Path(__file__).resolve().parents[2] / "data"


def listed() -> dict[str, list[str]]:
    lines = (DATA / "README.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines if "|" in line]
    return {row[0]: row[1:] for row in rows[2:]}


def there() -> list[str]:
    """Files git knows or would take; all of them where there is no git."""
    git = ["git", "-C", str(DATA), "ls-files", "--cached", "--others", "--exclude-standard", "."]
    try:
        found = subprocess.run(git, capture_output=True, text=True, check=True).stdout.split("\n")
    except (OSError, subprocess.CalledProcessError):
        found = [str(path.relative_to(DATA)) for path in DATA.rglob("*")]
    files = {name for name in found if name and (DATA / name).is_file()}
    return sorted(name for name in files if Path(name).name not in ("README.md", ".gitignore"))


def test_every_file_is_listed_with_its_hash():
    """A missing or wrong line is printed as it should stand."""
    known, wrong = listed(), []
    for name in there():
        digest = hashlib.sha256((DATA / name).read_bytes()).hexdigest()
        source = known.get(name, ["SOURCE", "DATE", "LICENCE", ""])
        if source[-1] != digest:
            wrong.append(f"| {name} | {' | '.join(source[:3])} | {digest} |")
    assert not wrong, "data/README.md should say:\n" + "\n".join(wrong)
    assert not set(known) - set(there()), "listed in data/README.md and not there"
    assert all(len(cells) == 4 and all(cells) for cells in known.values())


@pytest.mark.parametrize(
    ("method", "average"), [("cream", 69.9), ("pose", 54.0), ("original", 9.3), ("randpos", 0.0)]
)
def test_longchat_lines_has_the_legends_averages(method, average):
    """17 lengths a method, in multiples of 2 % because of 50 samples."""
    frame = pd.read_csv(DATA / "paper" / "longchat_lines.csv")
    ours = frame[frame["method"] == method]["accuracy"]
    assert len(ours) == 17 and (ours % 2 == 0).all()
    assert ours.mean() == pytest.approx(average, abs=0.05)


@pytest.mark.parametrize(
    ("scaling", "num_keys", "pose", "cream"),
    [("linear", 75, 50.9, 65.2), ("linear", 140, 28.7, 39.4), ("ntk", 75, 54.9, 63.5),
     ("ntk", 140, 25.7, 31.0), ("yarn", 75, 50.0, 73.4), ("yarn", 140, 24.4, 45.2)],
)  # fmt: skip
def test_lost_in_the_middle_has_the_printed_averages(scaling, num_keys, pose, cream):
    """Except NTK at 140 keys, where the paper prints 29.9 and its five positions average 31.0."""
    frame = pd.read_csv(DATA / "paper" / "lost_in_the_middle.csv")
    part = frame[(frame["scaling"] == scaling) & (frame["num_keys"] == num_keys)]
    means = part.groupby("method")["accuracy"].mean()
    assert (means["pose"], means["cream"]) == pytest.approx((pose, cream), abs=0.06)
