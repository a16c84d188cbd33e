"""HILBERT as a scikit-learn classifier: for whoever wants its model in their own pipeline, and no platform.

    store = FeatureStore.open("demo/speechocean")
    X, y = documents_of(store), store.documents["gender"].to_numpy()
    cross_val_score(HilbertClassifier(), X, y, groups=store.groups, cv=GroupKFold(5), scoring="roc_auc")

X holds N documents, each a pair (audio [S_a, D_a] or None, text [S_t, D_t] or None). One task at a time; for several
tasks, racing and records use `hilbert sweep`, for other folds `hilbert.training.fit`.

Shapes: C classes, d = width.
"""

import difflib
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ValidationError
from sklearn.base import BaseEstimator, ClassifierMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from hilbert.cells import ALIKE, number, suspected_codes, told_counts, twins
from hilbert.config import FitConfig, LossConfig, ModelConfig, TrainConfig
from hilbert.documents import Documents
from hilbert.errors import InputError, shown
from hilbert.features import FeatureStore
from hilbert.folds import SMALLEST_INNER, Fold, make_folds
from hilbert.groups import group_codes
from hilbert.label_cells import ReadLabels, read_labels
from hilbert.model import Hilbert
from hilbert.prediction import Outputs, check_numbers, predict
from hilbert.trainer import EpochReport
from hilbert.training import fit

logger = logging.getLogger(__name__)

TASK = "label"
"""What the task is called within the model."""

SECTIONS: Mapping[str, type[BaseModel]] = {"model": ModelConfig, "loss": LossConfig, "train": TrainConfig}

Section = Mapping[str, Any]
Pairs = Sequence[Any] | NDArray[Any]


def documents_of(store: FeatureStore) -> NDArray[np.object_]:
    """The documents of a feature store as X: pairs [N] of views of the memory-mapped files, None where there are none.

    `store.documents[column]` is the y beside it, `store.groups` the groups.

    Raises:
        StoreError: the files have changed since they were written, see `FeatureStore.verify`.
    """
    store.verify()
    pairs = np.empty(len(store), dtype=object)
    for document in range(len(store)):
        parts = (None if whole is None else whole[document] for whole in (store.audio, store.text))
        pairs[document] = tuple(part if part is not None and len(part) else None for part in parts)
    return pairs


