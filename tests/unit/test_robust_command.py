"""Liars in the real training of a virtual swarm, and ``p2ptrain lab robust``, which measures them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from p2ptrain.cli import main as cli
from p2ptrain.config.load import parse_run
from p2ptrain.config.presets import preset_text
from p2ptrain.config.schema import Averaging
from p2ptrain.data.corpus import Corpus, load_corpus
from p2ptrain.node.lab_robust import attacks
from p2ptrain.node.virtual_swarm import VirtualSwarm, dealt_slices


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return load_corpus(parse_run(preset_text("nano"), "nano"), Path.cwd())


def loss(corpus: Corpus, averaging: Averaging, liars: int) -> float:
    """After six rounds of eight owners of one slice, of whom some send five times the opposite."""
    run = parse_run(preset_text("nano"), "nano")
    slicing, exchange = replace(run.slicing, slices=1), replace(run.exchange, averaging=averaging)
    owned = dealt_slices(8, 1)
    lying = dict.fromkeys(sorted(owned)[8 - liars :], attacks(0)["sign flipped, 5x"])
    swarm = VirtualSwarm(replace(run, slicing=slicing, exchange=exchange), corpus, owned, lies=lying)
    for _ in range(6):
        swarm.train_round()
    return swarm.validation_loss(16)


def test_two_of_eight_sign_flippers_hurt_a_mean_and_hardly_a_robust_mean(corpus: Corpus) -> None:
    harm = {rule: loss(corpus, rule, 2) / loss(corpus, rule, 0) - 1 for rule in ("mean", "trimmed", "clipped")}
    assert harm["mean"] > 0.05
    assert abs(harm["trimmed"]) < harm["mean"] / 4
    assert abs(harm["clipped"]) < harm["mean"] / 4


def test_the_command_has_a_row_for_each_rule_and_attack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "nano.toml").write_text(preset_text("nano"))
    options = ["--run", str(tmp_path / "nano.toml"), "--peers", "3", "--liars", "1", "--rounds", "1", "--json"]
    assert cli.main(["lab", "robust", *options]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert len({(row["averaging"], row["attack"]) for row in rows}) == len(rows) == 3 * (1 + len(attacks(0)))
    assert {row["liars"] for row in rows if row["attack"] == "none"} == {0}
    assert all(row["val_loss"] > 0 for row in rows)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [(["--liars", "4"], "a majority of liars is the truth"), (["--seeds", "a"], "write for example 0,1,2")],
)
def test_what_cannot_work_is_refused(capsys: pytest.CaptureFixture[str], arguments: list[str], problem: str) -> None:
    assert cli.main(["lab", "robust", *arguments]) == 2
    assert problem in capsys.readouterr().err
