"""What docs/results/quality.md says was measured can be measured again."""

import json
from pathlib import Path

from p2ptrain.config.load import load_run
from p2ptrain.model.slicing import SlicePlan

RESULTS = Path(__file__).parents[2] / "docs" / "results"


def test_the_manifest_of_the_quality_results_is_the_one_that_was_trained() -> None:
    run = load_run(RESULTS / "quality-small.toml")
    SlicePlan.of(run.model, run.slicing)
    recorded = json.loads((RESULTS / "quality.json").read_text())
    trained = recorded["config"]["base"]
    assert {name: getattr(run.model, name) for name in trained["model"]} == trained["model"]
    assert {name: getattr(run.inner, name) for name in trained["inner"]} == trained["inner"]
    assert all(row["tokens"] == 4 * 1000 * run.inner.batch * run.model.context for row in recorded["rows"])
