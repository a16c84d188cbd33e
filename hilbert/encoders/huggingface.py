"""Pretrained speech and text models of transformers as encoders: `hf:<model id or local folder>[?options]`.

    layer=-1         which layer's states to pool: 0 the embeddings, 1 the first layer, ..., -1 the model's output
    pooling=mean     mean | max over the real frames or tokens | cls (text: the first token)
    revision=main    branch, tag or commit of a model on the hub
    seconds=30       speech: longer audio is cut into pieces of this length
    tokens=512       text: longer text is cut into windows of this many tokens

The pieces of one segment are pooled together, weighted by their real frames or tokens. On CUDA the model runs in
float16 (a batch that overflows is repeated in float32), elsewhere in float32.

Shapes: B pieces in a batch, F frames or tokens, D features.
"""

import contextlib
import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import transformers

from hilbert.encoders.base import EncoderName, Features, Modality, check_options, nearest
from hilbert.encoders.hub import commit_of, only_local, quiet_hub
from hilbert.encoders.speech import SAMPLE_RATE, speech_facts, speech_front
from hilbert.encoders.text import text_facts, text_front
from hilbert.errors import EncoderError, shown

_POOLINGS = {"audio": ("mean", "max"), "text": ("mean", "max", "cls")}
_INPUTS = {"audio": ("input_values", "input_features"), "text": ("input_ids",)}
_UNUSED_WEIGHTS = ("pooler", "masked_spec_embed", "lm_head", "decoder")  # parts that no hidden state passes through


class Front(Protocol):
    """Cuts segments into pieces and collates pieces into batches: `SpeechFront` or `TextFront`."""

    @property
    def pads(self) -> bool:
        """Pieces of different length may share a batch."""
        ...

    def cut(self, segment: Any, /) -> list[Any]:
        """The pieces of one segment, at least one."""
        ...

    def collate(self, pieces: Sequence[Any], /) -> tuple[dict[str, torch.Tensor], list[int] | None]:
        """The model's input and the number of real frames of each piece; None: all frames are real."""
        ...


@dataclass(frozen=True)
class Options:
    """The options of an `hf:` name, see the module's docstring; and whether its files are taken from this computer."""

    layer: int = -1
    pooling: str = "mean"
    revision: str | None = None
    seconds: float = 30.0
    tokens: int | None = None
    only_local: bool = False

    @classmethod
    def read(cls, name: EncoderName, modality: Modality) -> "Options":
        """Check and convert what the user wrote.

        Raises:
            EncoderError: an unknown option or a value that is none.
        """
        check_options(name, ["layer", "pooling", "revision", "seconds" if modality == "audio" else "tokens"])
        given = name.options
        pooling = given.get("pooling", "mean")
        if pooling not in _POOLINGS[modality]:
            raise EncoderError(
                f"encoder {shown(name.written)}: unknown pooling {shown(pooling)} for {modality}; "
                f"{nearest(pooling, _POOLINGS[modality])}"
            )
        seconds = _number(name, "seconds", float, 30.0)
        if not 0.1 <= seconds < 1e5:
            raise EncoderError(f"encoder {shown(name.written)}: seconds={given['seconds']}; give 0.1 or more")
        tokens = int(_number(name, "tokens", int, 512)) if "tokens" in given else None
        layer = int(_number(name, "layer", int, -1))
        return cls(layer, pooling, given.get("revision"), seconds, tokens)


def _number(name: EncoderName, option: str, kind: Callable[[str], float], default: float) -> float:
    try:
        return kind(name.options[option]) if option in name.options else default
    except ValueError:
        value = name.options[option]
        raise EncoderError(
            f"encoder {shown(name.written)}: {option}={shown(value)} is not a number; write {option}={default:g}"
        ) from None


