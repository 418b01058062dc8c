"""``p2ptrain run new`` and ``run show``."""

import hashlib
import re
from dataclasses import replace
from pathlib import Path

import pytest

from p2ptrain.cli import main as cli
from p2ptrain.cli.manifest_commands import ManifestChanges, write_manifest
from p2ptrain.config.load import load_run, run_id
from p2ptrain.config.presets import preset_text
from p2ptrain.data import corpus
from p2ptrain.errors import DataError, UsageError
from tests.support.texts import no_text

FINGERPRINT = "f" * 64


@pytest.fixture(autouse=True)
def text(monkeypatch: pytest.MonkeyPatch):
    """A text without reading the standard library, which takes seconds."""

    def load_corpus(run, base):
        data = run.data
        if data.source == "folder" and not (base / data.path).is_dir():
            raise DataError("no text")
        return no_text(FINGERPRINT)

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
        (["tinny"], r'"tinny" is not a preset; did you mean tiny\? Or choose from nano, small, tiny'),
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
    # As docs/protocol.md reckons them for four peers, which two slices with two owners each ask for.
    assert "sends    1.3 MB a round and peer, and fetches as much, if 4 take part: 0.5 s at 20 Mbit/s\n" in said
    assert "memory   0.1 GiB of a GPU's" in said


def test_show_reckons_with_more_peers_and_refuses_fewer_than_slices(tmp_path: Path, capsys):
    out = tmp_path / "tiny.toml"
    write_manifest("tiny", out, ManifestChanges(seed=1))
    assert cli.main(["run", "show", str(out), "--peers", "16"]) == 0
    assert "2.0 MB a round and peer, and fetches as much, if 16 take part" in capsys.readouterr().out
    out.write_text(out.read_text().replace("fragments = 1 ", "fragments = 2 "))
    assert cli.main(["run", "show", str(out), "--peers", "16"]) == 0
    assert "2.0 MB a round and peer" in capsys.readouterr().out, "fragments change when, not how much"
    assert cli.main(["run", "show", str(out), "--peers", "1"]) == 2
    said = capsys.readouterr()
    assert "--peers 1 are fewer than the 2 slices, and each needs an owner" in said.err
    assert said.out == ""


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
    assert "moved" not in said
    changed = changed.replace("[slicing]\n", "[slicing]\namplification = 1.5\nlast_amplification = 2.0\n")
    out.write_text(changed.replace("[outer]\n", "[outer]\ncooldown = 0.2\ncommon_lr_ratio = 1.5\n"))
    assert cli.main(["run", "show", str(out)]) == 0
    said = capsys.readouterr().out
    assert "lr 0.5, falling over the last 20 %, 1.5 times that for the common part, momentum 0.7, Nesterov\n" in said
    assert "moved 1.5 to 2 times as far as contributed\n" in said


@pytest.fixture
def books(tmp_path: Path) -> Path:
    folder = tmp_path / "books"
    folder.mkdir()
    for index in range(40):
        (folder / f"{index}.txt").write_text(f"the quick brown fox {index} jumps over the lazy dog\n" * 5)
    (folder / "notes.md").write_text("not a book\n" * 100)
    return folder


def make_tokenizer(folder: Path, books: Path, capsys, *options: str) -> Path:
    out = folder / "tokenizer.json"
    command = ["run", "tokenizer", "--text", str(books), "--vocabulary", "300", "--out", str(out), *options]
    assert cli.main(command) == 0, capsys.readouterr().err
    return out


def test_a_run_is_made_with_a_text_and_a_tokenizer_of_ones_own(tmp_path: Path, books: Path, capsys, monkeypatch):
    made = make_tokenizer(tmp_path, books, capsys)
    said = capsys.readouterr().out
    assert re.search(
        rf"wrote {made}: 300 tokens, \d\.\d\d bytes each in what is held out of {books} \(\*\*/\*\.txt\)", said
    )
    assert f"next: p2ptrain run new tiny --tokenizer {made} --text {books} --out run.toml" in said

    (tmp_path / "runs").mkdir()
    out = tmp_path / "runs" / "run.toml"
    monkeypatch.chdir(tmp_path)
    assert cli.main(["run", "new", "nano", "--tokenizer", "tokenizer.json", "--text", "books", "--out", str(out)]) == 0
    run = load_run(out)
    assert (run.data.source, run.data.path, run.data.pattern) == ("folder", "../books", "**/*.txt")
    assert (run.data.tokenizer, run.data.end_token) == ("../tokenizer.json", "<|endoftext|>")
    assert run.data.tokenizer_hash == hashlib.sha256(made.read_bytes()).hexdigest()
    assert run.model.vocabulary == 320
    assert capsys.readouterr().out


