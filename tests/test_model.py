"""The whole model: what may change its answers, and what must not. Files on disk are at the end."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from synthetic import AUDIO_DIM, SPECS, TEXT_DIM, make_model, model_config, random_batch, select, split
from torch import Tensor

import hilbert.model
from hilbert.batches import Batch
from hilbert.errors import InputError
from hilbert.model import Hilbert, HilbertOutput
from hilbert.ragged import Ragged

VARIANTS = [
    {},
    {"modality_source": "cross"},
    {"layers": 0, "experts": 1},
    {"layers": 2, "hops": 3, "top_k": 1},
    {"modality_source": "cross", "layers": 2, "hops": 3, "top_k": 2},
]
variants = pytest.mark.parametrize("changes", VARIANTS, ids=str)
NEAR = {"rtol": 0, "atol": 1e-10}


def spread(model: Hilbert) -> Hilbert:
    """Biases and norms begin at zero and one, which hides mistakes: draw all parameters."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return model


def by_document(output: HilbertOutput) -> list[dict[str, Tensor]]:
    """All that the model says, document by document."""
    per_batch = {
        "a": output.audio,
        "t": output.text,
        "j": output.joint,
        **{f"logits {task}": values for task, values in output.logits.items()},
        **{f"gates {task}": values for task, values in output.gates.items()},
        **{f"gate logits {task}": values for task, values in output.gate_logits.items()},
        **{f"weights {name}": split(values) for name, values in output.attention.items()},
    }
    return [{name: values[i] for name, values in per_batch.items()} for i in range(len(output.joint))]


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], *, atol: float = 1e-10) -> None:
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=atol, msg=lambda text, name=name: name + text)


def lacking(**changes: object) -> Batch:
    """Documents with both modalities, only audio, only text."""
    return random_batch(audio=(3, 2, 0, 1, 0), text=(2, 0, 4, 1, 1), **changes)


# ---- what must not matter --------------------------------------------------------------------------------------------


@variants
def test_padding_and_company_change_nothing(changes):
    model, batch = spread(make_model(**changes)), lacking()
    together = by_document(model(batch))
    padded = by_document(model(select(batch, range(5), longest=11)))
    for document in range(5):
        assert_same(padded[document], together[document])
        assert_same(by_document(model(select(batch, [document])))[0], together[document])


@variants
def test_no_document_sees_another_s_features(changes):
    model, batch = spread(make_model(**changes)), lacking()
    before = by_document(model(batch))
    for document in range(5):
        others = select(batch, range(5))
        for sequence in (others.audio, others.text):
            split(sequence)[document].fill_(3.0)
        after = by_document(model(others))
        for other in set(range(5)) - {document}:
            assert_same(after[other], before[other], atol=1e-12)
        assert (after[document]["j"] - before[document]["j"]).abs().max() > 1e-3


@variants
def test_the_order_of_documents_permutes_the_answers(changes):
    model, batch = spread(make_model(**changes)), lacking()
    order = [3, 0, 4, 2, 1]
    straight, permuted = by_document(model(batch)), by_document(model(select(batch, order)))
    for place, document in enumerate(order):
        assert_same(permuted[place], straight[document])


def reversed_segments(batch: Batch) -> Batch:
    def flipped(sequence: Ragged) -> Ragged:
        return sequence.with_values(torch.cat([segments.flip(0) for segments in split(sequence)]))

    return Batch(flipped(batch.audio), flipped(batch.text), batch.labels)


@variants
def test_the_order_of_segments_matters_through_the_position_signal_alone(changes, monkeypatch):
    model, batch = spread(make_model(**changes)), random_batch()
    assert (model(batch).joint - model(reversed_segments(batch)).joint).abs().max() > 1e-4
    monkeypatch.setattr(hilbert.model, "position_signal", lambda positions, width: torch.zeros(len(positions), width))
    straight, flipped = model(batch), model(reversed_segments(batch))
    for name in ("audio", "text", "joint"):
        torch.testing.assert_close(getattr(flipped, name), getattr(straight, name), **NEAR)


def test_position_0_makes_a_document_a_set_of_segments():
    model, batch = spread(make_model(position=0.0)), random_batch()
    torch.testing.assert_close(model(batch).joint, model(reversed_segments(batch)).joint, **NEAR)


def test_labels_are_not_looked_at():
    model, batch = make_model(), random_batch()
    blind = Batch(batch.audio, batch.text, {})
    assert torch.equal(model(batch).logits["affect"], model(blind).logits["affect"])


# ---- what each part says ---------------------------------------------------------------------------------------------


