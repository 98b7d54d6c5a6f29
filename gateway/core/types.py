"""The vocabulary: every value that travels between the parts of the gateway, frozen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any, NamedTuple

Doc = Mapping[str, Any]
"""A JSON object as parsed; read, never written."""


class Wire(StrEnum):
    """How a client or an engine speaks."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    OLLAMA = "ollama"

    # Enum's own is written in Python, and every look-up by a member pays for it.
    __hash__ = str.__hash__


class Op(StrEnum):
    """What is asked for. The value is the surface's public name (metrics label, providers API)."""

    CHAT = "chat-completions"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"
    RESPONSES = "responses"
    RESPONSES_BY_ID = "responses-by-id"
    RERANK = "rerank"
    SCORE = "score"
    TRANSCRIBE = "audio-transcriptions"
    TRANSLATE = "audio-translations"
    SPEECH = "audio-speech"
    IMAGES = "images-generations"
    IMAGE_EDITS = "images-edits"
    TOKENIZE = "tokenize"
    DETOKENIZE = "detokenize"
    MESSAGES = "messages"
    COUNT_TOKENS = "count-tokens"
    GENERATE = "generate"
    EMBED = "embed"
    TAGS = "tags"
    SHOW = "show"
    PS = "ps"
    VERSION = "version"
    MANAGE = "manage"

    __hash__ = str.__hash__


class Health(StrEnum):
    """What we believe about a backend. UP and BUSY take requests; the others do not."""

    UNKNOWN = "unknown"
    LOADING = "loading"
    UP = "up"
    BUSY = "busy"
    WEDGED = "wedged"
    SICK = "sick"
    DOWN = "down"
    DRAINING = "draining"

    __hash__ = str.__hash__


ROUTABLE = frozenset({Health.UP, Health.BUSY})


class Circuit(IntEnum):
    """What live traffic made of a backend: CLOSED takes requests, HALF_OPEN one at a time, OPEN
    none before its cool-down is over. The number is the value of the metric."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. ``first_byte`` runs from the sent request to the first byte of the answer's body;
    ``idle`` is the longest silence after that."""

    connect: float = 2.0
    first_byte: float = 120.0
    idle: float = 60.0


PASSTHROUGH = "passthrough"
"""The value of a backend's ``api_key`` that forwards the caller's own credential."""


@dataclass(frozen=True, slots=True)
class Backend:
    """One engine as configured or discovered. ``url`` has no trailing slash; ``runtime`` is a
    row's name or ``auto``; ``models``, when not empty, are the only ids it may serve here;
    ``spares`` are further keys, which take turns with ``secret``; ``proxy`` is the URL of the proxy
    on the way there, '' for the direct way.

    The rest is of providers that were added over HTTP. ``host`` goes into the Host header where
    ``url`` holds an address that was checked instead of the name; ``surfaces``, when not empty, are
    the only ones it is asked on; ``params`` are the top-level fields of a body that reach it, by
    surface; ``otherwise`` is the row that is taken when its answers fit none."""

    name: str
    url: str
    runtime: str = "auto"
    weight: float = 1.0
    max_concurrency: int | None = None
    secret: str | None = field(default=None, repr=False)
    models: tuple[str, ...] = ()
    timeouts: Timeouts = Timeouts()
    discovered: bool = False
    host: str = ""
    surfaces: tuple[tuple[Wire, Op], ...] = ()
    params: tuple[tuple[Wire, Op, frozenset[str]], ...] = ()
    otherwise: str = ""
    spares: tuple[str, ...] = field(default=(), repr=False)
    proxy: str = field(default="", repr=False)

    @property
    def keys(self) -> tuple[str | None, ...]:
        """All its keys."""
        return (self.secret, *self.spares)


@dataclass(frozen=True, slots=True)
class Model:
    """One model as a backend lists it. ``id`` is what the backend is asked for; ``aliases`` are
    other names it answers to; ``entry`` holds the backend's own fields of its list; ``context`` is
    in tokens; ``tag`` is its row of Ollama's ``/api/tags`` where the backend has that page."""

    id: str
    aliases: tuple[str, ...] = ()
    entry: Doc = field(default_factory=dict)
    context: int | None = None
    capabilities: frozenset[str] | None = None
    loaded: bool | None = None
    tag: Doc = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Load:
    """What an engine says about its own load; None where it does not say.
    ``kv_used`` and ``hit_ratio`` are 0..1; ``progress`` is any counter that moves while the engine
    works (tokens generated so far); ``slots`` is how many requests it runs at once, ``cache`` how
    many tokens its KV cache holds;
    ``ours`` is how many requests of ours were there when it said so."""

    running: float | None = None
    waiting: float | None = None
    kv_used: float | None = None
    hit_ratio: float | None = None
    progress: float | None = None
    slots: int | None = None
    cache: int | None = None
    ours: float | None = None


