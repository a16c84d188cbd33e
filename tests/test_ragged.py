import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from synthetic import split

from hilbert.ragged import Ragged

LENGTHS = st.lists(st.integers(0, 6), min_size=1, max_size=6)


def ragged(lengths: list[int], *, longest: int | None = None, dim: int = 3) -> Ragged:
    values = torch.arange(sum(lengths) * dim, dtype=torch.float64).view(-1, dim) + 1
    return Ragged.from_lengths(values, torch.tensor(lengths), longest=longest)


@given(LENGTHS, st.integers(0, 9))
def test_padded_holds_each_sequence_and_zeros(lengths, longest):
    packed = ragged(lengths, longest=longest)
    assert packed.longest == max(1, longest, *lengths)
    padded = packed.padded()
    assert padded.shape == (len(lengths), packed.longest, 3)
    for row, mask, sequence, length in zip(padded, packed.mask, split(packed), lengths, strict=True):
        assert torch.equal(row[:length], sequence)
        assert not row[length:].any()
        assert mask.tolist() == [True] * length + [False] * (packed.longest - length)


@given(LENGTHS, st.integers(0, 9))
def test_packing_inverts_padding(lengths, longest):
    packed = ragged(lengths, longest=longest)
    assert torch.equal(packed.packed(packed.padded()), packed.values)
    again = Ragged.from_padded(packed.padded(), packed.mask)
    assert torch.equal(again.values, packed.values)
    assert torch.equal(again.slots, packed.slots)
    assert torch.equal(again.lengths, packed.lengths)
    assert (again.longest, again.complete) == (packed.longest, packed.complete)


@given(LENGTHS, st.integers(0, 9))
def test_positions_presence_and_completeness(lengths, longest):
    packed = ragged(lengths, longest=longest)
    assert packed.positions.tolist() == [position for length in lengths for position in range(length)]
    assert packed.present.tolist() == [length > 0 for length in lengths]
    assert packed.complete == all(lengths)


def test_a_list_packs_like_its_concatenation():
    sequences = [torch.randn(length, 2, generator=torch.Generator().manual_seed(0)) for length in (2, 0, 3)]
    packed = Ragged.from_list(sequences)
    assert torch.equal(packed.values, torch.cat(sequences))
    assert packed.lengths.tolist() == [2, 0, 3]


def test_garbage_in_the_padding_is_not_read():
    values = torch.full((2, 4, 3), torch.nan)
    values[0, :3], values[1, :1] = 1.0, 2.0
    packed = Ragged.from_padded(values, torch.tensor([[True] * 3 + [False], [True] + [False] * 3]))
    assert packed.values[:, 0].tolist() == [1, 1, 1, 2]
    assert torch.isfinite(packed.padded()).all()


@pytest.mark.parametrize("row", [[False, True], [True, False, True]])
def test_a_mask_with_padding_before_a_segment_is_refused(row):
    mask = torch.tensor([row])
    with pytest.raises(ValueError, match="first segments"):
        Ragged.from_padded(torch.zeros(1, len(row), 2), mask)


def test_other_values_keep_the_layout():
    packed = ragged([2, 0, 1], longest=5)
    other = packed.with_values(packed.values[:, 0])
    assert other.padded().shape == (3, 5)
    assert torch.equal(other.mask, packed.mask)


def test_gradients_of_padding_and_packing_are_exact():
    packed = ragged([2, 0, 3], longest=4)

    def there_and_back(values: torch.Tensor) -> torch.Tensor:
        padded = packed.with_values(values).padded()
        return packed.packed(padded * padded)

    assert torch.autograd.gradcheck(there_and_back, packed.values.clone().requires_grad_())
