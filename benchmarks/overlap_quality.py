"""What overlap costs in loss: virtual swarms that differ only in when and how outer steps are merged.

python benchmarks/overlap_quality.py --run docs/results/quality-small.toml --rounds 25 --seeds 1,2,3
"""

from dataclasses import asdict, replace

from paired_losses import Variant, base_run, compare, parser

from p2ptrain.config.schema import OverlapConfig


def settings(steps: int) -> list[OverlapConfig]:
    """No overlap first: the others are compared with it."""
    shifts = [OverlapConfig(delay_steps=delay) for delay in (0, steps // 4, steps // 2, steps)]
    mixes = [OverlapConfig(delay_steps=steps // 4, merge="mix", mixing=alpha) for alpha in (0.0, 0.5)]
    return [*shifts, *mixes, OverlapConfig(delay_steps=steps // 2, merge="mix", mixing=0.5)]


def main() -> None:
    """Compare the settings."""
    arguments = parser(__doc__, rounds=50).parse_args()
    base = base_run(arguments)
    tried = settings(base.inner.steps)
    compare(arguments, [Variant(name=asdict(overlap), run=replace(base, overlap=overlap)) for overlap in tried])


if __name__ == "__main__":
    main()
