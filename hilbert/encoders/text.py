"""How a string becomes the input of a text model: tokens, cut into windows that the model can take, and padded.

Every window gets the special tokens that the model was trained with ([CLS] ... [SEP], ... </s>), and they are pooled
with the words, as sentence-transformers do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hilbert.errors import EncoderError, shown

_DEFAULT_LIMIT = 512  # for models whose positions have no end, such as T5: the length they were trained on

Tokens = list[int]


@dataclass(frozen=True, eq=False)
class TextFront:
    """Cuts texts into token windows and collates windows into a batch.

    Attributes:
        tokenizer: the model's tokenizer.
        limit: tokens that the model reads at once, special ones included; longer text is cut.
        before: special tokens before the words.
        after: special tokens after them.
        pad: the token that fills a batch up; it is masked.
    """

    tokenizer: Any
    limit: int
    before: tuple[int, ...]
    after: tuple[int, ...]
    pad: int
    pads: bool = True

    def cut(self, text: str) -> list[Tokens]:
        """Windows of at most `limit` tokens."""
        words = _ids(self.tokenizer, text, special=False)
        width = self.limit - len(self.before) - len(self.after)
        windows = [words[start : start + width] for start in range(0, len(words), width)] or [[]]
        pieces = [[*self.before, *window, *self.after] for window in windows]
        # A model without special tokens would get nothing at all for an empty text.
        return [piece or [self.pad] for piece in pieces]

    def collate(self, pieces: Sequence[Tokens]) -> tuple[dict[str, torch.Tensor], list[int] | None]:
        """The model's input, and how many tokens of each window are real."""
        lengths = [len(piece) for piece in pieces]
        longest = max(lengths)
        ids = torch.tensor([[*piece, *[self.pad] * (longest - len(piece))] for piece in pieces])
        mask = torch.tensor([[1] * length + [0] * (longest - length) for length in lengths])
        return {"input_ids": ids, "attention_mask": mask}, lengths


def _ids(tokenizer: Any, text: str, *, special: bool) -> Tokens:
    # verbose=False: a long text is no reason to warn here, it will be cut
    return list(tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])


def _special_tokens(tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What the tokenizer puts before and after the words, seen on a short text."""
    words, full = _ids(tokenizer, "a", special=False), _ids(tokenizer, "a", special=True)
    for start in range(len(full) - len(words) + 1):
        if full[start : start + len(words)] == words:
            return tuple(full[:start]), tuple(full[start + len(words) :])
    return (), ()


def _positions(model: torch.nn.Module, config: Any) -> int | None:
    """Tokens that the model has positions for; the RoBERTa family starts to count after the padding index."""
    known: int | None = getattr(config, "max_position_embeddings", None)
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
            taken = 0 if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - taken
    return known if known and known > 0 else None


def text_front(tokenizer: Any, model: torch.nn.Module, config: Any, tokens: int | None, name: str) -> TextFront:
    """The front of a text model.

    Raises:
        EncoderError: `tokens` asks for more than the model can read, or too few to hold a word; or the tokenizer's
            files are missing, of which transformers makes a tokenizer that knows no words, without a warning.
    """
    if len(tokenizer) <= len(tokenizer.all_special_ids) + 1:
        raise EncoderError(
            f"encoder {shown(name)}: its tokenizer knows no words; add the tokenizer's files (such as tokenizer.json)"
        )
    before, after = _special_tokens(tokenizer)
    positions = _positions(model, config)
    trained = tokenizer.model_max_length if tokenizer.model_max_length < 1_000_000 else None
    most = min([limit for limit in (positions, trained) if limit] or [_DEFAULT_LIMIT])
    if tokens is not None and positions is not None and tokens > positions:
        raise EncoderError(f"encoder {shown(name)}: tokens={tokens}, but the model has positions for {positions}")
    limit, least = most if tokens is None else tokens, len(before) + len(after) + 1
    if limit < least:
        raise EncoderError(f"encoder {shown(name)}: tokens={limit} leave no room for a word; give at least {least}")
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return TextFront(tokenizer, limit, before, after, pad or 0)


def text_facts(front: TextFront) -> Mapping[str, Any]:
    """What the description says about the cut."""
    return {"tokens": front.limit}
