"""Fails unless the demo's report has every cell, and tuning on 88 rows for 50 steps beats the untuned model."""

import sys
from pathlib import Path

import pandas as pd

CELLS = {(88, "1-epoch"), (88, "50"), (176, "1-epoch"), (176, "50")}


def main() -> None:
    folder = Path(sys.argv[1])
    ratios = pd.read_csv(folder / "ratios.csv", dtype={"steps": str})
    whole = ratios[(ratios["factor"] == "all") & (ratios["opponent"] == "base")]
    missing = CELLS - set(zip(whole["data_size"], whole["steps"], strict=True))
    if missing:
        sys.exit(f"the report lacks the cells {sorted(missing)}")
    low = whole.set_index(["data_size", "steps"]).loc[(88, "50"), "win_ratio_low"]
    if not low > 1:
        sys.exit(f"the ratio at 88 rows and 50 steps has the lower bound {low}; it must be above 1")
    if not (folder / "index.html").stat().st_size:
        sys.exit("the page is empty")
    print(f"the report has every cell; the lower bound at 88 rows and 50 steps is {low:.2f}")


if __name__ == "__main__":
    main()
