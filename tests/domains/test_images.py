"""Digits and fashion: splits, base, metrics and pictures."""

import gzip
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.image.kid import KernelInceptionDistance

from pgdlab.domains.digits import Digits
from pgdlab.domains.fashion import Fashion, read_idx
from pgdlab.domains.image import THIRDS, stratified
from pgdlab.images.metrics import copies, diversity, kid, nearest


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_kid_of_two_and_three_numbers_by_hand():
    # one feature, k(x, y) = (xy + 1)^3. x = {0, 1}: mean over x != x' is k(0, 1) = 1.
    # y = {1, 1, 2}: k(1, 1) = 8, k(1, 2) = 27 twice: (8 + 27 + 27) / 3. Across: k(0, .) = 1, k(1, 1) = 8, k(1, 2) = 27.
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [1.0], [2.0]])
    expected = 1 + (8 + 27 + 27) / 3 - 2 * (3 * 1 + 8 + 8 + 27) / 6
    assert kid(x, y) == pytest.approx(expected, rel=1e-12)
    assert kid(y, x) == pytest.approx(expected, rel=1e-12)


def test_kid_is_torchmetrics_where_both_sets_are_of_one_size():
    x, y = draw(40, 1, 4, 4), 1 + draw(40, 1, 4, 4, seed=1)
    metric = KernelInceptionDistance(feature=torch.nn.Flatten(), subsets=1, subset_size=40, normalize=False)
    metric.update(x, real=True)
    metric.update(y, real=False)
    with torch.random.fork_rng():
        value, _ = metric.compute()
    assert kid(x.flatten(1), y.flatten(1)) == pytest.approx(value.item(), rel=1e-4)  # theirs is fp32


def test_kid_is_unbiased():
    # the mean over many small pairs of sets from one distribution is 0 within 4 standard errors; the biased form is not
    values = torch.tensor([kid(draw(8, 3, seed=2 * i), draw(20, 3, seed=2 * i + 1)) for i in range(400)])
    assert abs(values.mean()) < 4 * values.std() / 20


def test_diversity_nearest_and_copies_by_hand():
    assert diversity(torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]])) == pytest.approx(10 / 3)
    image = torch.stack([torch.zeros(1, 2, 2), torch.full((1, 2, 2), 0.9)])
    training = torch.stack([torch.full((1, 2, 2), 0.5), torch.ones(1, 2, 2)])
    torch.testing.assert_close(nearest(image, training), torch.tensor([0.5, 0.1]))
    torch.testing.assert_close(nearest(image, training, rows=1), torch.tensor([0.5, 0.1]))
    real = torch.arange(101.0)  # its 5% quantile is 5
    assert copies(torch.tensor([4.0, 6.0, 4.9, 50.0]), real) == 0.5


def test_stratified_parts_are_disjoint_cover_everything_and_share_every_class():
    label = torch.tensor([0] * 30 + [1] * 12 + [2] * 7)
    parts = stratified(label, 3, seed=0)
    assert torch.cat(parts).sort().values.tolist() == list(range(49))
    for part in parts:
        counts = label[part].bincount(minlength=3)
        assert counts[0] == 10
        assert counts[1] == 4
        assert counts[2] in (2, 3)
    assert not torch.equal(parts[0], stratified(label, 3, seed=1)[0])


def test_digits_are_split_once_and_for_all():
    domain = Digits()
    train, test = domain.data("train")[0], domain.data("test")[0]
    assert (len(train), len(test)) == (1437, 360)
    thirds = torch.cat([domain.data(part)[0] for part in THIRDS])
    assert sorted(map(bytes, thirds.numpy())) == sorted(map(bytes, train.numpy()))
    assert torch.equal(test, Digits().data("test")[0])
    assert train.min() == -1
    assert train.max() == 1
    with pytest.raises(ValueError, match="train, test, reward"):
        domain.data("valid")


