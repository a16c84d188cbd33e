"""Encoders against transformers and openSMILE called directly, and against what must not change a result."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import opensmile
import pytest
import tiny_models
import torch
import transformers as tf
from hypothesis import given
from hypothesis import strategies as st

from hilbert.audio import read_stretch
from hilbert.encoders import Encoder, load_encoder, register_encoder
from hilbert.encoders.base import EncoderName
from hilbert.encoders.huggingface import pool
from hilbert.errors import EncoderError

MINI = Path(__file__).parent / "data" / "speechocean-mini"
Load = Callable[..., tuple[Encoder, Path]]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """Load a tiny model by name, with options: (encoder, its folder)."""
    torch.set_num_threads(1)
    folders: dict[str, Path] = {}

    def _load(name: str, options: str = "", batch_size: int = 4) -> tuple[Encoder, Path]:
        if name not in folders:
            folders[name] = tiny_models.make(name, tmp_path_factory.mktemp(name))
        modality: Any = "audio" if name in tiny_models.SPEECH else "text"
        encoder = load_encoder(f"hf:{folders[name]}{options}", modality=modality, device="cpu", batch_size=batch_size)
        return encoder, folders[name]

    return _load


def waves(*lengths: int) -> list[np.ndarray]:
    rng = np.random.default_rng(7)
    return [(0.1 * rng.standard_normal(length) + 0.05).astype(np.float32) for length in lengths]


def chosen(output: Any, layer: int) -> np.ndarray:
    """[F, D]. The last layer is the model's output, behind the final norm that `hidden_states` lacks in some models."""
    return (output.last_hidden_state if layer == -1 else output.hidden_states[layer])[0].numpy()