@variants
def test_the_model_is_its_equations(changes):
    model, batch = spread(make_model(**changes)), lacking()
    output = model(batch)
    h_a, h_t = model.audio_encoder(batch.audio), model.text_encoder(batch.text)
    z_a, z_t = model.audio_from_text(h_a, h_t), model.text_from_audio(h_t, h_a)
    cross = model.config.model.modality_source == "cross"
    a, t = model.audio_pool(z_a if cross else h_a)[0], model.text_pool(z_t if cross else h_t)[0]
    j = model.joint_pool(z_a, z_t)[0]
    logits, gates, _ = model.classifier(torch.cat([a, t, j], dim=1))
    expected = {"audio": a, "text": t, "joint": j, **{f"logits {task}": found for task, found in logits.items()}}
    found = {"audio": output.audio, "text": output.text, "joint": output.joint}
    found |= {f"logits {task}": values for task, values in output.logits.items()}
    assert_same(found, expected)
    for task, values in gates.items():
        torch.testing.assert_close(output.gates[task], values, **NEAR)


@variants
def test_shapes_and_sums(changes):
    model, batch = spread(make_model(**changes)), random_batch()
    output = model(batch)
    settings = model.config.model
    assert output.audio.shape == output.text.shape == output.joint.shape == (5, settings.width)
    for task, spec in SPECS.items():
        assert output.logits[task].shape == (5, spec.outputs)
        assert output.gates[task].shape == (5, settings.experts)
        torch.testing.assert_close(output.gates[task].sum(1), torch.ones(5).double(), **NEAR)
        kept = settings.top_k or settings.experts
        assert ((output.gates[task] > 0).sum(1) == kept).all()
    for said in by_document(output):
        for names in (["weights audio"], ["weights text"], ["weights joint_audio", "weights joint_text"]):
            weights = torch.cat([said[name] for name in names])
            assert (weights > 0).all()
            torch.testing.assert_close(weights.sum(0), torch.ones(settings.hops).double(), **NEAR)


def test_self_keeps_a_modality_to_itself_and_cross_does_not():
    batch = random_batch()
    other = Batch(batch.audio, batch.text.with_values(batch.text.values + 1), batch.labels)
    for source, alike in (("self", True), ("cross", False)):
        model = spread(make_model(modality_source=source))
        assert torch.equal(model(batch).audio, model(other).audio) is alike
        assert not torch.allclose(model(batch).joint, model(other).joint)


def test_attention_runs_from_each_modality_to_the_other():
    batch = random_batch()
    for name in ("audio", "text"):
        model = spread(make_model(modality_source="cross"))
        answering = "text" if name == "audio" else "audio"
        with torch.no_grad():
            getattr(model, f"{name}_from_{answering}").blocks[0].attention.output.weight.zero_()
        changed = getattr(batch, answering)
        parts = {name: getattr(batch, name), answering: changed.with_values(changed.values + 1)}
        other = Batch(parts["audio"], parts["text"], batch.labels)
        assert torch.equal(getattr(model(batch), name), getattr(model(other), name))
        assert not torch.allclose(getattr(model(batch), answering), getattr(model(other), answering))


def test_features_are_standardised_and_clipped():
    model, batch = make_model(), random_batch()
    mean, deviation = torch.arange(AUDIO_DIM).double(), 1 + torch.arange(AUDIO_DIM).double()
    expected = model(batch).joint
    model.audio_encoder.standardise.fit(mean.numpy(), deviation.numpy())
    moved = Batch(batch.audio.with_values(batch.audio.values * deviation + mean), batch.text, batch.labels)
    torch.testing.assert_close(model(moved).joint, expected, **NEAR)
    far, farther = (Batch(batch.audio.with_values(batch.audio.values * scale), batch.text, {}) for scale in (1e6, 1e7))
    assert torch.equal(model(far).joint, model(farther).joint)


def test_dropout_acts_in_training_alone():
    model, batch = make_model(dropout=0.5), random_batch()
    assert torch.equal(model(batch).joint, model(batch).joint)
    model.train()
    assert not torch.equal(model(batch).joint, model(batch).joint)


# ---- missing modalities ----------------------------------------------------------------------------------------------


@variants
def test_a_missing_modality_is_zero_and_the_joint_embedding_pools_the_other_alone(changes):
    model = spread(make_model(**changes))
    output = model(lacking())
    assert (output.audio == 0).all(1).tolist() == [False, False, True, False, True]
    assert (output.text == 0).all(1).tolist() == [False, True, False, False, False]
    assert (output.joint != 0).any(1).all()
    for said in by_document(output):
        weights = torch.cat([said["weights joint_audio"], said["weights joint_text"]])
        torch.testing.assert_close(weights.sum(0), torch.ones(model.config.model.hops).double(), **NEAR)


