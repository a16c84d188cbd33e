"""Tiny random models of the real architectures, saved as a user would have them: a folder each."""

from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers as tf

CONV = {"conv_dim": (8, 8, 8), "conv_kernel": (10, 3, 3), "conv_stride": (5, 2, 2)}
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    **CONV,
}
WORDS = ["we", "call", "it", "bear", "elephants", "tai", "goose", "zero", "one", "two", "three", "a"]


def _save(folder: Path, *parts: Any) -> Path:
    for part in parts:
        part.save_pretrained(folder)
    return folder


def _extractor(mask: bool) -> Any:
    return tf.Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=mask)


def wav2vec2_group(folder: Path) -> Path:
    config = tf.Wav2Vec2Config(**SMALL, feat_extract_norm="group")
    return _save(folder, tf.Wav2Vec2Model(config), _extractor(False))


def wav2vec2_layer(folder: Path) -> Path:
    config = tf.Wav2Vec2Config(**SMALL, feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True)
    return _save(folder, tf.Wav2Vec2Model(config), _extractor(True))


def hubert(folder: Path) -> Path:
    return _save(folder, tf.HubertModel(tf.HubertConfig(**SMALL, feat_extract_norm="group")), _extractor(False))


def hubert_layer(folder: Path) -> Path:
    config = tf.HubertConfig(**SMALL, feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True)
    return _save(folder, tf.HubertModel(config), _extractor(True))


def wavlm(folder: Path) -> Path:
    return _save(folder, tf.WavLMModel(tf.WavLMConfig(**SMALL, feat_extract_norm="group")), _extractor(False))


def wavlm_layer(folder: Path) -> Path:
    config = tf.WavLMConfig(**SMALL, feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True)
    return _save(folder, tf.WavLMModel(config), _extractor(True))


def whisper(folder: Path) -> Path:
    """Hears one second at a time: 100 frames of the spectrogram, 50 of the encoder."""
    config = tf.WhisperConfig(
        vocab_size=24,
        num_mel_bins=8,
        d_model=16,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_source_positions=50,
        max_target_positions=8,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    return _save(folder, tf.WhisperModel(config), tf.WhisperFeatureExtractor(feature_size=8, chunk_length=1))


def tokenizer(before: str, after: str, limit: int, pad: int) -> Any:
    """Whole words; `before` and `after` frame them, as the family's own tokenizer does."""
    special = ["<s0>", "<s1>", "<s2>", "<s3>", "<unk>"]
    vocabulary = {word: number for number, word in enumerate([*special, *WORDS])}
    raw = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    frame = [(token, vocabulary[token]) for token in (before, after) if token]
    raw.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{before} $A {after}".strip(), special_tokens=frame
    )
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="<unk>", pad_token=special[pad], model_max_length=limit
    )


def _text_config(**more: Any) -> dict[str, Any]:
    return {
        "vocab_size": 32,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        **more,
    }


def bert(folder: Path) -> Path:
    model = tf.BertModel(tf.BertConfig(**_text_config(max_position_embeddings=12, pad_token_id=0)))
    return _save(folder, model, tokenizer("<s1>", "<s2>", 12, 0))


def roberta(folder: Path) -> Path:
    """14 positions, of which the padding index and those before it are not for words: 12 remain."""
    config = tf.RobertaConfig(**_text_config(max_position_embeddings=14, pad_token_id=1, type_vocab_size=1))
    return _save(folder, tf.RobertaModel(config), tokenizer("<s0>", "<s2>", 10**20, 1))


def t5(folder: Path) -> Path:
    config = tf.T5Config(
        vocab_size=32, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0, pad_token_id=0
    )
    return _save(folder, tf.T5ForConditionalGeneration(config), tokenizer("", "<s1>", 10**20, 0))


SPEECH = {
    make.__name__: make for make in (whisper, wav2vec2_group, wav2vec2_layer, hubert, hubert_layer, wavlm, wavlm_layer)
}
TEXT = {make.__name__: make for make in (bert, roberta, t5)}


def make(name: str, folder: Path) -> Path:
    """The same weights every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return {**SPEECH, **TEXT}[name](folder)
