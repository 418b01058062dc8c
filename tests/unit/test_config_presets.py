"""Presets: they load, and tiny explains itself line by line."""

import pytest

from p2ptrain.config.load import parse_run
from p2ptrain.config.presets import preset_names, preset_text
from p2ptrain.errors import UsageError
from p2ptrain.model.slicing import SlicePlan


@pytest.mark.parametrize("name", preset_names())
def test_preset_is_a_sound_manifest_whose_model_can_be_cut(name):
    run = parse_run(preset_text(name), name)
    plan = SlicePlan.of(run.model, run.slicing)
    assert len(plan.slice_ids) == 1 + run.slicing.slices


def test_presets_are_listed():
    assert preset_names() == ["nano", "small", "tiny"]


def test_every_value_of_tiny_has_its_reason_beside_it():
    lines = preset_text("tiny").splitlines()
    bare = [line for line in lines if line and not line.startswith(("#", " ")) and "  #" not in line]
    assert bare == ["[outer]"]  # its reasons are the paragraph above it


def test_unknown_preset_is_answered_with_the_nearest_and_all():
    with pytest.raises(UsageError, match=r'"tinny" is not a preset; did you mean tiny\? Or choose from nano, small'):
        preset_text("tinny")
    with pytest.raises(UsageError, match=r'"gpt" is not a preset; choose from nano, small, tiny'):
        preset_text("gpt")
