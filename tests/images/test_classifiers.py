"""Classifier fits: splits, files, and what a broken file says."""

import json

import pytest
import torch

from pgdlab.domains.digits import Digits
from pgdlab.images.classifiers import (
    ARCHITECTURES,
    ASSETS,
    ClassifierFit,
    PlainCNN,
    fit_classifiers,
    load_classifier,
    predict,
)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_the_shipped_classifier_has_the_test_accuracy_that_its_card_states(kind):
    domain = Digits()
    sample, label = domain.data("test")
    card = json.loads((ASSETS / "digits" / "classifiers.json").read_text())
    network = load_classifier("digits", kind)
    accuracy = (predict(network, domain.decoder(sample)).argmax(1) == label).double().mean().item()
    assert accuracy == pytest.approx(card[kind]["test_accuracy"], abs=0.003)  # one image of 360 may flip with the BLAS
    assert accuracy > 0.95
    assert not any(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize("domain", ["digits", "fashion"])
def test_the_three_differ_in_architecture_seed_and_split(domain):
    cards = json.loads((ASSETS / domain / "classifiers.json").read_text()).values()
    for key in ("architecture", "seed", "split"):
        assert len({card[key] for card in cards}) == 3
    assert all(card["test_accuracy"] > 0.85 for card in cards)


def test_fit_classifiers_learns_writes_files_that_load_and_touches_no_global_seed(tmp_path):
    state = torch.random.get_rng_state()
    accuracies = fit_classifiers(Digits(classifiers=str(tmp_path)), steps=60, batch=64, seed=5)
    assert torch.equal(state, torch.random.get_rng_state())
    assert min(accuracies.values()) > 0.5  # chance is 0.1
    cards = json.loads((tmp_path / "classifiers.json").read_text())
    assert [cards[k]["seed"] for k in ARCHITECTURES] == [5, 6, 7]
    load_classifier(str(tmp_path), "heldout")
    whole = (tmp_path / "heldout.safetensors").read_bytes()
    for broken in (whole[:1000], (tmp_path / "reward.safetensors").read_bytes(), None):
        (tmp_path / "heldout.safetensors").unlink()
        if broken:
            (tmp_path / "heldout.safetensors").write_bytes(broken)
        with pytest.raises(ValueError, match="Fit it again with task=classifiers"):
            load_classifier(str(tmp_path), "heldout")


def test_augmentation_moves_by_at_most_shift_and_keeps_the_grey_scale():
    dot = torch.zeros(64, 1, 9, 9)
    dot[:, :, 4, 4] = 1.0
    still = ClassifierFit(PlainCNN(9), 1, seed=0, shift=0, noise=0.0)
    assert torch.equal(still.augment(dot), dot)
    moving, places = ClassifierFit(PlainCNN(9), 1, seed=0, shift=1, noise=0.0), set()
    for _ in range(60):
        moved = moving.augment(dot)
        assert moved.sum() == dot.sum()
        places.add(moved[0, 0].argmax().item())
    assert places == {9 * i + j for i in (3, 4, 5) for j in (3, 4, 5)}
    noisy = ClassifierFit(PlainCNN(9), 1, seed=0, shift=0, noise=0.5).augment(dot)
    assert noisy.min() >= 0
    assert noisy.max() <= 1
    # noise of uniformly drawn strength up to .5, cut off below 0: spreads differ from image to image
    spread = noisy.flatten(1).std(1)
    assert spread.max() > 2 * spread.min()