class HilbertClassifier(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Classifies documents of audio and text segments, and embeds them.

    It obeys scikit-learn: `clone`, `get_params`, `cross_val_score`, `GridSearchCV`, last step of a `Pipeline`. While
    fitting, a part of the documents is set apart and chooses the epoch. To keep families together there too, pass
    `groups` to `fit`; `cross_val_score(..., groups=g, params={"groups": g})` does so in each fold. The same documents
    in the same order and the same `random_state` give the same model; torch's global random state is left as it was.
    Fits in parallel need processes, joblib's default; threads would share that state.

    Args:
        model: the architecture, as section `model` of a study file: `{"width": 32, "experts": 1}`. See `ModelConfig`.
        loss: the losses, as section `loss`. See `hilbert.config.LossConfig`.
        train: the training, as section `train`: `{"epochs": 30}`. See `hilbert.config.TrainConfig`.
        inner_fraction: the share of the documents that chooses the epoch, about; at most a half. A small cohort gives
            more: as much as makes ten documents, up to a quarter. 0 sets none apart: then the last epoch counts.
        random_state: seed of everything that is drawn. A whole number gives the same model again.

    Attributes:
        classes_: the C classes in sorted order.
        model_: the trained `hilbert.model.Hilbert`, on the CPU; it has one task, named "label".
        best_epoch_: the epoch that was chosen, from 1.
        history_: the reports of all epochs, see `hilbert.trainer.EpochReport`.
    """

    classes_: NDArray[Any]
    model_: Hilbert
    best_epoch_: int
    history_: list[EpochReport]

    def __init__(
        self,
        *,
        model: Section | None = None,
        loss: Section | None = None,
        train: Section | None = None,
        inner_fraction: float = 0.15,
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.model = model
        self.loss = loss
        self.train = train
        self.inner_fraction = inner_fraction
        self.random_state = random_state

    def fit(self, X: Pairs, y: ArrayLike, groups: Sequence[object] | None = None) -> Self:
        """Train on documents.

        Args:
            X: N pairs (audio [S_a, D_a] or None, text [S_t, D_t] or None).
            y: [N] labels of two classes or more. A document whose label is missing (None, NaN, empty, or a code such
                as "NA", which is logged) trains the contrastive, CKA and information terms alone.
            groups: [N] documents of one group are never split between training and the choice of the epoch.

        Raises:
            InputError: X, y, groups or a parameter is wrong; the message says which, and what would be right.
            TrainingError: the loss became infinite or NaN.
        """
        pairs = _listed(X)
        classes, codes = _encoded(y, len(pairs))
        names = _class_names(classes)
        config = self._config(names)
        labels = pd.Series([names[code] if code >= 0 else None for code in codes], dtype=object)
        documents = Documents.of(pairs, labels=labels.to_frame(TASK))
        part = _part(codes, groups, self.inner_fraction, config.seed)
        result = fit(config, documents, part)
        self.classes_, self.model_ = classes, result.model
        self.best_epoch_, self.history_ = result.best_epoch, result.epochs
        return self

    def predict_proba(self, X: Pairs) -> NDArray[np.float64]:
        """Probabilities [N, C] in the order of `classes_`; of each document by itself, to the last bit."""
        scores = self._outputs(X).scores(self.model_.config.tasks)[TASK]
        check_numbers(scores, [str(number) for number in range(len(scores))], what="the model predicts y")
        return scores

    def predict(self, X: Pairs) -> NDArray[Any]:
        """The most probable class of each document, [N]."""
        most = self.predict_proba(X).argmax(1)
        chosen: NDArray[Any] = self.classes_[most]
        return chosen

    def transform(self, X: Pairs) -> NDArray[np.float32]:
        """Joint cross-attentive embeddings [N, d]."""
        embeddings: NDArray[np.float32] = self._outputs(X).embeddings["joint"].numpy()
        return embeddings

    def score(self, X: Pairs, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Accuracy over the documents that have a label."""
        pairs = _listed(X)
        known, labels = _known(y, len(pairs))
        weights = None if sample_weight is None else np.asarray(sample_weight)[known]
        return float(super().score([pairs[document] for document in np.flatnonzero(known)], labels, weights))

    def _outputs(self, X: Pairs) -> Outputs:
        check_is_fitted(self)
        config = self.model_.config
        documents = Documents.of(_listed(X), audio_dim=config.audio_dim, text_dim=config.text_dim)
        return predict(self.model_, documents, range(len(documents)), batch_size=1)

    @property
    def _n_features_out(self) -> int:
        return self.model_.config.model.width

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.allow_nan = False
        return tags

    def _config(self, names: Sequence[str]) -> FitConfig:
        """The parameters, checked."""
        kind = "binary" if len(names) == 2 else "multiclass"
        given = {name: getattr(self, name) for name in SECTIONS}
        sections = {name: _plain(name, section) for name, section in given.items() if section is not None}
        seed = self.random_state
        if not isinstance(seed, int | np.integer):
            seed = check_random_state(seed).randint(2**31 - 1)
        content = {"tasks": {TASK: {"kind": kind, "classes": list(names)}}, "seed": int(seed), **sections}
        try:
            return FitConfig.model_validate(content)
        except ValidationError as error:
            raise InputError("; ".join(_told(fault) for fault in error.errors())) from None


# --- parameters -------------------------------------------------------------------------------------------------------


def _plain(name: str, section: object) -> dict[str, Any]:
    """A section with Python's numbers in place of numpy's, which searches over parameters draw."""
    if not isinstance(section, Mapping):
        raise InputError(f"{name}: must be a mapping of names to values, such as {{...}}, not {shown(section)}")
    return {str(key): value.item() if isinstance(value, np.generic) else value for key, value in section.items()}


def _told(fault: Any) -> str:
    """One sentence: the key, the value, what would be right."""
    key = ".".join("random_state" if part == "seed" else str(part) for part in fault["loc"])
    match fault["type"]:
        case "value_error":
            return str(fault["msg"]).removeprefix("Value error, ")
        case "extra_forbidden":
            fields = SECTIONS[fault["loc"][0]].model_fields
            near = difflib.get_close_matches(str(fault["loc"][-1]), fields, n=1, cutoff=0.5)
            known = f"did you mean {shown(near[0])}?" if near else f"known are {', '.join(fields)}"
            return f"{key}: unknown; {known}"
    return f"{key}: {fault['msg']}, not {shown(fault['input'])}"


# --- documents and labels ---------------------------------------------------------------------------------------------


def _listed(X: Pairs) -> list[Any]:
    """The documents of X; what else is wrong with them `Documents` says."""
    right = "a list or an object array of pairs (audio, text), as documents_of(store) makes it"
    if isinstance(X, np.ndarray) and X.dtype != object:
        raise InputError(f"X must be {right}, not {X.dtype} {list(X.shape)}")
    if not isinstance(X, list | tuple | np.ndarray | pd.Series):
        raise InputError(f"X must be {right}, not {type(X).__name__}")
    return list(X)


def _known(y: ArrayLike, count: int) -> tuple[NDArray[np.bool_], NDArray[Any]]:
    """Which documents have a label [N], and the labels of those."""
    labels = np.asarray(y, dtype=object)  # as they are: text beside NaN would make the text "nan" of it
    if labels.shape != (count,):
        raise InputError(f"y must hold one label for each of the {count} documents of X, not {list(labels.shape)}")
    read = read_labels([label if isinstance(label, str) else None for label in labels])
    blank = [isinstance(label, str) and text is None for label, text in zip(labels, read.texts, strict=True)]
    known: NDArray[np.bool_] = ~(np.asarray(pd.isna(labels)) | np.array(blank, dtype=bool))
    present = [
        label if text is None else text for label, text, there in zip(labels, read.texts, known, strict=True) if there
    ]
    if not present:
        raise InputError("y holds no label")
    if len({isinstance(label, str) for label in present}) > 1:
        raise InputError("y holds text and numbers; its classes must be all of one kind")
    _tell(read, present)
    return known, np.array(present)


def _tell(read: ReadLabels, present: Sequence[Any]) -> None:
    """Logs what the labels were understood to say.

    Raises:
        InputError: classes may be one.
    """
    alike = twins(text for text in read.texts if text is not None)
    if alike:
        raise InputError(f"y: classes {alike[0]} {ALIKE}; spell each in one way")
    told = [f"{told_counts(read.missing)}: counted as missing labels"] if read.missing else []
    values = [number(str(label)) for label in present]
    codes = suspected_codes([value for value in values if value is not None]) if None not in values else {}
    if codes:
        counts = told_counts({f"{code:g}": count for code, count in codes.items()})
        told.append(f"{counts}: look like codes for a missing value, and are taken as classes; write None if they are")
    for note in [*told, *read.notes("y")]:
        logger.warning("%s", note)


def _encoded(y: ArrayLike, count: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The classes in sorted order, and the number of each document's; -1 where its label is missing."""
    known, present = _known(y, count)
    check_classification_targets(present)
    classes, found = np.unique(present, return_inverse=True)
    if len(classes) < 2:
        raise InputError(f"y holds the class {classes[0]!s} alone; two classes or more are needed")
    codes = np.full(count, -1)
    codes[known] = found
    return classes, codes


def _class_names(classes: NDArray[Any]) -> list[str]:
    names = [str(one).strip() for one in classes]
    if len(set(names)) < len(names):
        raise InputError(f"y: classes must differ by more than blanks: {classes.tolist()}")
    return names


def _part(codes: NDArray[np.int64], groups: Sequence[object] | None, fraction: float, seed: int) -> Fold:
    """Which documents train, and which choose the epoch: dealt by `make_folds`, as its held-out parts are."""
    count, nobody = len(codes), np.empty(0, np.int64)
    if not isinstance(fraction, int | float) or isinstance(fraction, bool) or not 0 <= fraction <= 0.5:
        raise InputError(f"inner_fraction: must be a number from 0 to 0.5, not {shown(fraction)}")
    of_group = group_codes(groups, count)
    if not fraction:
        return Fold(np.arange(count), nobody, nobody)
    present = len(np.unique(of_group))
    if present < 4:
        raise InputError(f"groups: there are {present}; choosing the epoch needs 4 at least, or set inner_fraction=0")
    share = max(fraction, min(0.25, SMALLEST_INNER / count))
    labels = (np.where(codes < 0, np.nan, codes), "multiclass")
    names = [str(number) for number in range(count)]
    dealt = make_folds(names, {TASK: labels}, n_splits=min(round(1 / share), present), seed=seed, groups=groups)[0]
    return Fold(np.concatenate([dealt.train, dealt.inner]), dealt.held_out, nobody)
