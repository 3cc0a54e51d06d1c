"""A network made from one of other widths: which channels stay, and that the outputs stay."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from napari_face_landmarks.errors import ModelError
from napari_face_landmarks.models import load_models
from napari_face_landmarks.pfld.crop import CROP_SIZE
from training_support import make_small, write_data

torch = pytest.importorskip("torch")
FEWER = ((48, 96, 64), (96, 240, 128, 160, 240), (240, 256, 384, 128))


def test_the_channels_stay_that_the_outputs_are_made_of() -> None:
    from napari_face_landmarks.training.pruning import best_channels

    rng = np.random.default_rng(5)
    channels = rng.normal(2.0, 1.0, (500, 12))
    channels[:, 3] = channels[:, [1, 7]].sum(1) + rng.normal(0, 0.3, 500)  # much like others, and not needed
    needed, weights = [1, 4, 7, 10], rng.normal(0, 1, (4, 3))
    outputs = channels[:, needed] @ weights + [0.5, -1.0, 2.0]
    inputs = np.column_stack([channels, np.ones(500)])
    places, found = best_channels(inputs.T @ inputs, inputs.T @ outputs, kept=4)
    assert places.tolist() == needed
    np.testing.assert_allclose(found, [*weights, [0.5, -1.0, 2.0]], atol=2e-3)


def _network(seed: int):  # type: ignore[no-untyped-def]
    from napari_face_landmarks.training.network import Pfld

    torch.manual_seed(seed)
    network = Pfld()
    examples = [torch.rand(8, 3, CROP_SIZE, CROP_SIZE) for _ in range(2)]
    for batch in examples:  # statistics of its own
        network(batch)
    return network.eval(), examples


@pytest.mark.slow
def test_what_a_block_does_not_use_is_left_out_without_loss() -> None:
    from napari_face_landmarks.training.network import WIDE, InvertedResidual
    from napari_face_landmarks.training.pruning import is_thinner, middles_of, with_widths

    wide, examples = _network(1)
    blocks = [module for module in wide.modules() if isinstance(module, InvertedResidual)]
    with torch.no_grad():
        for block, kept in zip(blocks, [width for stage in FEWER for width in stage], strict=True):
            out = block.body[2][0]
            unused = torch.randperm(out.weight.shape[1])[kept:]
            out.weight[:, unused] = 0
        expected = wide(examples[0])
        thin = with_widths(wide, FEWER, examples)
        assert thin.training
        found = thin.eval()(examples[0])
    assert (middles_of(wide), middles_of(thin)) == (WIDE, FEWER)
    assert float((expected.landmarks - found.landmarks).abs().max()) < 1e-3
    assert float((expected.log_sigma - found.log_sigma).abs().max()) < 1e-3
    assert float((expected.score - found.score).abs().max()) < 1e-3
    assert is_thinner(FEWER, WIDE)
    assert not is_thinner(WIDE, FEWER)


@pytest.mark.slow
def test_more_channels_change_nothing_at_first_and_are_learned() -> None:
    from napari_face_landmarks.training.pruning import with_widths

    wide, examples = _network(4)
    more = ((112, 96, 128), (144, 256, 240, 240, 240), (256, 384, 400, 384))
    with torch.no_grad():
        expected = wide(examples[0])
        grown = with_widths(wide, more, examples)
        found = grown.eval()(examples[0])
    assert float((expected.landmarks - found.landmarks).abs().max()) < 1e-5
    assert float((expected.log_sigma - found.log_sigma).abs().max()) < 1e-4
    grown.train()(examples[0]).landmarks.square().sum().backward()
    gradient = grown.stage2[1].body[2][0].weight.grad
    assert gradient is not None
    assert float(gradient[:, 96:].abs().max()) > 0


@pytest.mark.slow
def test_a_thin_network_is_nearer_to_the_wide_one_than_one_that_only_lacks_channels() -> None:
    from napari_face_landmarks.training.network import NARROW, InvertedResidual
    from napari_face_landmarks.training.pruning import with_widths

    wide, examples = _network(2)
    with torch.no_grad():
        expected = wide.features(examples[1])
        thin = with_widths(wide, NARROW, examples).eval()
        found = thin.features(examples[1])
        blocks = [module for module in wide.modules() if isinstance(module, InvertedResidual)]
        for block, kept in zip(blocks, [width for stage in NARROW for width in stage], strict=True):
            out = block.body[2][0]
            out.weight[:, out.weight.abs().sum((0, 2, 3)).argsort()[: out.weight.shape[1] - kept]] = 0
        lacking = wide.features(examples[1])
    for name in ("f2", "f3", "f4"):
        whole = getattr(expected, name)
        lost, lost_otherwise = ((getattr(other, name) - whole).square().mean() for other in (found, lacking))
        assert lost < 0.5 * lost_otherwise


@pytest.mark.slow
def test_training_from_a_wider_network_thins_it_and_learns_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_face_landmarks.training import pfld
    from napari_face_landmarks.training.network import NARROW
    from napari_face_landmarks.training.pruning import middles_of

    make_small(monkeypatch)
    write_data(tmp_path, np.random.default_rng(0))
    small = {"faces_per_batch": 3, "negatives_per_batch": 1, "evaluate_every": 2, "threads": 1}
    wide, thin, again = tmp_path / "wide", tmp_path / "thin", tmp_path / "again"
    pfld.train(tmp_path, wide, "open", pfld.PfldPlan(steps=2, **small))
    pfld.train(tmp_path, thin, "open", pfld.PfldPlan(steps=2, middles=NARROW, **small), start=wide)
    sizes = [json.loads((out / "pfld.metrics.json").read_text())["parameters"] for out in (wide, thin)]
    assert sizes[1] < 0.85 * sizes[0]
    state = torch.load(thin / "pfld.best.pt", weights_only=True)
    widths = [len(weight) for name, weight in state.items() if name.endswith("body.1.0.weight")]
    assert widths == [width for stage in NARROW for width in stage]

    (thin / "pfld.best.pt").unlink()  # from its export, of its own widths: nothing is thinned
    stream = pfld.TrainingStream(tmp_path, "open", pfld.PfldPlan(middles=NARROW, **small))
    network = pfld._load_start(thin, stream, torch.device("cpu"))
    assert middles_of(network) == NARROW
    pfld.train(
        tmp_path, again, "research", pfld.PfldPlan(steps=1, **small), start=thin
    )  # from narrow to wide
    shutil.copy(load_models("open").folder / "detector.onnx", thin / "pfld.onnx")
    with pytest.raises(ModelError, match="not an export of this network"):
        pfld.train(tmp_path, tmp_path / "none", "open", pfld.PfldPlan(steps=1, **small), start=thin)
    parameters = json.loads((again / "pfld.metrics.json").read_text())["parameters"]
    assert parameters == sizes[0]
    pfld.train(tmp_path, again, "research", pfld.PfldPlan(steps=2, **small), start=tmp_path / "gone")
    assert json.loads((again / "pfld.metrics.json").read_text())["step"] in (1, 2)
    steps = (again / "pfld.log.csv").read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in steps] == ["1", "2"], "what goes on needs not what it began with"


def test_the_loss_of_being_taught_is_the_distance_to_the_teacher() -> None:
    from napari_face_landmarks.training.pfld import SOFTNESS, teaching_loss

    wide, examples = _network(3)
    is_face = torch.tensor([1.0] * 6 + [0.0] * 2)
    with torch.no_grad():
        features = wide.features(examples[0])
        outputs = wide.heads(features)

        def loss(own, own_features):  # type: ignore[no-untyped-def]
            return float(teaching_loss(own, own_features, outputs, features, is_face))

        moved = outputs.landmarks + torch.tensor([3.0, 4.0]) / CROP_SIZE
        elsewhere = torch.where(is_face[:, None, None] > 0, outputs.landmarks, moved)
        doubled = features._replace(f3=2 * features.f3)
        same = loss(outputs, features)
        assert same == pytest.approx(4 * SOFTNESS, abs=1e-4)
        assert loss(outputs._replace(landmarks=moved), features) == pytest.approx(20.0, abs=0.05)
        assert loss(outputs._replace(landmarks=elsewhere), features) == pytest.approx(same, abs=1e-6)
        assert loss(outputs, doubled) - same == pytest.approx(2.0, abs=1e-3)