def direct_speech(folder: Path, wave: np.ndarray, layer: int = -1) -> np.ndarray:
    """[F, D] states of one short segment: transformers, called as its documentation does."""
    extractor = tf.AutoFeatureExtractor.from_pretrained(folder)
    model = tf.AutoModel.from_pretrained(folder).eval()
    batch = extractor(wave, sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        if "whisper" in type(model).__name__.lower():
            output = model.encoder(batch["input_features"], output_hidden_states=True)
            real = math.ceil(len(wave) / 320)  # 10 ms frames of the spectrogram, two to a state
            return chosen(output, layer)[:real]
        return chosen(model(batch["input_values"], output_hidden_states=True), layer)


def direct_text(folder: Path, text: str, layer: int = -1) -> np.ndarray:
    config = tf.AutoConfig.from_pretrained(folder)
    loader = tf.T5EncoderModel if config.model_type == "t5" else tf.AutoModel
    model = loader.from_pretrained(folder).eval()
    batch = tf.AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    with torch.no_grad():
        output = model(batch["input_ids"], attention_mask=batch["attention_mask"], output_hidden_states=True)
    return chosen(output, layer)


@pytest.mark.parametrize("name", tiny_models.SPEECH)
@pytest.mark.parametrize("layer", [-1, 0, 1])
def test_speech_equals_transformers(load: Load, name: str, layer: int) -> None:
    encoder, folder = load(name, f"?layer={layer}")
    short = waves(9_000, 4_321, 15_999)
    expected = [direct_speech(folder, wave, layer).mean(axis=0) for wave in short]
    found = encoder.encode(short)
    assert found.dtype == np.float32
    assert found.shape == (3, encoder.dim) == (3, 16)
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize("name", tiny_models.TEXT)
@pytest.mark.parametrize("layer", [-1, 0, 1])
def test_text_equals_transformers(load: Load, name: str, layer: int) -> None:
    encoder, folder = load(name, f"?layer={layer}")
    texts = ["we call it bear", "zero", "one two unheard three"]
    expected = [direct_text(folder, text, layer).mean(axis=0) for text in texts]
    np.testing.assert_allclose(encoder.encode(texts), expected, atol=2e-6)


@pytest.mark.parametrize("name", tiny_models.SPEECH)
def test_batch_mates_change_nothing_in_speech(load: Load, name: str) -> None:
    segments = waves(16_000, 700, 5_000, 40_123, 5_000, 8_000)
    alone = np.concatenate([load(name)[0].encode([segment]) for segment in segments])
    for batch_size in (1, 2, 6):
        np.testing.assert_allclose(load(name, batch_size=batch_size)[0].encode(segments), alone, atol=1e-5)
    backwards = load(name)[0].encode(segments[::-1])[::-1]
    np.testing.assert_allclose(backwards, alone, atol=1e-5)


@pytest.mark.parametrize("name", tiny_models.TEXT)
def test_batch_mates_change_nothing_in_text(load: Load, name: str) -> None:
    texts = ["zero", "we call it bear", "", "elephants tai goose " * 9, "one two"]
    alone = np.concatenate([load(name)[0].encode([text]) for text in texts])
    for batch_size in (1, 2, 8):
        np.testing.assert_allclose(load(name, batch_size=batch_size)[0].encode(texts), alone, atol=1e-5)


def test_group_norm_would_suffer_from_padding(load: Load) -> None:
    """Why batches of such models hold one length only: silence behind the sound changes its frames."""
    encoder, _ = load("wav2vec2_group")
    (wave,) = waves(5_000)
    padded = np.pad(wave, (0, 5_000))
    assert np.abs(encoder.encode([wave]) - encoder.encode([padded])).max() > 1e-3


@pytest.mark.parametrize("name", tiny_models.SPEECH)
def test_long_speech_is_the_frame_weighted_mean_of_its_pieces(load: Load, name: str) -> None:
    encoder, folder = load(name, "?seconds=1")
    (wave,) = waves(37_000)
    states = [direct_speech(folder, wave[start : start + 16_000]) for start in (0, 16_000, 32_000)]
    np.testing.assert_allclose(encoder.encode([wave])[0], np.concatenate(states).mean(axis=0), atol=2e-6)
    highest, _ = load(name, "?seconds=1&pooling=max")
    np.testing.assert_allclose(highest.encode([wave])[0], np.concatenate(states).max(axis=0), atol=2e-6)


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_long_text_is_the_token_weighted_mean_of_its_windows(load: Load, name: str) -> None:
    encoder, folder = load(name)
    assert encoder.description["tokens"] == 12  # of which two frame the words
    words = (["we", "call", "it", "bear", "goose"] * 5)[:23]
    states = [direct_text(folder, " ".join(words[start : start + 10])) for start in (0, 10, 20)]
    assert [len(one) for one in states] == [12, 12, 5]
    np.testing.assert_allclose(encoder.encode([" ".join(words)])[0], np.concatenate(states).mean(axis=0), atol=2e-6)


def test_t5_reads_512_tokens_at_once(load: Load) -> None:
    encoder, folder = load("t5")
    assert encoder.description["tokens"] == 512
    states = [direct_text(folder, " ".join(["one"] * count)) for count in (511, 89)]
    found = encoder.encode([" ".join(["one"] * 600)])[0]
    np.testing.assert_allclose(found, np.concatenate(states).mean(axis=0), atol=2e-5)


@pytest.mark.parametrize("name", tiny_models.SPEECH)
@pytest.mark.parametrize("samples", [1, 30, 400])
def test_very_short_speech_has_features(load: Load, name: str, samples: int) -> None:
    encoder, _ = load(name)
    assert np.isfinite(encoder.encode(waves(samples))).all()


@pytest.mark.parametrize("name", tiny_models.SPEECH)
def test_no_segments_no_rows(load: Load, name: str) -> None:
    assert load(name)[0].encode([]).shape == (0, 16)


def test_whisper_hears_nothing_of_its_padding(load: Load) -> None:
    encoder, folder = load("whisper")
    (wave,) = waves(3_200)
    all_frames = direct_speech(folder, np.pad(wave, (0, 12_800)))
    assert np.abs(encoder.encode([wave])[0] - all_frames.mean(axis=0)).max() > 1e-3
    np.testing.assert_allclose(encoder.encode([wave])[0], all_frames[:10].mean(axis=0), atol=2e-6)


def test_cls_is_the_first_token(load: Load) -> None:
    encoder, folder = load("bert", "?pooling=cls")
    np.testing.assert_allclose(encoder.encode(["one two"])[0], direct_text(folder, "one two")[0], atol=2e-6)


@pytest.mark.parametrize(("layer", "same"), [("2", "-1"), ("0", "-3"), ("1", "-2")])
def test_layers_count_from_both_ends(load: Load, layer: str, same: str) -> None:
    (one, _), (other, _) = load("hubert", f"?layer={layer}"), load("hubert", f"?layer={same}")
    assert one.description["layer"] == other.description["layer"] == int(layer)
    np.testing.assert_array_equal(one.encode(waves(2_000)), other.encode(waves(2_000)))


def test_description_tells_weights_apart_and_is_json(load: Load, tmp_path: Path) -> None:
    encoder, folder = load("bert")
    description = json.loads(json.dumps(dict(encoder.description)))
    assert description["name"] == f"hf:{folder}"
    assert description | {"modality": "text", "dim": 16, "pooling": "mean", "layer": 2} == description
    with torch.random.fork_rng():
        torch.manual_seed(1)
        other = load_encoder(f"hf:{tiny_models.bert(tmp_path)}", modality="text", device="cpu")
    assert description["revision"].startswith("sha256:")
    assert other.description["revision"] != description["revision"]


def test_loading_is_silent(load: Load, capfd: pytest.CaptureFixture[str]) -> None:
    load("t5")  # holds a decoder that is not wanted
    load("bert")
    capfd.readouterr()  # making them to begin with may have said something
    load("t5")
    load("bert")[0].encode(["one " * 40])
    out, err = capfd.readouterr()
    assert out + err == ""


def test_made_up_weights_are_refused(load: Load, tmp_path: Path) -> None:
    """transformers would fill the missing layer with random numbers, and say so in a warning."""
    folder = tiny_models.make("bert", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(EncoderError, match=r"do not fit a bert .*layer\.2.*name the model that was trained"):
        load_encoder(f"hf:{folder}", modality="text", device="cpu")


@pytest.mark.parametrize("name", tiny_models.TEXT)
def test_a_tokenizer_without_words_is_refused(name: str, tmp_path: Path) -> None:
    """transformers makes an empty tokenizer of missing files: every text would look the same."""
    folder = tiny_models.make(name, tmp_path)
    for path in folder.glob("token*"):
        path.unlink()
    with pytest.raises(EncoderError, match="its tokenizer knows no words; add the tokenizer's files"):
        load_encoder(f"hf:{folder}", modality="text", device="cpu")


def test_wrong_modality_is_refused(load: Load) -> None:
    _, speech = load("whisper")
    _, text = load("bert")
    with pytest.raises(EncoderError, match="audio feature extractor"):
        load_encoder(f"hf:{text}", modality="audio", device="cpu")
    with pytest.raises(EncoderError, match="whisper is no text model"):
        load_encoder(f"hf:{speech}", modality="text", device="cpu")


@given(
    frames=st.integers(1, 6),
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    how=st.sampled_from(["mean", "max"]),
)
def test_pooling_sees_real_frames_only(frames: int, lengths: list[int], how: str) -> None:
    real = [min(length, frames) for length in lengths]
    states = torch.randn(len(real), frames, 3, generator=torch.Generator().manual_seed(frames))
    expected = [getattr(states[row, :length].numpy(), how)(axis=0) for row, length in enumerate(real)]
    for row, length in enumerate(real):
        states[row, length:] = torch.nan  # what is beyond must not matter, whatever it is
    np.testing.assert_allclose(pool(states, torch.tensor(real), how), expected, atol=1e-6)


def test_opensmile_equals_the_package() -> None:
    encoder = load_encoder("opensmile:eGeMAPSv02", modality="audio")
    paths = sorted((MINI / "audio").iterdir())[:4]
    smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals)
    expected = [smile.process_file(str(path)).to_numpy()[0] for path in paths]
    found = encoder.encode([read_stretch(path) for path in paths])
    assert found.shape == (4, 88)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("samples", [1, 400, 1_600, 16_000])
def test_opensmile_is_finite_on_silence_and_slivers(samples: int) -> None:
    encoder = load_encoder("opensmile:eGeMAPSv02", modality="audio")
    found = encoder.encode([np.zeros(samples, np.float32), np.ones(samples, np.float32)])
    assert found.shape == (2, 88)
    assert np.isfinite(found).all()


def test_opensmile_does_not_wrap_full_scale_around() -> None:
    encoder = load_encoder("opensmile:eGeMAPSv02", modality="audio")
    tone = np.sin(2 * np.pi * 200 * np.arange(16_000) / 16_000).astype(np.float32)
    assert tone.max() > 1.0 - 2.0**-15  # as int16 this peak would become -32768
    clipped = np.minimum(tone, 1.0 - 2.0**-15).astype(np.float32)
    full, below = encoder.encode([tone, clipped])
    np.testing.assert_array_equal(full, below)


def test_own_encoders_can_be_registered() -> None:
    class Loudness:
        description = {"name": "loudness:rms", "dim": 1}  # noqa: RUF012
        dim = 1

        def encode(self, segments: Any) -> np.ndarray:
            return np.array([[np.sqrt(np.mean(np.square(one)))] for one in segments], np.float32)

    def factory(name: EncoderName, modality: str, device: str, batch_size: int) -> Encoder:
        assert (name.target, dict(name.options)) == ("rms", {"x": "1"})
        return Loudness()

    register_encoder("loudness", factory)
    register_encoder("loudness", factory)  # a module imported twice is no fault
    assert load_encoder("loudness:rms?x=1", modality="audio").encode([np.ones(5)]) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="taken"):
        register_encoder("hf", factory)
    with pytest.raises(ValueError, match="one word"):
        register_encoder("a:b", factory)