class PretrainedEncoder:
    """A frozen transformers model with pooling; see `hilbert.encoders.Encoder`."""

    def __init__(
        self,
        model: torch.nn.Module,
        front: Front,
        description: Mapping[str, Any],
        device: torch.device,
        batch_size: int,
    ) -> None:
        self._model, self._front, self._device, self._batch_size = model, front, device, batch_size
        self.description = description

    @property
    def dim(self) -> int:
        """Features per segment, D."""
        return int(self.description["dim"])

    def encode(self, segments: Sequence[Any]) -> Features:
        """float32 [n, D] of n waveforms at 16 kHz, or of n strings.

        Raises:
            EncoderError: the device's memory does not suffice, or the model gives values that are not finite.
        """
        cut = [self._front.cut(segment) for segment in segments]
        pieces = [piece for of_one in cut for piece in of_one]
        owners = np.repeat(np.arange(len(cut)), [len(of_one) for of_one in cut])
        vectors = np.empty((len(pieces), self.dim), np.float64)
        weights = np.empty(len(pieces), np.float64)
        for batch in _batches([len(piece) for piece in pieces], self._batch_size, mixed=self._front.pads):
            vectors[batch], weights[batch] = self._encode_batch([pieces[position] for position in batch])
        return _merge(vectors, weights, owners, len(cut), self.description["pooling"])

    def _encode_batch(self, pieces: Sequence[Any]) -> tuple[Any, Any]:
        inputs, frames = self._front.collate(pieces)
        inputs = {key: tensor.to(self._device) for key, tensor in inputs.items()}
        try:
            states = self._states(inputs, half=self._device.type == "cuda")
            if not torch.isfinite(states).all():  # float16 ends at 65504, and T5 is known to pass it
                states = self._states(inputs, half=False)
        except torch.OutOfMemoryError:
            raise EncoderError(
                f"encoder {self.description['name']!r}: the device's memory does not hold {len(pieces)} segments at "
                "once; give a smaller --batch-size"
            ) from None
        lengths = _real_frames(frames, inputs.get("attention_mask"), states)
        pooled = pool(states, lengths, self.description["pooling"])
        if not torch.isfinite(pooled).all():
            raise EncoderError(f"encoder {shown(self.description['name'])}: the model gives values that are not finite")
        return pooled.double().cpu().numpy(), lengths.double().cpu().numpy()

    @torch.inference_mode()
    def _states(self, inputs: Mapping[str, torch.Tensor], *, half: bool) -> torch.Tensor:
        """[B, F, D] states of the chosen layer."""
        layer, last = self.description["layer"], self.description["layers"]
        with warnings.catch_warnings(), torch.autocast(self._device.type, torch.float16, enabled=half):
            warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask")  # WavLM's own masks
            output = self._model(**inputs, output_hidden_states=layer != last)
        states: torch.Tensor = output.last_hidden_state if layer == last else output.hidden_states[layer]
        return states.float()


def _real_frames(frames: list[int] | None, mask: torch.Tensor | None, states: torch.Tensor) -> torch.Tensor:
    """[B] frames to pool: as the front counted them, else as the extractor's own mask says, else all."""
    if frames is not None:
        lengths = torch.tensor(frames, device=states.device)
    elif mask is not None and mask.shape == states.shape[:2]:
        lengths = mask.sum(dim=1)
    else:
        lengths = torch.full((len(states),), states.shape[1], device=states.device)
    return lengths.clamp(1, states.shape[1])


def pool(states: torch.Tensor, lengths: torch.Tensor, how: str) -> torch.Tensor:
    """Pool states [B, F, D] over the first lengths [B] frames: [B, D]."""
    if how == "cls":
        return states[:, 0]
    real = (torch.arange(states.shape[1], device=states.device) < lengths[:, None])[..., None]
    if how == "max":
        return states.masked_fill(~real, -torch.inf).amax(dim=1)
    return states.masked_fill(~real, 0.0).sum(dim=1) / lengths[:, None]


