"""10_ablations works with whatever a grid holds: some plans, one run, nothing."""

from pathlib import Path

import papermill
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from made_campaign import campaign

ROOT = Path(__file__).resolve().parents[2]


def printed(grid: Path, here: Path) -> str:
    """All that the notebook printed and showed as text, on the grid's file."""
    book = papermill.execute_notebook(
        ROOT / "notebooks" / "10_ablations.ipynb", here / "10.ipynb", {"grid": str(grid)},
        progress_bar=False, cwd=here,
    )  # fmt: skip
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    return "".join(o.get("text", "") or o.get("data", {}).get("text/plain", "") for o in outputs)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plans", "says", "lacks"),
    [
        ((), ["0 answers of 0 models", "ablations: not run", "sensitivity: not run",
              "assigned_distances: not run", "scale64_lines: not run"], ["holds"]),
        (("scale64",), ["of 24 models", "not run: gaussian over uniform", "scale 64: sigma grown",
                        "ablation_sigma: not run"], ["scale64: not run"]),
    ],
)  # fmt: skip
def test_it_shows_what_was_run_and_says_what_was_not(plans, says, lacks, tmp_path):
    """From the rows: no plan is taken for granted."""
    grid = tmp_path / "grid.parquet"
    if plans:
        table = pa.Table.from_pandas(campaign(plans, samples=3), preserve_index=False)
        schema = {"cream": "cream-grid-1", **(table.schema.metadata or {})}
        parquet.write_table(table.replace_schema_metadata(schema), grid)
    said = printed(grid, tmp_path)
    for text in says:
        assert text in said
    for text in lacks:
        assert text not in said