@variants
@pytest.mark.parametrize("lacks", [("audio",), ("text",), ("audio", "text")], ids="+".join)
def test_a_whole_batch_may_lack_a_modality(changes, lacks):
    lengths = {name: (0, 0, 0) if name in lacks else (2, 1, 3) for name in ("audio", "text")}
    model, batch = spread(make_model(**changes)), random_batch(**lengths)
    output = model(batch)
    for name in lacks:
        assert not getattr(output, name).any()
    assert output.joint.any() == (len(lacks) == 1)
    assert all(torch.isfinite(value).all() for said in by_document(output) for value in said.values())


@variants
def test_gradients_are_finite_and_every_parameter_gets_one(changes):
    model, batch = spread(make_model(**changes)).train(), lacking()
    output = model(batch)
    sum(value.square().sum() for value in (output.joint, output.audio, output.text, *output.logits.values())).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


# ---- files -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path) -> Path:
    spread(make_model(dtype=torch.float32, hops=2)).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@variants
def test_a_saved_model_says_the_same_to_the_bit(changes, tmp_path):
    model = spread(make_model(dtype=torch.float32, dropout=0.3, **changes))
    model.audio_encoder.standardise.fit(*torch.rand(2, AUDIO_DIM, dtype=torch.float64).numpy())
    model.train().save_pretrained(tmp_path / "deep" / "model")
    again = Hilbert.from_pretrained(str(tmp_path / "deep" / "model"))
    assert again.config == model.config
    assert not again.training
    assert all(parameter.requires_grad for parameter in again.parameters())
    batch = lacking(dtype=torch.float32)
    for found, expected in zip(by_document(again(batch)), by_document(model.eval()(batch)), strict=True):
        assert_same(found, expected, atol=0)


def test_a_model_folder_holds_two_files_and_no_pickle(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert json.loads((folder / "config.json").read_text())["text_dim"] == TEXT_DIM
    make_model(dtype=torch.float32).save_pretrained(folder)
    assert Hilbert.from_pretrained(folder).config.model.hops == 1
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_loading_leaves_the_global_random_state_alone(folder):
    before = torch.get_rng_state()
    Hilbert.from_pretrained(folder)
    assert torch.equal(torch.get_rng_state(), before)


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_weights(folder: Path, change) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path)


def truncate(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


CONFIG_FAULTS = {
    "missing": (lambda folder: (folder / "config.json").unlink(), "config.json"),
    "truncated": (lambda folder: truncate(folder / "config.json", 40), "config.json"),
    "not text": (lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe\x00"), "config.json"),
    "a list": (lambda folder: (folder / "config.json").write_text("[]"), "format"),
    "foreign": (lambda folder: (folder / "config.json").write_text('{"model_type": "bert"}'), "format"),
    "wrong version": (lambda folder: change_config(folder, version=2), "version 2"),
    "unknown key": (lambda folder: change_config(folder, text_dims=4), "text_dims"),
    "wrong type": (lambda folder: change_config(folder, text_dim="4"), "text_dim"),
    "out of range": (lambda folder: change_config(folder, model={"width": 7}), "width"),
}
WEIGHT_FAULTS = {
    "missing": (lambda folder: (folder / "model.safetensors").unlink(), "safetensors"),
    "empty": (lambda folder: truncate(folder / "model.safetensors", 0), "safetensors"),
    "truncated": (lambda folder: truncate(folder / "model.safetensors", 3000), "safetensors"),
    "foreign": (lambda folder: (folder / "model.safetensors").write_bytes(b"no such thing" * 99), "safetensors"),
    "other width": (lambda folder: change_config(folder, text_dim=TEXT_DIM + 1), "text_encoder"),
    "one too few": (lambda folder: change_weights(folder, lambda w: w.pop("joint_pool.merge.weight")), "merge.weight"),
    "one too many": (lambda folder: change_weights(folder, lambda w: w.update(extra=torch.ones(1))), "extra"),
}


@pytest.mark.parametrize("fault", CONFIG_FAULTS)
def test_a_damaged_config_is_an_input_error_that_names_the_file(folder, fault):
    break_it, names = CONFIG_FAULTS[fault]
    break_it(folder)
    with pytest.raises(InputError, match=names) as caught:
        Hilbert.from_pretrained(folder)
    assert str(folder / "config.json") in str(caught.value)


@pytest.mark.parametrize("fault", WEIGHT_FAULTS)
def test_damaged_weights_are_an_input_error_that_names_the_file(folder, fault):
    break_it, names = WEIGHT_FAULTS[fault]
    break_it(folder)
    with pytest.raises(InputError, match=names) as caught:
        Hilbert.from_pretrained(folder)
    assert str(folder / "model.safetensors") in str(caught.value)


def test_a_configuration_survives_json():
    config = model_config(hops=3, dropout=0)
    assert type(config).model_validate(json.loads(json.dumps(config.model_dump(mode="json")))) == config