def _merge(vectors: Any, weights: Any, owners: Any, count: int, how: str) -> Features:
    """Pieces [P, D] to segments [n, D]: the maximum, or the mean weighted by real frames."""
    dim = vectors.shape[1]
    if how == "max":
        merged = np.full((count, dim), -np.inf)
        np.maximum.at(merged, owners, vectors)
    else:
        merged, total = np.zeros((count, dim)), np.zeros(count)
        np.add.at(merged, owners, vectors * weights[:, None])
        np.add.at(total, owners, weights)
        merged /= total[:, None]
    return merged.astype(np.float32)


def _batches(lengths: Sequence[int], size: int, *, mixed: bool) -> Iterator[list[int]]:
    """Positions in batches, longest first; of one length each unless lengths may be mixed."""
    batch: list[int] = []
    for position in sorted(range(len(lengths)), key=lambda position: -lengths[position]):
        full = len(batch) == size
        if batch and (full or not (mixed or lengths[position] == lengths[batch[0]])):
            yield batch
            batch = []
        batch.append(position)
    if batch:
        yield batch


# --- loading ---------------------------------------------------------------------------------------------------------


def choose_device(device: str) -> torch.device:
    """`auto` is CUDA, else Apple's MPS, else the CPU.

    Raises:
        EncoderError: torch knows no such device, or this machine has none.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise EncoderError(f"device {shown(device)}: can't be used ({reason}); give auto, cpu, cuda or mps") from None
    return chosen


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no chatter from transformers while a model loads."""
    log = transformers.utils.logging
    verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        with warnings.catch_warnings(), quiet_hub():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()


def _located(name: EncoderName, options: Options) -> Options:
    """The options, with whether the hub is left alone.

    Raises:
        EncoderError: there is no such folder, or the hub can't be asked for a model that isn't here.
    """
    folder = Path(name.target).expanduser()
    looks_local = name.target.startswith((".", "/", "~")) or name.target.count("/") > 1 or "\\" in name.target
    if looks_local and not folder.is_dir():
        raise EncoderError(
            f"encoder {shown(name.written)}: no such folder; name the folder that holds the model's config.json"
        )
    if folder.is_dir():
        return options
    try:
        return replace(options, only_local=only_local(name.target, options.revision))
    except EncoderError as error:
        raise EncoderError(f"encoder {name.written!r}: {error}") from None


def _from_pretrained(loader: Any, what: str, name: EncoderName, options: Options, **more: Any) -> Any:
    """`loader.from_pretrained`, with one message that says what would be right."""
    folder = Path(name.target).expanduser()
    source = str(folder) if folder.is_dir() else name.target
    try:
        given = {"revision": options.revision, "local_files_only": options.only_local, **more}
        return loader.from_pretrained(source, trust_remote_code=False, **given)
    except Exception as error:  # whatever transformers, safetensors, the hub or a parser raise is about this model
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        hint = (
            f"the folder must hold a whole model as save_pretrained writes it (config.json, weights, {what})"
            if folder.is_dir()
            else "give a local folder, or a model id of the hub"
        )
        raise EncoderError(
            f"encoder {shown(name.written)}: can't load its {what}; {hint}. transformers says: {reason}"
        ) from None


def _loader(config: Any, modality: Modality) -> Any:
    """T5 and its kin have an encoder of their own to load for text; everything else is what AutoModel says."""
    if modality == "text" and config.is_encoder_decoder:
        known = transformers.AutoModelForTextEncoding._model_mapping
        if type(config) in known:
            return transformers.AutoModelForTextEncoding
    return transformers.AutoModel


