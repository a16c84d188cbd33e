"""`hilbert report`: a study as one HTML file that needs no network, for a supervisor or a paper's appendix.

`material` reads MLflow; `predicted`, `calibrated` and `verdict` compute; `tables` and `data` tell, `figures` draws, and
`page` puts it together.
"""

import os
from pathlib import Path

from hilbert.errors import InputError
from hilbert.files import write_text
from tune.output import check_file
from tune.report.material import Client, gather
from tune.report.page import render

__all__ = ["write_report"]


def write_report(client: Client, study: str, output: Path) -> None:
    """Writes the report of a study; an older file of this name is replaced when the new one is whole.

    Raises:
        InputError: there is no such study, or `output` can't be written.
    """
    check_file(output)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    content = render(gather(client, study))
    try:
        write_text(output, content)
    except OSError as error:
        raise InputError(f"{output}: can't be written: {error.strerror or error}") from None