def test_decode_gives_grey_levels():
    sample = torch.tensor([-1.5, -1.0, 0.0, 1.0, 2.0]).reshape(5, 1, 1, 1).expand(5, 1, 8, 8)
    assert Digits().decoder(sample)[:, 0, 3, 3].tolist() == [0.0, 0.0, 0.5, 1.0, 1.0]


def test_a_fresh_network_depends_on_the_generator_alone_and_estimates_x0():
    domain, state = Digits(), torch.random.get_rng_state()
    one, same, other = (domain.fresh(torch.Generator().manual_seed(s)).network.state_dict() for s in (0, 0, 1))
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert not torch.equal(one["conv_in.weight"], other["conv_in.weight"])
    denoiser = domain.fresh(torch.Generator().manual_seed(0)).eval()
    x, cond = draw(2, *domain.space.shape), torch.tensor([3, domain.conditioning.unconditional])
    assert denoiser(x, torch.tensor([10, 900]), cond).shape == x.shape


def saved(folder, domain):
    denoiser = domain.fresh(torch.Generator().manual_seed(0))
    denoiser.network.save_pretrained(folder / "unet")
    denoiser.schedule.scheduler.save_pretrained(folder / "scheduler")
    return denoiser.eval()


def test_a_saved_base_loads_as_it_was(tmp_path):
    made = saved(tmp_path, Digits())
    base = Digits(weights=str(tmp_path)).base()
    x, t, cond = draw(2, 1, 8, 8), torch.tensor([10, 900]), torch.tensor([3, 10])
    assert torch.equal(base(x, t, cond), made(x, t, cond))
    assert not base.training
    with pytest.raises(ValueError, match="is no base of fashion"):
        Fashion(weights=str(tmp_path)).base()


def test_a_missing_truncated_or_incomplete_base_says_how_to_make_one(tmp_path):
    saved(tmp_path, Digits())
    file = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    whole = file.read_bytes()
    config = json.loads((tmp_path / "unet" / "config.json").read_text())
    for break_it in (
        lambda: file.write_bytes(whole[: len(whole) // 2]),
        lambda: file.unlink(),
        lambda: (tmp_path / "unet" / "config.json").write_text(json.dumps(config | {"block_out_channels": [48, 72]})),
        lambda: (tmp_path / "scheduler" / "scheduler_config.json").write_text("{"),
    ):
        break_it()
        with pytest.raises(ValueError, match=r"experiment=pretrain/digits.*domain\.weights"):
            Digits(weights=str(tmp_path)).base()
        file.write_bytes(whole)
        (tmp_path / "unet" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="experiment=pretrain/digits"):
        Digits(weights=str(tmp_path / "nowhere")).base()


def test_the_shipped_digits_are_of_the_class_asked_for_and_look_like_the_data():
    # sampled by diffusers itself, 20 ancestral steps; judged by classifiers that the base has never met
    domain = Digits()
    denoiser, generator = domain.base(), torch.Generator().manual_seed(0)
    scheduler, cond = denoiser.schedule.scheduler, torch.arange(200) % 10
    x = torch.randn(200, 1, 8, 8, generator=generator)
    scheduler.set_timesteps(20)
    with torch.no_grad():
        for t in scheduler.timesteps:
            out = denoiser.network(x, t, class_labels=cond).sample
            x = scheduler.step(out, t, x, eta=1.0, generator=generator).prev_sample
    figures = domain.metrics(x, cond)
    assert figures["class_match"] > 0.9
    assert figures["kid"] < 0.3
    assert figures["copies"] < 0.2


def test_prompts_are_classes_or_none():
    assert Digits(train_conditions=(10,)).train_conditions == (10,)
    for train_conditions in ((11,), (-1,), ()):
        with pytest.raises(ValueError, match="10 means no class"):
            Digits(train_conditions=train_conditions)


def test_metrics_know_real_images_copies_noise_and_one_class_only():
    domain = Digits()
    test, label = domain.data("test")
    real = domain.metrics(test, label)
    assert abs(real["kid"]) < 0.05
    assert abs(real["kid_real"]) < 0.05
    assert real["copies"] == pytest.approx(0.05, abs=0.005)  # by its definition
    assert real["nearest_distance"] == pytest.approx(real["nearest_real"], rel=1e-4)
    assert real["class_match"] > 0.95
    assert domain.metrics(test, (label + 1) % 10)["class_match"] < 0.05
    train, seen = domain.data("train")
    copied = domain.metrics(train[:200], seen[:200])
    assert copied["copies"] == 1.0
    assert copied["nearest_distance"] == pytest.approx(0.0, abs=1e-3)  # cdist's rounding
    noise = domain.metrics(draw(200, 1, 8, 8), torch.full((200,), 10))
    assert noise["kid"] > 0.3
    assert "class_match" not in noise
    # threes for the prompt three are as good as real; for any prompt they are not
    threes = test[label == 3]
    assert domain.metrics(threes, label[label == 3])["kid"] < 0.1
    assert domain.metrics(threes, torch.full((len(threes),), 10))["kid"] > 0.3
    assert domain.metrics(test[:1], label[:1]) == {}


def write_fashion(folder, count: int = 40) -> None:
    for part, rows in (("train", count), ("t10k", 20)):
        image = np.random.default_rng(0).integers(0, 256, (rows, 28, 28), dtype=np.uint8)
        head = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in image.shape)
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(head + image.tobytes()))
        label = (np.arange(rows) % 10).astype(np.uint8)
        head = bytes([0, 0, 8, 1]) + rows.to_bytes(4, "big")
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(head + label.tobytes())


