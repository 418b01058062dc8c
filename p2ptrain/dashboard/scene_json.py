"""What the dashboard shows, for programs: numbers in SI units, unknown is null."""

from typing import Any

from p2ptrain.dashboard.cards import stage_seconds
from p2ptrain.dashboard.scene import Scene, peer_rows, slice_rows


def scene_to_json(scene: Scene) -> dict[str, Any]:
    """All of the overview as JSON values."""
    seat, peer, rates, window = scene.seat, scene.seat.peer, scene.seat.rates(), scene.seat.last_round()
    validation = seat.swarm.validation_curve()
    return {
        "time_s": scene.now_s,
        "link": scene.link.word,
        "run": scene.facts.run or seat.swarm.run,
        "name": scene.facts.name or None,
        "rounds": scene.facts.rounds,
        "peer": peer.peer if peer is not None else None,
        "state": peer.state if peer is not None else None,
        "reason": peer.reason if peer is not None else None,
        "next_commit_in_s": seat.next_commit_in_s(scene.now_s),
        "slices": [
            {
                "id": row.slice,
                "version": row.version,
                "owners": len(row.owners),
                "owners_online": row.num_online,
                "is_mine": row.is_mine,
                "is_below_quorum": row.is_below_quorum,
                "age_s": row.age_s,
                "digest": row.digest,
            }
            for row in slice_rows(scene)
        ],
        "loss": {
            "training_nats": seat.train_curve[-1][1] if seat.train_curve else None,
            "validation_nats": validation[-1][1] if validation else None,
            "swarm_validation_nats": seat.report.mean_validation_loss_nats if seat.report is not None else None,
            "tokens_per_s": peer.tokens_per_s if peer is not None else None,
        },
        "network": {
            "sent_bytes": peer.sent_bytes if peer is not None else None,
            "received_bytes": peer.received_bytes if peer is not None else None,
            "sent_bytes_per_s": rates.sent_bytes_per_s if rates is not None else None,
            "received_bytes_per_s": rates.received_bytes_per_s if rates is not None else None,
            "reach": scene.seen.reach,
            "last_round_s": stage_seconds(seat.spans_between(*window), window) if window is not None else None,
        },
        "contribution": {
            "tokens": peer.tokens if peer is not None else None,
            "rounds": seat.rounds_contributed,
            "share": seat.share(),
            "hours": seat.running_s(scene.now_s) / 3600 if peer is not None else None,
        },
        "peers": [
            {
                "peer": row.peer,
                "slices": list(row.slices),
                "state": row.state or None,
                "reason": row.reason,
                "is_silent": row.is_silent,
                "tokens": row.tokens,
                "sent_bytes": row.sent_bytes,
                "validation_nats": row.loss_nats,
            }
            for row in peer_rows(scene)
        ],
    }
