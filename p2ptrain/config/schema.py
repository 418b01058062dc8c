"""What can be configured: ``RunConfig``, which all peers share, and ``PeerConfig``, which one volunteer chooses.

Each default is written here, once. A field without a default must be in the manifest.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from p2ptrain.ids import SliceId

SlicedParts = Literal["mlp", "heads"]
Codec = Literal["int8", "int4", "float32"]
DataSource = Literal["python-stdlib", "folder"]
Averaging = Literal["mean", "trimmed", "clipped"]
Admission = Literal["open", "invite", "allowlist"]
Precision = Literal["float32", "bfloat16"]
Recompute = Literal["nothing", "mlp", "blocks"]
Merge = Literal["shift", "mix"]
ReachWish = Literal["auto", "direct", "relayed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """A Llama-style decoder: RMSNorm, rotary positions, grouped-query attention, SwiGLU, tied embedding."""

    layers: int
    width: int
    """Size of the residual stream, d in the papers."""
    heads: int
    kv_heads: int
    """Key/value heads; each serves ``heads / kv_heads`` query heads."""
    mlp_hidden: int
    vocabulary: int = 256
    """256 is one token per byte."""
    context: int = 128
    """Tokens per training window, T."""
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5


@dataclass(frozen=True, kw_only=True, slots=True)
class SlicingConfig:
    """How the parameters are cut among owners."""

    slices: int
    """N. 1 is plain DiLoCo. The paper's quality falls quickly above 8; fewer than four owners a slice cost loss, too
    (docs/results/quality.md)."""
    replicas: int = 2
    """Owners that every slice should have: with two, one may die and nothing is lost but its round's work."""
    quorum: int = 1
    """Owners without whom no version of a slice is committed, and whom peers look for before anything else. With 1 a
    slice goes on as long as one owner is left, also in a part of the swarm that was cut off from the rest; with 2 it
    waits, loudly, and nothing is decided by one peer alone."""
    parts: tuple[SlicedParts, ...] = ("mlp",)
    """What is cut: ``mlp`` hidden units, attention ``heads`` in whole key/value groups; the rest is the common part."""
    amplification: float = 1.0
    """How many times as far as it contributes a peer moves its slices while it trains, at most N: it stands in for
    those who train the other slices at the same time, and correct the same errors (docs/results/quality.md). Whoever
    owns m slices takes 1/m of it. The larger the batch, the larger it may be: slices have so many times the noise."""
    last_amplification: float = 0.0
    """In the last round; it changes by the same amount from round to round. Noise falls with the inner lr, so 2 to N is
    better than either. 0 is the same throughout."""
    fragments: int = 1
    """F, pieces of each slice and of the common part, every F-th layer in one, that are averaged one after the other:
    at most 1/F of a round's bytes is sent at once. Raise it together with ``overlap.delay_steps`` where uplinks are
    idle for most of a round and too slow for the rest; without overlap a round has F waits instead of one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """The text that the run learns from."""

    source: DataSource = "python-stdlib"
    """``python-stdlib`` reads the source of the running Python's standard library; ``folder`` reads ``path``."""
    path: str = ""
    """For ``folder``: the directory, relative to the manifest."""
    pattern: str = "**/*.py"
    """For ``folder``: which files."""
    validation_percent: int = 5
    """Share of the text that nobody trains on: whole files, chosen by the hash of their names, or where there are fewer
    than 100 files the end of each."""
    fingerprint: str = ""
    """SHA-256 over names and contents, so that peers with other text never meet; ``p2ptrain run new`` fills it."""
    tokenizer: str = ""
    """A ``tokenizer.json`` of Hugging Face's tokenizers, relative to the manifest; "" makes every byte a token."""
    tokenizer_hash: str = ""
    """SHA-256 of that file; ``p2ptrain run new --tokenizer`` fills it."""
    end_token: str = ""
    """The tokenizer's token that is put after every file; "" puts none. Text as bytes has a form feed there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InnerConfig:
    """Inner steps: local AdamW on the owned slices."""

    steps: int
    """H, the inner steps of a round on the fastest peer of a group; slower peers contribute what they have by then."""
    batch: int
    """Windows per inner step, B."""
    lr: float
    warmup_steps: int = 0
    """Inner steps of linear warm-up at the start of the run; cosine decay to a tenth follows until the last round."""
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.1
    clip: float = 1.0
    """Largest gradient norm over what the peer owns."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OuterConfig:
    """Outer steps: SGD with momentum on each slice's anchor."""

    lr: float
    """Of the run's first outer step."""
    momentum: float
    last_lr: float = 0.0
    """Of its last one; it changes evenly in between. 0 leaves it at ``lr``. 1.5 to 2 times ``lr`` took 1 to 2 % off the
    loss (docs/results/quality.md): the inner lr falls meanwhile, so that later averages bear larger steps."""
    cooldown: float = 0.0
    """Share of the run, at its end, over which lr falls evenly to 0.3 times what it would be. 0.2 took 1 % off the loss
    of 2000 inner steps with a rising lr, and lets it rise further (docs/results/quality.md)."""
    common_lr_ratio: float = 1.0
    """The common part's lr over that of the numbered slices. All peers train it, and few each slice, so its average has
    less noise and bears larger steps."""
    nesterov: bool = True
    """Whether momentum looks ahead. Without, it is a heavy ball, which bears 1 + 2 ``momentum`` times the overshoot."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OverlapConfig:
    """Inner steps while slices are averaged, and how the outer step is merged with them."""

    delay_steps: int = 0
    """Most inner steps of a round before the outer steps of the last one are merged; then training waits for them. 0
    never trains while averaging. Raise it while peers report that they wait; at ``inner.steps`` only a round that takes
    longer than the next one's inner steps makes anybody wait."""
    merge: Merge = "shift"
    """``shift``: new anchor plus the progress made since the cut-off. ``mix``: a mean of local weights and new anchor,
    weighted by ``mixing``."""
    mixing: float = 0.5
    """Share of the local weights when ``merge = "mix"``."""
    max_stale_rounds: int = 4
    """Progress that missed the averaging of this many versions of its slice is kept for the next; older is dropped, and
    so is that of a peer whom the lot drew for no group and whose work no owner brought along."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExchangeConfig:
    """How owners average, and how long they wait for each other."""

    codec: Codec = "int8"
    """Encoding of pseudo-gradients, averages and updates. ``int4`` halves what is sent, for some loss;
    ``float32`` sends four times as much."""
    averaging: Averaging = "mean"
    """``mean`` weighs owners by tokens. ``trimmed`` cuts the extreme quarter of every element's values, ``clipped``
    pulls far contributions to the median distance: with three or more owners, a quarter of liars then moves the
    average little. Both weigh all owners alike; docs/results/robust.md has what they cost."""
    check_averages: bool = True
    """Every average is computed by a second owner, too, and where there is one nothing is committed that only the first
    has computed. Turn it off among people who trust each other: an owner that lies is then believed, and groups of four
    or more upload a quarter to a third less while they average, and use a quarter less processor time at least."""
    part_elements: int = 1 << 20
    """Most elements in one part of the butterfly. Smaller parts spread the reducing finer and cost more messages; a
    slice that would have fewer than 16 has smaller ones in any case, down to 65536."""
    lease_s: float = 30.0
    """A claim not renewed for so long has expired. With two owners, a dead one costs the other this long, once."""
    gather_timeout_s: float = 60.0
    """Longest wait, from the first ready owner on, for the others' inner steps."""
    reduce_timeout_s: float = 30.0
    """Longest wait for a reducer or sender before its parts go elsewhere or are left out."""
    vote_timeout_s: float = 15.0
    """Longest wait for the proposer's proposal and for the votes on it, each."""
    max_owners: int = 64
    """Owners of one slice, and of the common part, that average together in a round. If more peers hold it, they take
    turns by lot, so that messages and bytes of a round do not grow with the swarm, and owners bring others' work along.
    Larger groups send more messages."""
    max_constituents: int = 4
    """Holders beyond ``max_owners`` whose work each owner of a version averages with its own before it contributes.
    Each costs that owner one contribution to download, and none to upload. 0, or ``averaging`` other than ``mean``:
    those whom the lot left out work for nothing until they are drawn."""
    max_listed: int = 128
    """Peers whose claims the directory shows at a time, besides newcomers and the owners that certificates name. Where
    more take part, a lot decides every twenty leases who is listed and can be an owner; the others have their work
    brought by owners. So what a peer reads about the others does not grow with the swarm. A run of many slices needs
    more: each should have listed holders, and each of these has ``max_constituents`` places."""
    history: int = 8
    """Versions whose encoded averages and updates an owner keeps for peers that missed them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DoorConfig:
    """Who may take part."""

    authority: str = ""
    """Peer id of the key that opened the run: it signs the manifest, invites and bans. Empty: nobody has a say."""
    admission: Admission = "open"
    """``open`` admits everybody, ``invite`` who has the authority's invitation, ``allowlist`` whom its guest list
    names. Whoever the authority has banned is kept out in every case."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """All that the peers of a run must share; its hash is the run id."""

    name: str
    seed: int
    rounds: int
    """Length of the run, which also sets the learning-rate schedule; after it peers stop training and only serve."""
    model: ModelConfig
    slicing: SlicingConfig
    inner: InnerConfig
    outer: OuterConfig
    data: DataConfig = field(default_factory=DataConfig)
    overlap: OverlapConfig = field(default_factory=OverlapConfig)
    exchange: ExchangeConfig = field(default_factory=ExchangeConfig)
    door: DoorConfig = field(default_factory=DoorConfig)
    format: int = 1
    """Version of the manifest's form and of the protocol it implies."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineConfig:
    """How one peer computes its inner steps: a choice of time and memory that no other peer sees."""

    device: str = "cpu"
    """``cpu``, ``cuda``, ``cuda:1``, ``mps``: what torch calls it."""
    precision: Precision = "float32"
    """``bfloat16`` halves weights and activations; owned rows keep float32 masters. Faster where the
    processor has it."""
    lean: bool = False
    """Backward passes that keep about half of what autograd keeps; equal to rounding, no longer to the bit."""
    recompute: Recompute = "nothing"
    """``mlp`` or whole ``blocks`` are computed twice instead of kept, for about a fifth or a third more time. For
    when memory runs out at ``micro_batch = 1``. Implies ``lean``."""
    micro_batch: int = 0
    """Windows in one forward pass; gradients of micro-batches add up in float32. 0 takes the batch whole."""
    compile: bool = False
    """Compile the blocks with ``torch.compile``, once, for some minutes. Implies ``lean``."""
    deterministic: bool = False
    """Refuse operations whose result depends on timing, for tests; matters on GPUs. Sets it for the whole process."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineWish:
    """What a volunteer says about the engine; ``training.choose`` makes an ``EngineConfig`` of it for the device."""

    device: str = "auto"
    """``auto`` takes a GPU if there is one (cuda, then mps), otherwise the CPU."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """``auto`` is bfloat16 on a GPU that has it, float32 elsewhere."""
    memory_bytes: int = 0
    """Budget for training. 0: what a GPU has free, or half of the machine's memory. Lower it when the machine has other
    things to do."""
    micro_batch: int = 0
    """Windows in one forward pass; 0 takes as many as fit."""
    recompute: Literal["auto", "nothing", "mlp", "blocks"] = "auto"
    """``auto`` computes as little twice as fits."""
    compile: bool = False
    """Compile the blocks with ``torch.compile``: some minutes at the start, for a faster step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RelayLimits:
    """What a bootstrap node carries for peers that nobody can dial."""

    reservations: int = 512
    """Peers that can be called through this relay at once."""
    reservations_per_address: int = 16
    """Of them, from one IP address: a household or a small office."""
    circuits: int = 1024
    """Connections carried at once."""
    circuits_per_peer: int = 64
    """Of them, with one peer at either end: a group of owners, and whoever fetches from it."""
    circuit_bytes: int = 4 * 1024**3
    """In each direction of one connection; then both ends dial anew. A round of a large model fits many times."""
    circuit_s: float = 6 * 3600.0
    """Longest life of one connection."""
    total_mbps: float = 0.0
    """Megabits a second for all of them together; 0 is no cap. Set it where traffic is paid for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkConfig:
    """Where a peer or bootstrap node listens and whom it calls first."""

    bootstraps: tuple[str, ...] = ()
    """Multiaddresses like ``/ip4/203.0.113.7/tcp/31337/p2p/12D3Koo...``; the first that answers is enough."""
    host: str = ""
    """Address to listen on. Empty: 127.0.0.1 when every bootstrap is on this machine, otherwise 0.0.0.0."""
    port: int = 0
    """TCP port to listen on; 0 takes any free one."""
    reach: ReachWish = "auto"
    """How to be called: ``auto`` asks the bootstraps to call back and decides; ``direct`` and ``relayed`` decide."""
    map_port: bool = False
    """Ask the router to pass the port on (NAT-PMP, UPnP). Leave it off where the router belongs to somebody else."""
    announce: tuple[str, ...] = ()
    """Multiaddresses to announce in place of those that the machine has, without ``/p2p/...``; for forwarded ports."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LimitsConfig:
    """What the volunteer allows; all can be changed while the peer runs. 0 or empty is no limit."""

    compute_hours: tuple[str, ...] = ()
    """When to train, local time: ``Mon-Fri 22:00-07:00``, ``Sat,Sun``; empty: always."""
    network_hours: tuple[str, ...] = ()
    """When to be on the network at all; outside of them the peer is no part of the swarm."""
    pause_while_running: tuple[str, ...] = ()
    """Names of programs that want the machine for themselves, such as a game."""
    pause_while_gpu_in_use: bool = False
    """Give the GPU up while another program computes on it."""
    pause_on_battery: bool = False
    """Train on mains only."""
    max_temperature_c: float = 0.0
    """Of the device that trains; training goes on when it is 5 degrees cooler."""
    gpu_memory_gib: float = 0.0
    """Largest memory that training may take on the GPU; when it runs out, the peer computes in smaller pieces."""
    gpu_power_w: float = 0.0
    """Power limit of the GPU; needs a driver that permits it."""
    threads: int = 0
    """CPU threads for training; 0 is torch's own choice, mostly one a core."""
    niceness: int = 0
    """0 to 19: how much other programs come first on the processor."""
    upload_mbps: float = 0.0
    """Megabits a second that the peer sends at most. Others plan with it: see ``share_parts``."""
    download_mbps: float = 0.0
    """Megabits a second that the peer fetches at most."""
    month_gb: float = 0.0
    """Gigabytes a calendar month, both directions; dealt out by the day, after which the peer sleeps."""
    disk_gb: float = 0.0
    """Gigabytes that the peer's home may take. Old journals go first, then rounds kept for others, then AdamW's
    moments; never the last committed state, so a limit below what that needs is refused."""
    pause_keeps_claim_s: float = 1800.0
    """How long a paused peer keeps its place in the swarm; a pause known to be longer gives it up at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ControlConfig:
    """Who may command the running peer besides its user on this machine."""

    listen: str = ""
    """``host:port`` for enrolled clients over TLS; empty: the Unix socket alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PeerConfig:
    """What one volunteer chooses."""

    home: Path
    """Folder of this peer's identity, checkpoint and journal; it belongs to one run."""
    network: NetworkConfig
    slices: tuple[SliceId, ...] | None = None
    """Slices to own, always; None owns those that need an owner most, and other ones when that changes."""
    max_slices: int = 1
    """With ``slices`` None: how many to own at once, which memory must allow. Beyond the first, slices are taken only
    while they have fewer owners than ``slicing.replicas``, and given back afterwards."""
    engine: EngineConfig = EngineConfig()
    """How to compute inner steps."""
    invite: str = ""
    """The authority's invitation to this peer, for runs that ask for one."""
    refetch: bool = False
    """Put what is damaged on disk aside and fetch the state from the swarm instead."""
    limits: LimitsConfig = LimitsConfig()
    """When to train, and how much of the machine and the line to use."""
    control: ControlConfig = ControlConfig()
    """Who may command the peer."""
    metrics: tuple[str, int] | None = None
    """Host and port to serve Prometheus metrics on; port 0 takes any free one."""
