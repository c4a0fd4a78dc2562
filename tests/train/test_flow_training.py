"""Training the flow: crops, optimiser, and that a few steps lower the loss and can be resumed."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fireside.errors import UsageError
from fireside.models.config import DiTConfig, FlowConfig
from fireside.models.flow import CausalFlow
from fireside.train.data import FeatureStore
from fireside.train.flow import HEARTH, FlowTrainConfig, override, train
from fireside.train.flow_data import CropConfig, CropSampler, bins_below
from fireside.train.muon import Muon, orthogonalise

N_MELS = 80
CODES = 12


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """A feature folder of made-up speech: every token has its own spectrum, every voice its own tilt."""
    folder = tmp_path_factory.mktemp("features")
    rng = np.random.default_rng(0)
    spectra = rng.normal(size=(CODES, N_MELS)).astype(np.float32)
    rows, mels, tokens, embeddings = [], [], [], []
    first = 0
    for number in range(30):
        real = number % 6 == 5
        voice = f"real{number}" if real else (f"blend{number}" if number % 2 else "named")
        count = int(rng.integers(20, 50))
        ids = rng.integers(0, CODES, count)
        mel = np.repeat(spectra[ids], 2, axis=0) - 5 + 0.1 * rng.normal(size=(2 * count, N_MELS))
        if real:
            mel[:, bins_below(8000, N_MELS) :] = -11.5
        rows.append(
            {
                "utt": str(number),
                "spk": voice,
                "number": number,
                "first_token": first,
                "tokens": count,
                "split": "val" if number % 5 == 0 else "train",
                "corpus": "librispeech" if real else "kokoro",
                "max_hz": 8000 if real else 12000,
            }
        )
        first += count
        mels.append(mel.astype("<f2"))
        tokens.append(ids.astype("<i2"))
        embeddings.append(rng.normal(size=192).astype("<f4"))
    (folder / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    np.concatenate(mels).tofile(folder / "mel.f16")
    np.concatenate(tokens).tofile(folder / "speech_tokens.i16")
    for name in ("speaker.f32", "campplus.f32"):
        np.stack(embeddings).tofile(folder / name)
    return folder


CROPS = CropConfig(lengths=(10, 20, 60), shares=(0.3, 0.4, 0.3), batch_tokens=60, real_share=0.2)


@pytest.fixture
def sampler(features):
    store = FeatureStore(features)
    return CropSampler(store, store.select("train"), CROPS, seed=0)


def test_crops_stay_inside_their_utterances_and_voices(sampler):
    kinds = set()
    for _ in range(600):
        crop = sampler.crop()
        assert sum(count for _, _, count in crop.pieces) == crop.length
        for row, start, count in crop.pieces:
            assert row["split"] == "train"
            assert 0 <= start <= start + count <= row["tokens"]
        assert crop.embedding_of is not None
        assert len({row["spk"] for row, _, _ in crop.pieces} | {crop.embedding_of["spk"]}) == 1
        assert 0 <= crop.prefix <= CROPS.prefix_max * crop.length
        same = len({row["utt"] for row, _, _ in crop.pieces}) == 1
        kinds.add((len(crop.pieces) > 1, same))
        if len(crop.pieces) == 2 and same:  # a jump inside one utterance: nothing is heard twice
            (_, a, m), (_, b, n) = crop.pieces
            assert a + m <= b or b + n <= a
            assert m == crop.prefix
    assert kinds == {(False, True), (True, True), (True, False)}


def test_batches_hold_what_their_crops_name(sampler):
    crops = [crop for crop in (sampler.crop() for _ in range(200)) if crop.length == 20][:6]
    batch = sampler.collate(crops)
    for i, crop in enumerate(crops):
        ids = np.concatenate([sampler.store.tokens(row)[a : a + n] for row, a, n in crop.pieces])
        assert batch.tokens[i].tolist() == ids.tolist()
        mel = np.concatenate([sampler.store.mel(row)[2 * a : 2 * (a + n)] for row, a, n in crop.pieces])
        bins = bins_below(crop.pieces[0][0]["max_hz"], N_MELS)
        assert np.array_equal(batch.mel[i, :bins].numpy(), mel.T[:bins])
        counted = batch.loss_mask[i].expand(N_MELS, 40)
        assert not counted[bins:].any()
        assert not counted[:, : 2 * crop.prefix].any()
        assert counted[:bins, 2 * crop.prefix :].all()


def test_blind_rows_have_a_prompt_and_no_embedding(features):
    store = FeatureStore(features)
    config = CROPS.model_copy(update={"blind_share": 0.5, "blind_prompt": 8})
    blind_sampler = CropSampler(store, store.select("train"), config, seed=0)
    crops = [blind_sampler.crop() for _ in range(400)]
    prompted = [crop for crop in crops if crop.prefix >= 8]
    blind = [crop for crop in crops if crop.embedding_of is None]
    assert all(crop.prefix >= 8 for crop in blind)
    assert 0.35 < len(blind) / len(prompted) < 0.65
    seen = next(crop for crop in prompted if crop.embedding_of is not None and crop.length == blind[0].length)
    batch = blind_sampler.collate([blind[0], seen])
    assert not batch.embedding[0].any()
    expected = torch.from_numpy(store.embedding(seen.embedding_of))
    assert torch.linalg.vector_norm(batch.embedding[1] - expected) < 3 * config.embedding_noise


def test_narrow_recordings_are_continued_above_their_band(sampler):
    real = next(crop for crop in iter(sampler.crop, None) if crop.pieces[0][0]["max_hz"] == 8000)
    batch = sampler.collate([real])
    bins = bins_below(8000, N_MELS)
    assert batch.prompt_mel[0, bins:].max() < -11  # a prompt is as it was recorded
    assert batch.mel[0, bins:].min() > -9  # what is generated is not


def test_sampling_is_reproducible_and_moves_on(sampler, features):
    store = FeatureStore(features)
    again = CropSampler(store, store.select("train"), CROPS, seed=0)
    first, second = next(sampler.batches()), next(again.batches())
    assert torch.equal(first.embedding, second.embedding)
    again.reseed(1)
    assert not torch.equal(next(again.batches()).mel[0, :, :10], first.mel[0, :, :10])


def test_bins_below():
    from fireside.audio.features import slaney_filterbank

    bank = slaney_filterbank(24000, 1920, N_MELS)
    bins = bins_below(8000, N_MELS)
    above = np.fft.rfftfreq(1920, 1 / 24000) > 8000
    assert not bank[:bins, above].any()
    assert bank[bins, above].any()
    assert bins_below(12000, N_MELS) == N_MELS


@pytest.mark.parametrize("shape", [(2, 24, 24), (1, 16, 48), (3, 48, 16)])
def test_orthogonalise_evens_out_singular_values(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    before, after = torch.linalg.svdvals(matrices), torch.linalg.svdvals(orthogonalise(matrices))
    assert after.max() < 1.4
    # Five steps lift all but the smallest values to the level of the others.
    assert after[before > 0.05 * before.amax(1, keepdim=True)].min() > 0.4


def test_muon_descends():
    target = torch.randn(16, 16, generator=torch.Generator().manual_seed(0))
    weight = torch.nn.Parameter(torch.zeros(16, 16))
    optimizer = Muon([weight], lr=0.2)
    for _ in range(60):
        optimizer.zero_grad()
        (weight - target).square().mean().backward()
        optimizer.step()
    assert (weight - target).square().mean() < 0.1 * target.square().mean()


def test_settings():
    config = override(FlowTrainConfig(), ["run.peak_rate=0.002", "crops.lengths=[10, 20]"])
    assert config.run.peak_rate == 0.002
    assert config.crops.lengths == (10, 20)
    for wrong in ("run.peak=1", "nothing.here=1"):
        with pytest.raises(UsageError, match="no setting"):
            override(FlowTrainConfig(), [wrong])


def test_hearth_size():
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in CausalFlow(HEARTH).parameters())
    assert 6e6 < count < 10e6


def test_training_learns_resumes_and_exports(features, tmp_path):
    flow = FlowConfig(
        speech_vocab_size=CODES,
        lookahead_channels=32,
        chunk_tokens=5,
        dit=DiTConfig(dim=32, depth=1, heads=2, dim_head=16, ff_mult=2, conv_pos_kernel=5, conv_pos_groups=4),
        full_mask_offline=False,
    )
    config = FlowTrainConfig(flow=flow, crops=CROPS, validate_rows=4)

    def settings(minutes):
        run = {"minutes": minutes, "clock": "cpu", "peak_rate": 5e-3, "warmup_steps": 2, "log_every": 1}
        return override(config, [f"run.{key}={value}" for key, value in run.items()])

    train(features, tmp_path, settings(0.03))
    logged = [line for line in (tmp_path / "log.txt").read_text().splitlines() if " train:" in line]
    losses = [float(line.split(" loss=")[1].split()[0]) for line in logged]
    assert np.mean(losses[-3:]) < losses[0]
    train(features, tmp_path, settings(0.045))
    more = [line for line in (tmp_path / "log.txt").read_text().splitlines() if " train:" in line]
    numbers = [int(line.split("step ")[1].split()[0]) for line in more]
    assert numbers == list(range(1, len(more) + 1))
    assert len(more) > len(logged)
    train(features, tmp_path, settings(0.045))  # as after a kill behind the last step: nothing is left to do

    written = json.loads((tmp_path / "config.json").read_text())
    trained = FlowConfig.model_validate(written)
    assert -8 < trained.mel_mean < -3
    CausalFlow(trained).load_state_dict(load_file(tmp_path / "flow.safetensors"), strict=True)
