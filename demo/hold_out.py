"""Splits the demo's features: speakers to learn from, and speakers whom no model shall have seen.

python demo/hold_out.py demo-run/known demo-run/new
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hilbert.features import FeatureStore

STORE = Path(__file__).parent / "speechocean"
NEW = 25
"""Speakers that are kept apart."""


def write_part(store: FeatureStore, rows: Sequence[int], folder: Path) -> None:
    """Writes some documents of a store as a store of their own, by the same encoders."""
    assert store.audio is not None
    assert store.text is not None
    FeatureStore.write(
        folder,
        documents=store.documents.iloc[list(rows)],
        audio=[store.audio[row] for row in rows],
        text=[store.text[row] for row in rows],
        audio_encoder=store.encoders["audio"],
        text_encoder=store.encoders["text"],
        extraction=store.manifest["extraction"],
        overwrite=True,
    )


def main() -> None:
    """Writes both stores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("known", type=Path, help="store to be written: those to learn from")
    parser.add_argument("new", type=Path, help=f"store to be written: {NEW} others")
    options = parser.parse_args()
    store = FeatureStore.open(STORE)
    order = np.random.default_rng(0).permutation(len(store)).tolist()
    write_part(store, sorted(order[NEW:]), options.known)
    write_part(store, sorted(order[:NEW]), options.new)


if __name__ == "__main__":
    main()