def test_the_end_token_can_be_chosen_or_left_out(tmp_path: Path, books: Path, capsys):
    made = make_tokenizer(tmp_path, books, capsys)
    out = tmp_path / "run.toml"
    arguments = ["run", "new", "nano", "--tokenizer", str(made), "--out", str(out)]
    assert cli.main([*arguments, "--end-token", "</s>"]) == 2
    assert "no token '</s>'; it has <|endoftext|>" in capsys.readouterr().err
    assert not out.exists()
    assert cli.main([*arguments, "--end-token", ""]) == 0
    assert load_run(out).data.end_token == ""


def test_held_out_text_shapes_no_tokens(tmp_path: Path, books: Path, capsys):
    before = make_tokenizer(tmp_path, books, capsys).read_bytes()
    for file in books.glob("*.txt"):
        *lines, last = file.read_text().splitlines(keepends=True)
        file.write_text("".join([*lines, "z" * (len(last) - 1) + "\n"]))
    (tmp_path / "tokenizer.json").unlink()
    assert make_tokenizer(tmp_path, books, capsys).read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["new", "nano", "--pattern", "*.txt"], r"--pattern \*\.txt chooses among files of a folder; add --text"),
        (["new", "nano", "--end-token", "</s>"], r"--end-token </s> is a token of a tokenizer; add --tokenizer FILE"),
        (["new", "nano", "--tokenizer", "none.json"], r"none\.json cannot be read: No such file"),
        (["new", "nano", "--tokenizer", "run.toml"], r"run\.toml cannot be read"),
        (["tokenizer", "--vocabulary", "300", "--pattern", "*.txt"], r"--pattern \*\.txt chooses among files"),
        (["tokenizer", "--vocabulary", "300", "--text", "none"], r"none is not a folder"),
        (["tokenizer", "--vocabulary", "300", "--text", ".", "--pattern", "/a"], r"'/a' is out of range; choose a pat"),
        (["tokenizer", "--vocabulary", "300", "--text", ".", "--pattern", ""], r"'' is out of range; choose a pattern"),
        (["tokenizer", "--vocabulary", "300", "--text", ".", "--pattern", "**a"], r'"\*\*a": .*choose one like'),
        (["tokenizer", "--vocabulary", "300", "--text", "."], r"no files to learn from"),
        (["tokenizer", "--vocabulary", "100"], r"257"),
    ],
)
def test_wrong_texts_and_tokenizers_are_refused_before_anything_is_written(
    tmp_path: Path, capsys, monkeypatch, arguments, problem
):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["run", *arguments, "--out", "out"]) == 2
    assert re.search(problem, capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


def test_empty_texts_make_no_tokenizer(tmp_path: Path, capsys):
    (tmp_path / "empty.txt").touch()
    out = tmp_path / "tokenizer.json"
    assert cli.main(["run", "tokenizer", "--vocabulary", "300", "--text", str(tmp_path), "--out", str(out)]) == 2
    assert "its files are empty" in capsys.readouterr().err
    assert not out.exists()


def test_a_text_shorter_than_a_window_is_refused_before_peers_start(tmp_path: Path, capsys, monkeypatch):
    short = replace(no_text(), validation=no_text().validation[:32])
    monkeypatch.setattr(corpus, "load_corpus", lambda run, base: short)
    assert cli.main(["run", "new", "nano", "--out", str(tmp_path / "run.toml")]) == 2
    assert "the validation text has 32 tokens and one window needs 33" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_text_that_tokens_cannot_hold_is_told(tmp_path: Path, books: Path, capsys):
    (books / "latin\udce9.txt").write_bytes("déjà vu\n".encode("latin-1") * 200)
    made = make_tokenizer(tmp_path, books, capsys)
    assert "note: 1 of 41 files are not UTF-8, 'latin\\udce9.txt' for one" in capsys.readouterr().out
    arguments = ["run", "new", "nano", "--text", str(books), "--tokenizer", str(made)]
    assert cli.main([*arguments, "--out", str(tmp_path / "run.toml")]) == 0
    said = capsys.readouterr().out
    assert "1 of 41 files are not UTF-8" in said
    assert "does not come back" not in said

    from tokenizers import Tokenizer, models

    letters = Tokenizer(models.BPE({"a": 0, "b": 1}, []))
    letters.save(str(made))
    assert cli.main([*arguments, "--out", str(tmp_path / "letters.toml")]) == 0
    assert "with this tokenizer the text does not come back as it was" in capsys.readouterr().out


def test_show_says_what_is_learned_from_and_in_which_tokens(tmp_path: Path, books: Path, capsys):
    made = make_tokenizer(tmp_path, books, capsys)
    out = tmp_path / "run.toml"
    assert cli.main(["run", "new", "nano", "--text", str(books), "--tokenizer", str(made), "--out", str(out)]) == 0
    assert cli.main(["run", "show", str(out)]) == 0
    said = capsys.readouterr().out
    assert "text     books (**/*.txt), 5 % held out" in said
    assert "tokens   320, by tokenizer.json" in said
