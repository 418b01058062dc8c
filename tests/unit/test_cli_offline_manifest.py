"""``p2ptrain run new`` and ``run show``."""

import re
from pathlib import Path

import pytest

from p2ptrain.cli import main as cli
from p2ptrain.cli.manifest_commands import ManifestChanges, write_manifest
from p2ptrain.config.load import load_run, run_id
from p2ptrain.config.presets import preset_text
from p2ptrain.data import corpus
from p2ptrain.errors import DataError, UsageError

FINGERPRINT = "f" * 64


@pytest.fixture(autouse=True)
def text(monkeypatch: pytest.MonkeyPatch):
    """A text without reading the standard library, which takes seconds."""

    def load_corpus(data, base):
        if data.source == "folder" and not (base / data.path).is_dir():
            raise DataError("no text")
        return corpus.Corpus(train=None, validation=None, fingerprint=FINGERPRINT)

    monkeypatch.setattr(corpus, "load_corpus", load_corpus)


def test_new_run_is_the_preset_with_its_comments_and_the_text_s_fingerprint(tmp_path: Path, capsys):
    out = tmp_path / "tiny.toml"
    assert cli.main(["run", "new", "tiny", "--out", str(out), "--seed", "1"]) == 0
    expected = preset_text("tiny").replace('fingerprint = ""', f'fingerprint = "{FINGERPRINT}"')
    assert out.read_text() == expected
    said = capsys.readouterr().out
    assert run_id(load_run(out)) in said
    assert f"p2ptrain peer --run {out}" in said


def test_options_are_in_the_manifest_and_its_comments_stay(tmp_path: Path, capsys):
    out = tmp_path / "mine.toml"
    options = ["--name", "mine", "--seed", "5", "--slices", "4", "--parts", "mlp,heads", "--rounds", "9"]
    assert cli.main(["run", "new", "tiny", "--out", str(out), *options]) == 0
    run = load_run(out)
    assert (run.name, run.seed, run.rounds) == ("mine", 5, 9)
    assert (run.slicing.slices, run.slicing.parts) == (4, ("mlp", "heads"))
    assert out.read_text().count("#") == preset_text("tiny").count("#")
    note = "outer.lr = 0.4 and outer.last_lr = 0.8 were chosen for 2 slices, and this run has 4"
    assert note in capsys.readouterr().out


def test_seed_is_drawn_unless_given(tmp_path: Path):
    runs = [write_manifest("nano", tmp_path / f"{i}.toml", ManifestChanges()) for i in range(4)]
    assert len({run.seed for run in runs}) == 4
    assert len({run_id(run) for run in runs}) == 4


def test_existing_file_is_never_overwritten(tmp_path: Path, capsys):
    out = tmp_path / "tiny.toml"
    out.write_text("precious")
    assert cli.main(["run", "new", "tiny", "--out", str(out)]) == 2
    assert "exists and is not overwritten; choose another --out" in capsys.readouterr().err
    assert out.read_text() == "precious"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["tinny"], r'"tinny" is not a preset; did you mean tiny\? Or choose from nano, tiny'),
        (["tiny", "--slices", "3"], r"slicing\.slices = 3 cannot cut model\.mlp_hidden = 512"),
        (["tiny", "--slices", "0"], r"slicing\.slices = 0 is out of range"),
        (["tiny", "--parts", "mlp,norms"], r'slicing\.parts\[1\] = "norms" is not known'),
        (["tiny", "--rounds", "1"], r"inner\.warmup_steps = 30 is not less than the run's 20 inner steps"),
        (["tiny", "--name", "my run"], r'name = "my run" is not usable'),
        (["tiny", "--seed", "-1"], r"seed = -1 is out of range"),
    ],
)
def test_run_that_cannot_work_is_refused_and_nothing_written(tmp_path: Path, capsys, arguments, problem):
    assert cli.main(["run", "new", *arguments, "--out", str(tmp_path / "new.toml")]) == 2
    assert re.search(problem, capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


def test_missing_text_and_missing_folder_leave_nothing_behind(tmp_path: Path, monkeypatch):
    def no_text(*_, **__):
        raise DataError("no text")

    with pytest.raises(UsageError, match="none is not a folder; make it first"):
        write_manifest("nano", tmp_path / "none" / "nano.toml", ManifestChanges())
    monkeypatch.setattr(corpus, "load_corpus", no_text)
    with pytest.raises(DataError):
        write_manifest("nano", tmp_path / "nano.toml", ManifestChanges())
    assert list(tmp_path.iterdir()) == []


def test_show_adds_up_to_the_whole_model(tmp_path: Path, capsys):
    out = tmp_path / "tiny.toml"
    write_manifest("tiny", out, ManifestChanges(seed=1))
    assert cli.main(["run", "show", str(out)]) == 0
    said = capsys.readouterr().out
    assert run_id(load_run(out)) in said
    assert "24, each 20480 tokens a peer in 20 inner steps" in said
    sizes = [int(number.replace(",", "")) for number in re.findall(r"([\d,]+) parameters", said)]
    assert sizes == [1_016_960, 230_528, 393_216, 393_216]
    assert sizes[0] == sum(sizes[1:])
    assert "lr 0.4 to 0.8, momentum 0.7, Nesterov\n" in said


def test_show_says_whether_averages_are_believed_and_what_momentum_is(tmp_path: Path, capsys):
    out = tmp_path / "nano.toml"
    write_manifest("nano", out, ManifestChanges())
    assert cli.main(["run", "show", str(out)]) == 0
    assert "check_averages" not in capsys.readouterr().out
    changed = out.read_text().replace("[exchange]\n", "[exchange]\ncheck_averages = false\n")
    out.write_text(changed.replace("[outer]\n", "[outer]\nnesterov = false\n"))
    assert cli.main(["run", "show", str(out)]) == 0
    said = capsys.readouterr().out
    assert "exchange.check_averages = false" in said
    assert "lr 0.5, momentum 0.7, a heavy ball\n" in said
