"""Splits the demo's features: speakers to learn from, and speakers whom no model shall have seen.

python demo/hold_out.py demo-run/known demo-run/new
"""

import argparse
from pathlib import Path

import numpy as np

from hilbert.features import FeatureStore

STORE = Path(__file__).parent / "speechocean"
NEW = 25
"""Speakers that are kept apart."""


def main() -> None:
    """Writes both stores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("known", type=Path, help="store to be written: those to learn from")
    parser.add_argument("new", type=Path, help=f"store to be written: {NEW} others")
    options = parser.parse_args()
    store = FeatureStore.open(STORE)
    order = np.random.default_rng(0).permutation(len(store)).tolist()
    store.write_part(options.known, sorted(order[NEW:]), overwrite=True)
    store.write_part(options.new, sorted(order[:NEW]), overwrite=True)


if __name__ == "__main__":
    main()