@dataclass(frozen=True, slots=True)
class Waking:
    """A model that the gateway has an engine load: its id, since when (monotonic seconds), and how
    long such a load takes (seconds): as learned, or a ``guess`` where none was seen yet."""

    model: str
    since: float
    expected: float
    guess: bool = False


@dataclass(frozen=True, slots=True)
class Sight:
    """What the sensors last saw of a backend. ``since`` is when ``health`` last changed (seconds,
    monotonic); ``detail`` is one sentence for a person; ``lacks`` are (model id, surface) pairs
    that the engine has refused as unsupported; ``ceiling`` is the most requests at once that the
    engine's own numbers are worth, None where they tell nothing.
    ``until`` (monotonic seconds) is when the cool-down of an open ``circuit`` ends; ``waking`` are
    the loads under way.

    Of its GPUs (by UUID in ``gpus``): ``gpu_factor`` is what throttling leaves of its weight,
    ``gpu_reason`` what is wrong with them in one sentence, ``room`` (0..1] how much of the engine
    is left by their memory, utilization and other users, ``left`` what other users alone leave.
    ``speeds`` are the tokens per second that
    one answer has been seen to get, by model id. All of them move in steps."""

    health: Health = Health.UNKNOWN
    since: float = 0.0
    detail: str = "not probed yet"
    runtime: str = ""
    variant: str = ""
    version: str = ""
    models: tuple[Model, ...] = ()
    load: Load = Load()
    lacks: frozenset[tuple[str, Op]] = frozenset()
    ceiling: int | None = None
    gpus: tuple[str, ...] = ()
    gpu_factor: float = 1.0
    gpu_reason: str = ""
    room: float = 1.0
    left: float = 1.0
    speeds: Mapping[str, float] = field(default_factory=dict)
    circuit: Circuit = Circuit.CLOSED
    until: float = 0.0
    waking: tuple[Waking, ...] = ()


