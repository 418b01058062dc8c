"""``p2ptrain lab quality``: options, table, JSON and picture."""

import json
import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from p2ptrain.cli import main as cli
from p2ptrain.cli.lab_plot import curves_svg
from p2ptrain.node.virtual_swarm import VirtualSwarm

KEYS = {
    "slices",
    "sliced_parts",
    "peers",
    "inner_steps",
    "outer_lr",
    "outer_momentum",
    "seed",
    "tokens",
    "tflop",
    "val_loss",
    "vs_baseline_percent",
}
MANIFEST = """
format = 1
name = "lab"
seed = 1
rounds = 9
[model]
layers = 1
width = 16
heads = 2
kv_heads = 2
mlp_hidden = 16
context = 16
[slicing]
slices = 1
[data]
source = "folder"
path = "text"
pattern = "*.txt"
validation_percent = 50
[inner]
steps = 1
batch = 2
lr = 3e-3
[outer]
lr = 0.5
momentum = 0.7
"""


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    (tmp_path / "text").mkdir()
    for index in range(6):
        (tmp_path / "text" / f"{index}.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 20)
    (tmp_path / "lab.toml").write_text(MANIFEST)
    return tmp_path / "lab.toml"


def lab(manifest: Path, *options: str) -> int:
    sizes = ["--peers", "2", "--slices", "1,2", "--rounds", "3", "--inner-steps", "2", "--seeds", "0,1"]
    return cli.main(["lab", "quality", "--run", str(manifest), *sizes, *options])


def test_json_has_a_row_for_each_run_and_two_commands_print_the_same(manifest: Path, capsys) -> None:
    assert lab(manifest, "--json", "--sliced-parts", "mlp", "--sliced-parts", "mlp,heads") == 0
    first = capsys.readouterr().out
    assert lab(manifest, "--json", "--sliced-parts", "mlp", "--sliced-parts", "mlp,heads") == 0
    assert capsys.readouterr().out == first
    report = json.loads(first)
    rows = report["rows"]
    assert [(row["slices"], row["sliced_parts"], row["seed"]) for row in rows] == [
        (1, [], 0),
        (1, [], 1),
        (2, ["mlp"], 0),
        (2, ["mlp"], 1),
        (2, ["mlp", "heads"], 0),
        (2, ["mlp", "heads"], 1),
    ]
    assert all(set(row) >= KEYS for row in rows)
    assert [row["vs_baseline_percent"] for row in rows[:2]] == [0.0, 0.0]
    assert set(report["config"]) >= {"base", "study", "torch", "p2ptrain", "text"}


def test_folder_keeps_what_was_trained_and_the_table_and_picture_show_it(manifest: Path, capsys) -> None:
    out, picture = manifest.parent / "out", manifest.parent / "curves.svg"
    one = ("--outer-lr", "0.5", "--outer-momentum", "0.7")
    assert lab(manifest, "--out", str(out), "--plot", str(picture), *one) == 0
    said = capsys.readouterr()
    assert "% at equal tokens" in said.out
    assert "n2-mlp-h2-lr0.5-m0.7-s1: 3 of 3 rounds" in said.err
    assert len(list(out.glob("*.json"))) == 4
    root = ElementTree.parse(picture).getroot()
    assert len([e for e in root.iter() if e.get("stroke-width") == "1.5"]) == 4
    assert lab(manifest, "--out", str(out), *one) == 0
    again = capsys.readouterr()
    assert (again.out, again.err) == (said.out, "")


def test_every_number_of_slices_is_tuned_over_the_same_values_unless_that_is_not_wanted(manifest: Path, capsys) -> None:
    assert lab(manifest, "--json", "--outer-lr", "0.3,0.6") == 0
    report = json.loads(capsys.readouterr().out)
    assert len(report["tuning"]) == 4
    assert {row["rounds"] for row in report["tuning"]} == {1}
    assert len(report["rows"]) == 4
    assert lab(manifest, "--json", "--outer-lr", "0.3,0.6", "--no-tune") == 0
    report = json.loads(capsys.readouterr().out)
    assert (len(report["tuning"]), len(report["rows"])) == (0, 8)


def test_a_heavy_ball_is_another_run_than_nesterovs_momentum_and_goes_on_by_itself(manifest: Path, capsys) -> None:
    one = ("--json", "--outer-lr", "0.5", "--outer-momentum", "0.7", "--out", str(manifest.parent / "out"))
    losses = []
    for option in ("--nesterov", "--no-nesterov"):
        assert lab(manifest, *one, option) == 0
        report = json.loads(capsys.readouterr().out)
        assert report["config"]["base"]["outer"]["nesterov"] == (option == "--nesterov")
        losses.append([row["val_loss"] for row in report["rows"]])
    assert not set(losses[0]) & set(losses[1])


def test_a_cooldown_and_a_learning_rate_of_the_common_part_are_what_the_manifest_says(manifest: Path, capsys) -> None:
    def losses(*options: str) -> list[float]:
        command = ["lab", "quality", "--run", str(manifest), "--slices", "2", "--rounds", "4", "--no-tune", "--json"]
        assert cli.main([*command, "--outer-lr", "0.5", "--outer-momentum", "0.5", *options]) == 0
        return [row["val_loss"] for row in json.loads(capsys.readouterr().out)["rows"]]

    plain = losses()
    given = losses("--cooldown", "0.5", "--common-lr-ratio", "2")
    manifest.write_text(manifest.read_text().replace("[outer]\n", "[outer]\ncooldown = 0.5\ncommon_lr_ratio = 2.0\n"))
    assert losses() == given != plain
    assert losses("--cooldown", "0", "--common-lr-ratio", "1") == plain
    manifest.write_text(manifest.read_text().replace("[outer]\n", "[outer]\nlast_lr = 1.0\n"))
    rising = losses()
    assert rising == losses("--last-outer-lr-ratio", "2") != given


def test_where_every_run_has_diverged_there_is_no_picture_and_the_table_says_why(
    manifest: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverges(self: VirtualSwarm, num_windows: int) -> float:
        return math.nan

    monkeypatch.setattr(VirtualSwarm, "validation_loss", diverges)
    picture = manifest.parent / "curves.svg"
    assert lab(manifest, "--outer-lr", "0.5", "--plot", str(picture)) == 0
    said = capsys.readouterr()
    assert "every run has diverged, so there is nothing to draw" in said.err
    assert "2 diverged" in said.out
    assert not picture.exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--outer-lr", "much"], "--outer-lr much is not a list of sensible numbers"),
        (["--outer-lr", "0.5,101"], "each is a number above 0, at most 100"),
        (["--outer-momentum", "1"], "--outer-momentum 1 is not"),
        (["--slices", "0"], "--slices 0 is not"),
        (["--slices", "3"], "choose --peers 3 or more"),
        (["--slices", "1", "--seeds", "-1"], "--seeds -1 is not"),
        (["--last-outer-lr-ratio", "-1"], "--last-outer-lr-ratio -1.0 is not a number above 0"),
        (["--sliced-parts", "tail"], "choose mlp, heads or mlp,heads"),
        (["--plot", "/nowhere/at/all.svg"], "/nowhere/at is not a folder"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(manifest: Path, capsys, options: list[str], said: str) -> None:
    assert lab(manifest, *options) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_picture_of_one_flat_curve_is_sound() -> None:
    svg = curves_svg("a < b & c", "tokens", {"N=1": [[(1.0, 2.0)]]})
    assert "a &lt; b &amp; c" in svg
    ElementTree.fromstring(svg)