def test_fashion_reads_a_folder_gzipped_or_not(tmp_path):
    write_fashion(tmp_path)
    train, label = Fashion(folder=str(tmp_path)).data("train")
    assert train.shape == (40, 1, 28, 28)
    assert label.tolist() == [i % 10 for i in range(40)]
    first = np.random.default_rng(0).integers(0, 256, (40, 28, 28), dtype=np.uint8)[0]
    np.testing.assert_allclose(train[0, 0], first / 127.5 - 1, atol=1e-6)
    assert len(Fashion(folder=str(tmp_path)).data("test")[1]) == 20


def test_fashion_without_its_files_says_how_to_get_them(tmp_path):
    for folder in (None, str(tmp_path)):
        with pytest.raises(ValueError, match=r"domain\.folder.*dataset-fashion-mnist"):
            Fashion(folder=folder).data("train")
    write_fashion(tmp_path)
    file = tmp_path / "train-images-idx3-ubyte.gz"
    for broken in (file.read_bytes()[:500], gzip.compress(b"no idx file"), b"no gzip"):
        file.write_bytes(broken)
        with pytest.raises(ValueError, match="truncated or not in the IDX format"):
            Fashion(folder=str(tmp_path)).data("train")


def test_read_idx_of_six_bytes(tmp_path):
    (tmp_path / "x").write_bytes(bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6]))
    assert read_idx(tmp_path / "x").tolist() == [[1, 2, 3], [4, 5, 6]]


def test_fashion_measures_without_its_data():
    domain = Fashion()
    figures = domain.metrics(draw(64, 1, 28, 28), torch.arange(64) % 10)
    assert figures["kid"] > 0.3 > abs(figures["kid_real"])
    assert "nearest_distance" not in figures


def test_the_picture_shows_every_sample_of_every_row(tmp_path):
    rows = {"before": -torch.ones(8, 1, 8, 8), "after": torch.zeros(16, 1, 8, 8)}
    Digits().show(rows, tmp_path / "new" / "grid.png")
    pixels = np.asarray(Image.open(tmp_path / "new" / "grid.png").convert("L")) / 255
    left, right = np.array_split(pixels, 2, axis=1)
    # black tiles and no grey ones on the left, grey and no black on the right; 8 tiles against 16
    black, grey = (left < 0.05).mean(), (abs(right - 0.5) < 0.05).mean()
    assert black > 0.1
    assert (abs(left - 0.5) < 0.05).mean() < 0.01
    assert grey / black == pytest.approx(2, rel=0.1)