@dataclass(frozen=True, slots=True)
class Fleet:
    """All backends and what is known of each, at one moment. ``serial`` grows with every change."""

    serial: int
    at: float
    backends: Mapping[str, Backend]
    sights: Mapping[str, Sight]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: a key's name, never the key. ``models`` are shell-style patterns; ``priority`` is
    a level of core/priority.py; ``surfaces``, when not empty, are the only ones it may use;
    ``expires`` is in Unix seconds. ``bounded`` is False for a key of which only the models need to
    be looked at."""

    name: str = "anonymous"
    models: tuple[str, ...] = ("*",)
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_concurrency: int | None = None
    priority: int = 0
    surfaces: tuple[str, ...] = ()
    tokens_per_day: int | None = None
    tokens_per_month: int | None = None
    expires: float | None = None
    bounded: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Once for all: every request asks.
        bounded = self.limited or bool(self.surfaces) or self.expires is not None
        object.__setattr__(self, "bounded", bounded)

    @property
    def limited(self) -> bool:
        """True when something is counted for the key."""
        limits = (self.requests_per_minute, self.max_concurrency)
        return self.counts_tokens or any(limit is not None for limit in limits)

    @property
    def counts_tokens(self) -> bool:
        """True when the key has a limit in tokens, so that usage must be known."""
        limits = (self.tokens_per_minute, self.tokens_per_day, self.tokens_per_month)
        return any(limit is not None for limit in limits)


@dataclass(frozen=True, slots=True)
class Target:
    """One backend of a public model. ``model`` None: the backend's model of the public name, else
    its only (first) one."""

    backend: str
    model: str | None = None
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class PublicModel:
    """A name that callers may use, and where it leads. ``fallbacks`` are names tried, in order,
    when no target can take the request."""

    name: str
    targets: tuple[Target, ...]
    fallbacks: tuple[str, ...] = ()
    policy: str | None = None


@dataclass(frozen=True, slots=True)
class Tactics:
    """How far the gateway goes for a request. Further attempts are at most ``retry_share`` of the
    requests and ``retry_floor`` a second, in each process. ``load_wait``: seconds for which a
    request waits while its model is loaded. ``hedge``: send a second copy of a request that has no
    first byte after ``hedge_after`` seconds (None: the model's 95th percentile).
    ``first_byte``: go elsewhere when the first byte is far later than the model's usual ones."""

    retry_share: float = 0.2
    retry_floor: float = 10.0
    load_wait: float = 60.0
    hedge: bool = False
    hedge_after: float | None = None
    first_byte: bool = False


class Tried(NamedTuple):
    """One attempt: the backend, the id it was asked for, when (monotonic seconds) it began and
    ended, how it ended, why, the engine's status (0: none) and whether it was the trial of a
    half-open backend."""

    backend: str
    asked: str
    began: float
    ended: float
    end: str
    reason: str = ""
    text: str = ""
    status: int = 0
    trial: bool = False


@dataclass(slots=True)
class Call:
    """One request as understood at the door. ``body`` are the bytes that came; ``doc`` is the
    parsed object (empty for multipart and for calls without a body). ``arrived`` is monotonic
    seconds. ``path`` is the route's template; ``tail`` is what follows the surface's own path
    (an id, ``/cancel``). ``priority`` is the level its header asks for, if any. The one change ever
    made to a Call is ``forget``."""

    id: str
    wire: Wire
    op: Op
    path: str
    model: str = ""
    method: str = "POST"
    stream: bool = False
    body: bytes = field(default=b"", repr=False)
    doc: Doc = field(default_factory=dict, repr=False)
    pinned: str = ""
    session: str = ""
    user: str = ""
    tail: str = ""
    priority: int | None = None
    arrived: float = 0.0

    def forget(self) -> None:
        """Let go of the body, which may be megabytes, when it will not be sent again."""
        self.body, self.doc = b"", {}


class Usage(NamedTuple):
    """Tokens of one answer as the engine counted them; ``input`` includes ``cached``.
    ``counted`` is False when ``output`` is a count of content events made here."""

    input: int = 0
    output: int = 0
    cached: int = 0
    counted: bool = True


NO_USAGE = Usage()


@dataclass(frozen=True, slots=True)
class Pulse:
    """What live traffic says of one backend: requests now in flight there, when the oldest of
    them was sent and when the last byte of any answer came (monotonic seconds, 0: never).
    ``served`` and ``tried`` are sums that grow: what it answered well, and the trials among it."""

    in_flight: int = 0
    oldest: float = 0.0
    last_byte: float = 0.0
    served: int = 0
    tried: int = 0


@dataclass(frozen=True, slots=True)
class Ask:
    """One request of an administrator. ``names`` are the parts of the path that stand for
    something, ``query`` is the query string as it came, ``accept`` the header of that name, ``by``
    who asks."""

    method: str
    path: str
    query: str = ""
    body: bytes = field(default=b"", repr=False)
    names: Mapping[str, str] = field(default_factory=dict)
    accept: str = ""
    by: str = ""


ITL_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Upper bounds (seconds) of the inter-token latency histogram that a stream fills as it passes."""


@dataclass(slots=True)
class Outcome:
    """What became of one request: the single source of metrics, log line and accounting. Never
    written after the request is over; a frozen one of so many fields would cost three microseconds.

    Times are seconds since the request arrived; None where the moment never came. ``status`` is
    what the client saw (0 when it left before any status). ``model`` is bounded: a name of the
    catalog, or 'unknown'. ``upstream_model`` is the id the backend was asked for. ``refusal`` is
    the error kind when the gateway itself answered. ``cut_by`` is '', 'client', 'engine' or
    'gateway'. ``moves`` are the reasons of the attempts that were given up before the last one;
    ``stale`` counts silent retries on dead keep-alive connections; ``hedged`` is 'won' or 'lost'
    when a second copy was sent, by what became of that copy. ``itl`` are counts per bucket of
    ITL_BUCKETS (one more for the rest), ``itl_sum`` their sum in seconds. ``queued`` is how long it
    waited for a place, None if it did not have to. ``limit`` names the limit of the key that it was
    refused for."""

    id: str
    key: str
    surface: str
    model: str
    status: int
    wire: str = "openai"
    user: str = ""
    session: str = ""
    backend: str = ""
    upstream_model: str = ""
    stream: bool = False
    refusal: str = ""
    cut_by: str = ""
    attempts: int = 0
    moves: tuple[str, ...] = ()
    stale: int = 0
    hedged: str = ""
    overhead: float | None = None
    first_byte: float | None = None
    duration: float = 0.0
    usage: Usage = NO_USAGE
    itl: Sequence[int] = ()
    itl_sum: float = 0.0
    bytes_out: int = 0
    queued: float | None = None
    limit: str = ""
    at: float = 0.0
