"""Training the flow: crops, optimiser, and that a few steps lower the loss and can be resumed."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fireside.engine.adaptation import Adapting
from fireside.errors import UsageError
from fireside.models.config import DiTConfig, FlowConfig
from fireside.models.flow import CausalFlow
from fireside.models.matching import FlowDraws, euler_times, time_grid
from fireside.train import adaptation
from fireside.train.data import FeatureStore
from fireside.train.flow import HEARTH, FlowTrainConfig, Teacher, override, train
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
    rng.normal(size=(len(rows), 2, 192)).astype("<f4").tofile(folder / "speaker_halves.f32")
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


def test_a_person_with_one_utterance_is_known_by_the_half_that_is_not_generated(features):
    store = FeatureStore(features)
    update = {"half_share": 1.0, "least_half": 8, "embedding_noise": 0.0, "jump_share": 0.5, "prefix_share": 1.0}
    sampler = CropSampler(store, store.select("train"), CROPS.model_copy(update=update), seed=0)
    halved = [crop for crop in (sampler.crop() for _ in range(400)) if crop.half is not None]
    assert {crop.half for crop in halved} == {0, 1}
    for crop in halved:
        row, start, count = crop.pieces[-1]
        if len(crop.pieces) == 1:
            start, count = start + crop.prefix, count - crop.prefix
        inside = [min(start + count, end) - max(start, begin) for begin, end in ((0, row["tokens"] / 2),
                  (row["tokens"] / 2, row["tokens"]))]  # fmt: skip
        assert inside[crop.half] <= inside[1 - crop.half]
        assert len(sampler.siblings[row["spk"]]) <= 2, "who has more utterances has other embeddings"
    crop = halved[0]
    expected = torch.from_numpy(store.halves(crop.embedding_of)[crop.half])
    assert torch.equal(sampler.collate([crop]).embedding[0], expected)


def test_who_is_in_disguise_has_a_prompt_in_the_same_disguise_and_no_embedding(features):
    store = FeatureStore(features)
    config = CROPS.model_copy(update={"disguise_share": 0.5, "blind_prompt": 8, "narrow_share": 0.0})
    sampler = CropSampler(store, store.select("train"), config, seed=0)
    crops = [sampler.crop() for _ in range(300)]
    hidden = [crop for crop in crops if crop.disguise is not None]
    assert 0.3 < len(hidden) / len([crop for crop in crops if crop.prefix >= 8]) < 0.7
    crop = next(crop for crop in hidden if len(crop.pieces) == 1 and crop.pieces[0][0]["max_hz"] == 8000)
    batch = sampler.collate([crop])
    (row, start, count), bins = crop.pieces[0], bins_below(8000 * min(1.0, crop.disguise.factor), N_MELS)
    expected = crop.disguise(store.mel(row)[2 * start : 2 * (start + count)]).T
    np.testing.assert_allclose(batch.mel[0, :bins], expected[:bins], atol=1e-5)
    np.testing.assert_allclose(batch.prompt_mel[0], expected, atol=1e-5)
    assert not batch.embedding.any()
    assert not batch.loss_mask[0, bins:].any()


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


SMALL = FlowConfig(
    speech_vocab_size=CODES,
    lookahead_channels=32,
    chunk_tokens=5,
    dit=DiTConfig(dim=32, depth=1, heads=2, dim_head=16, ff_mult=2, conv_pos_kernel=5, conv_pos_groups=4),
    full_mask_offline=False,
    cfg_rate=1.3,
)


def logged_losses(run):
    lines = [line for line in (run / "log.txt").read_text().splitlines() if " train:" in line]
    return [float(line.split(" loss=")[1].split()[0]) for line in lines]


def test_what_guidance_adds_is_learnt_from_a_teacher(features, tmp_path):
    """The student begins as the teacher without guidance, comes nearer to it with guidance, and needs none."""
    torch.manual_seed(0)
    teacher = CausalFlow(SMALL)
    for parameter in teacher.parameters():  # what the blocks begin with gates them off: nothing would be conditional
        torch.nn.init.normal_(parameter, std=0.1)
    save_file(teacher.state_dict(), tmp_path / "teacher.safetensors")
    settings = ["run.minutes=0.06", "run.clock=cpu", "run.peak_rate=2e-3", "run.warmup_steps=2", "run.log_every=1"]
    config = override(FlowTrainConfig(flow=SMALL, crops=CROPS, validate_rows=4), settings)
    train(features, tmp_path / "student", config, teacher=tmp_path / "teacher.safetensors")
    losses = logged_losses(tmp_path / "student")
    assert 0 < np.mean(losses[-5:]) < 0.7 * np.mean(losses[:2])
    written = FlowConfig.model_validate_json((tmp_path / "student" / "config.json").read_text())
    assert written.cfg_rate == 0.0
    assert written.model_copy(update={"cfg_rate": 1.3, "train_cfg_drop": 0.2, **{
        name: getattr(SMALL, name) for name in ("mel_mean", "mel_std")}}) == SMALL  # fmt: skip


def test_the_biases_that_fit_everybody_are_found(features, tmp_path):
    dit = DiTConfig(dim=32, depth=2, heads=2, dim_head=16, conv_pos_kernel=5, conv_pos_groups=4)
    config = FlowConfig(speech_vocab_size=CODES, lookahead_channels=32, chunk_tokens=5, dit=dit, mel_mean=-5.0)
    torch.manual_seed(1)
    flow = CausalFlow(config).requires_grad_(False)
    for block in flow.estimator.blocks:
        torch.nn.init.normal_(block.attn_norm.linear.weight, std=0.1)
    torch.nn.init.normal_(flow.estimator.proj_out.weight, std=0.3)
    (tmp_path / "flow").mkdir()
    (tmp_path / "flow" / "config.json").write_text(config.model_dump_json())
    save_file(flow.state_dict(), tmp_path / "flow" / "flow.safetensors")
    (tmp_path / "features").symlink_to(features)
    adaptation.main(["--runs", str(tmp_path), "--steps", "30"])
    found = load_file(tmp_path / "adaptation" / "adaptation.safetensors")["adaptation"]
    assert found.shape == (dit.modulations, dit.dim)
    store = FeatureStore(features)
    batch = next(CropSampler(store, store.select("val"), adaptation.CROPS, seed=5).batches())
    draws = FlowDraws.sample(batch, 0.0, 1.0, torch.Generator().manual_seed(5))
    before, after = (
        float(Adapting(flow, start).loss(batch, draws).detach()) for start in (torch.zeros_like(found), found)
    )
    assert after < 0.98 * before


def test_a_teacher_is_asked_mostly_where_the_solver_evaluates(tmp_path):
    save_file(CausalFlow(SMALL).state_dict(), tmp_path / "teacher.safetensors")
    teacher = Teacher(tmp_path / "teacher.safetensors", FlowTrainConfig(solver_share=0.75), SMALL)
    drawn = FlowDraws(torch.rand(400), torch.zeros(400, 1, 1), torch.zeros(400, dtype=torch.bool), True)
    draws = teacher.draw(drawn, torch.Generator().manual_seed(0))
    times, _ = euler_times(time_grid(SMALL.steps))
    there = (draws.t[:, None] == times).any(1)
    assert 0.65 < there.float().mean() < 0.85
    assert torch.equal(draws.t[~there], drawn.t[~there])
    assert draws.keep.all()


def test_training_learns_resumes_and_exports(features, tmp_path):
    config = FlowTrainConfig(flow=SMALL, crops=CROPS, validate_rows=4)

    def settings(minutes):
        run = {"minutes": minutes, "clock": "cpu", "peak_rate": 5e-3, "warmup_steps": 2, "log_every": 1}
        return override(config, [f"run.{key}={value}" for key, value in run.items()])

    train(features, tmp_path, settings(0.03))
    losses = logged = logged_losses(tmp_path)
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