def _load_model(name: EncoderName, config: Any, options: Options, modality: Modality) -> Any:
    """The frozen model, encoder only.

    Raises:
        EncoderError: weights are missing (transformers would make them up at random), or it takes other input.
    """
    model, report = _from_pretrained(
        _loader(config, modality),
        "weights",
        name,
        options,
        config=config,
        dtype=torch.float32,
        output_loading_info=True,
    )
    if model.main_input_name not in _INPUTS[modality]:
        other = "text" if modality == "audio" else "audio"
        raise EncoderError(
            f"encoder {shown(name.written)}: {config.model_type} is no {modality} model; use it for {other}?"
        )
    missing = [key for key in report["missing_keys"] if not any(part in key for part in _UNUSED_WEIGHTS)]
    if missing or report["mismatched_keys"]:
        lacking = ", ".join(sorted(map(str, [*missing, *report["mismatched_keys"]]))[:3])
        raise EncoderError(
            f"encoder {name.written!r}: its weights do not fit a {config.model_type} ({lacking}, ...), and features "
            "from made-up weights would mean nothing; name the model that was trained"
        )
    if config.is_encoder_decoder and hasattr(model, "get_encoder"):
        model = model.get_encoder()
    return model.eval().requires_grad_(False)


def _revision(name: EncoderName, options: Options) -> str | None:
    """The hub's commit, or the SHA-256 of a local folder's files that make the result."""
    folder = Path(name.target).expanduser()
    if not folder.is_dir():
        return commit_of(name.target, options.revision)
    total = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in {".safetensors", ".bin", ".json", ".txt", ".model"} and path.is_file():
            with path.open("rb") as file:
                total.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return f"sha256:{total.hexdigest()}"


def _layer_and_dim(name: EncoderName, wanted: int, config: Any) -> dict[str, int]:
    """The chosen layer, counted from the embeddings = 0, the number of layers, and the width of its states."""
    layers = getattr(config, "encoder_layers", None) or getattr(config, "num_hidden_layers", None)
    dim = getattr(config, "hidden_size", None)
    if not layers or not dim:
        raise EncoderError(
            f"encoder {shown(name.written)}: {config.model_type} is no single stack of layers; name a plain model"
        )
    if not -layers - 1 <= wanted <= layers:
        raise EncoderError(
            f"encoder {name.written!r}: layer={wanted}, but the model has {layers}; give 0 (embeddings) to {layers}, "
            f"or -1 (last) to {-layers - 1}"
        )
    layer = wanted % (layers + 1)
    if layer == layers and getattr(config, "add_adapter", False):
        dim = config.output_hidden_size
    return {"dim": int(dim), "layer": layer, "layers": int(layers)}


def _check_rate(name: EncoderName, extractor: Any) -> None:
    rate = getattr(extractor, "sampling_rate", SAMPLE_RATE)
    if rate != SAMPLE_RATE:
        raise EncoderError(f"encoder {shown(name.written)}: the model hears {rate} Hz; name one for {SAMPLE_RATE} Hz")


def load_huggingface(name: EncoderName, modality: Modality, device: str, batch_size: int) -> PretrainedEncoder:
    """Load `hf:<model id or local folder>[?options]` as an encoder.

    Raises:
        EncoderError: options or device are wrong, or the model can't be loaded, or is not one for this modality.
    """
    options = Options.read(name, modality)
    place = choose_device(device)
    with _quiet():
        options = _located(name, options)
        config = _from_pretrained(transformers.AutoConfig, "configuration", name, options)
        if modality == "audio":
            reader = _from_pretrained(transformers.AutoFeatureExtractor, "audio feature extractor", name, options)
            _check_rate(name, reader)
        else:
            reader = _from_pretrained(transformers.AutoTokenizer, "tokenizer", name, options)
        model = _load_model(name, config, options, modality)
    front: Any
    if modality == "audio":
        front = speech_front(reader, config, options.seconds)
        facts = speech_facts(front)
    else:
        front = text_front(reader, model, config, options.tokens, name.written)
        facts = text_facts(front)
    description = {
        "name": name.written,
        "revision": _revision(name, options),
        "modality": modality,
        "model_type": config.model_type,
        **_layer_and_dim(name, options.layer, config),
        "pooling": options.pooling,
        "precision": "float16" if place.type == "cuda" else "float32",
        **facts,
    }
    return PretrainedEncoder(model.to(place), front, description, place, batch_size)
