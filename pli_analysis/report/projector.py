"""Write a map as a folder for TensorBoard's projector.

tensors.tsv            one row per point: its first principal components (at most 50)
metadata.tsv           part, layer, checkpoint, step, age, index, is_birth, donor
plane.tsv              x and y on the map, as a second tensor
projector_config.pbtxt names these files
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pli_analysis import columns as col
from pli_train.core import output

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from pli_analysis.metrics.maps.embedding import Map

METADATA = [col.PART, col.LAYER, col.CHECKPOINT, col.STEP, col.AGE, col.INDEX, col.IS_BIRTH, col.DONOR]
CONFIG = """embeddings {{
  tensor_name: "components"
  tensor_path: "tensors.tsv"
  metadata_path: "metadata.tsv"
}}
embeddings {{
  tensor_name: "{method}"
  tensor_path: "plane.tsv"
  metadata_path: "metadata.tsv"
}}
"""


def write(folder: Path, found: Map) -> None:
    """Write the points of the run, without those of the random walk. Raises the errors of `output.write`."""
    mine = found.table[found.table[col.WALK] == "run"]
    files = {
        "tensors.tsv": _numbers(found.components.values),
        "plane.tsv": _numbers(mine[[col.X, col.Y]].to_numpy()),
        "metadata.tsv": _words(mine[METADATA]),
        "projector_config.pbtxt": CONFIG.format(method=found.methods[0]),
    }
    output.make_folder(folder)
    for name, text in files.items():
        output.write(folder / name, text)


def _numbers(values: np.ndarray) -> str:
    return "".join("\t".join(map(repr, row)) + "\n" for row in values.tolist())


def _words(table: pd.DataFrame) -> str:
    return table.to_csv(sep="\t", index=False, lineterminator="\n", na_rep="")