@pytest.mark.parametrize(
    ("name", "modality", "says"),
    [
        ("hff:x", "audio", "did you mean 'hf'"),
        ("whisper-small", "audio", "scheme:what"),
        ("hf:", "audio", "scheme:what"),
        ("opensmile:eGeMAPSv2", "audio", "did you mean 'eGeMAPSv02'"),
        ("opensmile:eGeMAPSv02?layer=1", "audio", "unknown option 'layer'; it has none"),
        ("opensmile:eGeMAPSv02", "text", "can't read"),
        ("hf:x?poling=mean", "text", "did you mean 'pooling'"),
        ("hf:x?pooling=men", "text", "did you mean 'mean'"),
        ("hf:x?pooling=cls", "audio", "unknown pooling 'cls' for audio"),
        ("hf:x?layer=last", "text", "layer='last' is not a number"),
        ("hf:x?tokens=8", "audio", "unknown option 'tokens'"),
        ("hf:x?seconds=nan", "audio", "seconds=nan; give 0.1 or more"),
        ("hf:x?layer", "text", "options are written"),
        ("hf:x?layer=1&layer=2", "text", "given twice"),
        ("hf:./no/such/folder", "text", "no such folder"),
    ],
)
def test_wrong_names_say_what_is_right(name: str, modality: Any, says: str) -> None:
    with pytest.raises(EncoderError) as caught:
        load_encoder(name, modality=modality, device="cpu")
    assert says in str(caught.value)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("model", "options", "says"),
    [
        ("bert", "?layer=3", "layer=3, but the model has 2"),
        ("bert", "?layer=-4", "layer=-4, but the model has 2"),
        ("bert", "?tokens=13", "has positions for 12"),
        ("roberta", "?tokens=13", "has positions for 12"),
        ("bert", "?tokens=2", "give at least 3"),
        ("t5", "?tokens=0", "give at least 2"),
    ],
)
def test_options_the_model_can_not_fulfil(load: Load, model: str, options: str, says: str) -> None:
    with pytest.raises(EncoderError) as caught:
        load(model, options)
    assert says in str(caught.value)


