"""What MLflow runs of a registered model: this file, which it stores and reads as code; no pickle.

A row is a document: `document_id`, and `audio` and `text`, the features of its segments, [S, D] as nested lists (empty
where the document lacks the modality), made by the encoders that the model card names. The answer is
`hilbert.predicted.Predicted.table`: what `hilbert predict` writes, to the last bit.
"""

from typing import Any

import mlflow
import pandas as pd
from mlflow.pyfunc import PythonModel, PythonModelContext

from hilbert.documents import Documents
from hilbert.release import Release


class Served(PythonModel):  # type: ignore[misc]
    """A release behind MLflow's interface."""

    def load_context(self, context: PythonModelContext) -> None:
        """Loads the release that is stored with the model."""
        self.release = Release.load(context.artifacts["release"])

    def predict(
        self,
        context: PythonModelContext,  # noqa: ARG002
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,  # noqa: ARG002
    ) -> pd.DataFrame:
        """One row a document, in the order given."""
        names = [str(name) for name in model_input["document_id"]]
        pairs = list(zip(model_input["audio"], model_input["text"], strict=True))
        dims = self.release.dims
        documents = Documents.of(pairs, names=names, audio_dim=dims["audio"], text_dim=dims["text"])
        return self.release.predict(documents, names=names).table()


mlflow.models.set_model(Served())
