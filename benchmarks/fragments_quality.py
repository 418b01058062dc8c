"""What fragments cost in loss, and how much less has to be sent at once: virtual swarms that differ in nothing else.

python benchmarks/fragments_quality.py --run docs/results/quality-small.toml --layers 4 --rounds 25 --seeds 1,2,3
"""

from dataclasses import replace

from paired_losses import Variant, base_run, compare, parser

from p2ptrain.config.schema import OverlapConfig, RunConfig
from p2ptrain.ids import fragment_index
from p2ptrain.model.slicing import SlicePlan
from p2ptrain.node.trainer import turn_steps
from p2ptrain.node.virtual_swarm import dealt_slices
from p2ptrain.swarm.reduce import part_bounds
from p2ptrain.wire.codec import encoded_bytes

FRAGMENTS = (1, 2, 4)


def peak_bytes(run: RunConfig, window_steps: int) -> int:
    """Most bytes of contributions that one peer has cut off in any window of so many inner steps."""
    plan = SlicePlan.of(run.model, run.slicing)
    (owned, *_) = dealt_slices(1, run.slicing.slices).values()
    at_step, done = [], 0
    for _ in range(3):
        for turn in range(run.slicing.fragments):
            done += turn_steps(run, turn)
            mine = [s for s in plan.fragments(owned) if fragment_index(s) == turn]
            parts = [
                stop - start for s in mine for start, stop in part_bounds(plan.numel(s), run.exchange.part_elements)
            ]
            at_step.append((done, sum(encoded_bytes(run.exchange.codec, numel) for numel in parts)))
    return max(sum(size for step, size in at_step if begin <= step < begin + window_steps) for begin, _ in at_step)


def variant(base: RunConfig, delay_steps: int, fragments: int) -> Variant:
    """So many fragments, merged after so many inner steps."""
    run = replace(
        base,
        slicing=replace(base.slicing, fragments=fragments),
        overlap=OverlapConfig(delay_steps=delay_steps),
    )
    quarter_steps = turn_steps(replace(run, slicing=replace(run.slicing, fragments=4)), 0)
    name = {"fragments": fragments, "delay_steps": delay_steps, "peak_bytes": peak_bytes(run, quarter_steps)}
    return Variant(name=name, run=run)


def main() -> None:
    """Compare numbers of fragments, with each delay."""
    options = parser(__doc__, rounds=25)
    options.add_argument("--layers", type=int, default=4)
    options.add_argument("--inner-steps", type=int, default=20)
    options.add_argument("--delays", default="0,5", help="values of overlap.delay_steps")
    arguments = options.parse_args()
    base = base_run(arguments)
    base = replace(
        base,
        model=replace(base.model, layers=arguments.layers),
        inner=replace(base.inner, steps=arguments.inner_steps),
    )
    delays = [int(delay) for delay in arguments.delays.split(",")]
    compare(arguments, [variant(base, delay, fragments) for delay in delays for fragments in FRAGMENTS])


if __name__ == "__main__":
    main()