def test_wrong_device_and_batch_size(load: Load) -> None:
    _, folder = load("bert")
    with pytest.raises(EncoderError, match="give auto, cpu, cuda or mps"):
        load_encoder(f"hf:{folder}", modality="text", device="gpu")
    with pytest.raises(EncoderError, match="at least 1"):
        load("bert", batch_size=0)


@pytest.mark.parametrize("name", ["hubert_layer", "whisper", "bert", "t5"])
def test_half_precision_is_close(load: Load, name: str) -> None:
    """What runs on CUDA, here on the CPU's own float16."""
    encoder, _ = load(name)
    front = encoder._front  # type: ignore[attr-defined]
    inputs, _ = front.collate(front.cut(waves(8_000)[0] if name in tiny_models.SPEECH else "we call it bear"))
    half, full = (encoder._states(inputs, half=half) for half in (True, False))  # type: ignore[attr-defined]
    assert half.dtype == torch.float32
    assert 0 < (half - full).abs().max() < 3e-2 * full.abs().max()


def test_an_installed_package_offers_an_encoder_to_the_command_line(tmp_path, monkeypatch):
    (tmp_path / "loud.py").write_text(
        "import numpy as np\n"
        "class Loud:\n"
        "    description, dim = {'name': 'loud:x'}, 1\n"
        "    def encode(self, segments):\n"
        "        return np.array([[np.abs(s).max()] for s in segments], dtype=np.float32)\n"
        "def make(name, modality, device, batch_size):\n"
        "    return Loud()\n"
    )
    info = tmp_path / "loud-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: loud\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[hilbert.encoders]\nloud = loud:make\n")
    monkeypatch.syspath_prepend(tmp_path)
    encoder = load_encoder("loud:x", modality="audio")
    assert encoder.encode([np.array([0.5, -2.0], np.float32)]).tolist() == [[2.0]]
