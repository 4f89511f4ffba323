"""What a fresh clone has: the folder that every documented command writes into."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_runs_ships_and_nothing_in_it_is_committed():
    """papermill: "output folder runs doesn't exist" was the README's first line's answer."""
    assert (ROOT / "runs" / ".gitignore").read_text() == "*\n!.gitignore\n"
    asked = ["runs/x", "runs/x/model/config.json", "runs/02_train.ipynb", "runs/.gitignore"]
    command = ["git", "check-ignore", "--no-index", *asked]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 128:  # else no clone
        assert done.stdout.split() == asked[:3]
