"""A fine-tuned vision-language-action model in the driver's seat.

    nsdrive simulate simulate/synthetic planner=vla planner.model=out/run/model --out out/closed_loop

Every half second it is asked what its training samples asked (one function writes both questions): the cameras' images, the
ego's last two seconds, the navigation command and the speed limit. Its ten waypoints become a smooth motion
(`nsdrive.vla.waypoints`), which the ego follows until the next answer. What it says is kept, word by word, in `Plan.said`, and
how long it took to say it in `Plan.seconds`.

An answer may come late (`latency_s`): then it takes effect at a later tick. Its waypoints are meant from where the ego was when
it was asked; until it comes the ego follows the plan before. An answer that cannot be read changes nothing as long as that plan
reaches, 5 s from its question. Both are notes (`LATE_ANSWER`, `KEPT_PLAN`). Without a plan that reaches the ego stops (`NO_WAY`).
The drive's first answer takes effect at once, however long it took: a car is not set rolling before its driver sees.

In closed loop the world answers to the ego, so the images cannot be a log's own: our renderer draws them, for real logs too.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from functools import lru_cache
from io import BytesIO
from typing import TYPE_CHECKING, Literal

from nsdrive.cameras.render import Renderer, encode_jpeg
from nsdrive.cameras.rig import make_rig
from nsdrive.questions import NO_TEXT
from nsdrive.vla.prompt import (
    N_WAYPOINTS,
    WAYPOINT_INTERVAL_S,
    Answer,
    build_prompt,
    ego_history_rows,
    parse_answer,
    render_answer,
)
from nsdrive.vla.question_form import QuestionForm, model_folder, read_form
from nsdrive.vla.waypoints import Motion, stopping, through
from nsdrive.world.decision import KEPT_PLAN, LATE_ANSWER, NO_WAY
from nsdrive.world.navigation import navigation
from nsdrive.world.rules import IdmParameters
from nsdrive.world.types import INTERVAL_S, EgoState, Mission, Observation, Plan
from planners.guard import guarded

if TYPE_CHECKING:
    from nsdrive.vla.data.rows import Row
    from nsdrive.vla.inference.engine import Said
    from nsdrive.vla.inference.predictor import Predictor

CLOCK_S = 1e-6  # nuPlan's clock
LATE = f"{LATE_ANSWER}until it came the plan before was followed"  # how late is in Plan.seconds, or set
PLAN_S = N_WAYPOINTS * WAYPOINT_INTERVAL_S  # how far an answer reaches from its question


@dataclass(frozen=True, kw_only=True)
class VlaConfig:
    """Which model drives, how it is asked, and how often. What is None is as in its training, where the model tells."""

    model: str | None = None  # a folder (a run's, its model/, an adapter's) or a hub id
    rig: Literal["3", "8"] | None = None  # not told by the model: "3"
    image_width_px: int = 640  # of a rig that is named here, or that the model does not tell
    image_height_px: int = 360
    jpeg_quality: int = 90  # the images go through JPEG, as the samples' did
    trace_level: Literal["none", "brief", "detailed"] | None = None  # not told by the model: detailed
    replan_interval_s: float = 0.5  # chosen by us: the waypoints' own spacing
    latency_s: float | Literal["measured"] | None = None  # from question to effect; None: 0. "measured": runs differ
    constrained: bool = True  # under the grammar, so that every answer parses
    max_reasoning_tokens: int | None = None  # None: the trace level's own budget
    # plan: waypoints at once; head: the trajectory head's, no text at all
    mode: Literal["full", "plan", "head"] = "full"
    # driven by the trajectory head's waypoints, known before the first word of the text that follows
    early: bool = False
    scenery_seed: int = 0  # buildings, trees and weather: a mission does not tell the scenario's
    trust_remote_code: bool = False  # runs Python that comes with the checkpoint: only for one that you trust
    allow_slow_kernels: bool = False  # Qwen3.5 on CUDA without flash-linear-attention

    def __post_init__(self) -> None:
        if not INTERVAL_S <= self.replan_interval_s <= 5.0:
            raise ValueError(f"replan_interval_s must be 0.1 to 5.0 (a plan's length), got {self.replan_interval_s}")
        if isinstance(self.latency_s, float | int) and not 0.0 <= self.latency_s < 60.0:
            raise ValueError(f"latency_s must be 0 to 60, 'measured' or null, got {self.latency_s}")
        if self.max_reasoning_tokens is not None and self.max_reasoning_tokens < 1:
            raise ValueError(f"max_reasoning_tokens must be at least 1, got {self.max_reasoning_tokens}")
        if self.early and self.mode == "head":
            raise ValueError("early is of mode full or plan: in mode head there is nothing but the early waypoints")


@guarded
class VlaPlanner:
    """A model that drives. It makes no decisions that could be replayed, so it cannot teach.

    Making one loads the model, once per process: FileNotFoundError or ValueError where that cannot be done, ModuleNotFoundError
    without torch.
    """

    name = "vla"

    def __init__(self, config: VlaConfig | None = None) -> None:
        self.config = config or VlaConfig()
        if self.config.model is None:
            raise ValueError("planner 'vla' needs a model: planner.model=out/run/model, or a hub id")
        source = model_folder(self.config.model)
        self.form = question_form(self.config, source)
        self._predictor = load(source, self.config.trust_remote_code, self.config.allow_slow_kernels)
        if (self.config.early or self.config.mode == "head") and self._predictor.head is None:
            raise ValueError(f"{source} has no trajectory head: train one with trajectory_head=regression")
        self._mission: Mission | None = None
        self._renderer: Renderer | None = None
        self._followed: Followed | None = None
        self._awaited: Awaited | None = None
        self._asked_s = -math.inf
        self._seconds: float | None = None

    def initialize(self, mission: Mission, ego: EgoState) -> None:
        if self._mission is None or mission.lane_map is not self._mission.lane_map:
            self._renderer = Renderer(mission.lane_map, self.config.scenery_seed)
        self._mission, self._followed, self._awaited = mission, None, None
        self._asked_s, self._seconds = -math.inf, None

    def plan(self, observation: Observation) -> Plan:
        """Every replan_interval_s a new motion; in between the rest of the last one, which the ego may be a little beside."""
        ego, now_s = observation.ego, observation.ego.time_s
        said: str | None = None
        seconds: float | None = None
        notes: tuple[str, ...] = ()
        self._take_what_has_come(ego)
        if self._awaited is None and now_s - self._asked_s > self.config.replan_interval_s - CLOCK_S:
            answered = self.ask(observation)  # should this fail, the next tick asks again
            self._asked_s, seconds, said = now_s, self._seconds, answered.text
            answer = parse_answer(said)
            if self.config.early:
                answer = replace(answer, waypoints_ego_m=answered.early_waypoints_ego_m, error=None)
            self._awaited = self._expected(answer, ego)
            notes = self._awaited.notes
            self._take_what_has_come(ego)
        assert self._followed is not None, "the first answer takes effect at once"
        if now_s > self._followed.until_s - CLOCK_S:
            self._followed = stop(ego, "the last plan is over and no other has come")
        motion = self._followed.motion
        notes = (*notes, *self._followed.notes)
        return Plan(trajectory=motion.from_time(now_s), decision=None, said=said, notes=notes, seconds=seconds)

    def _expected(self, answer: Answer, ego: EgoState) -> Awaited:
        """An answer to a question of this tick: when it takes effect, and what there is to note about it."""
        latency_s = self._seconds if self.config.latency_s == "measured" else self.config.latency_s
        delay_s = 0.0 if self._followed is None or latency_s is None else float(latency_s)
        ticks = math.ceil((delay_s - CLOCK_S) / INTERVAL_S)
        takes_effect_s = ego.time_s + ticks * INTERVAL_S
        notes = [LATE] if ticks > 0 else []
        if answer.waypoints_ego_m is None and _reaches(self._followed, takes_effect_s):
            notes.append(f"{KEPT_PLAN}{_why(answer)}")
        return Awaited(answer=answer, asked=ego, takes_effect_s=takes_effect_s, notes=tuple(notes))

    def _take_what_has_come(self, ego: EgoState) -> None:
        come = self._awaited
        if come is None or ego.time_s < come.takes_effect_s - CLOCK_S:
            return
        self._awaited = None
        if come.answer.waypoints_ego_m is None:
            if not _reaches(self._followed, ego.time_s):
                self._followed = stop(ego, _why(come.answer))
            return
        until_s = come.asked.time_s + PLAN_S
        if ego.time_s > until_s - CLOCK_S:
            self._followed = stop(ego, "the answer came after its own plan was over")
        else:
            self._followed = Followed(motion=through(come.answer.waypoints_ego_m, come.asked), until_s=until_s)

    def ask(self, observation: Observation) -> Said:
        """The model's answer at this tick, verbatim. The time from its images to its last word is kept (with `early`: to its
        head's waypoints); drawing is not its."""
        from nsdrive.vla.data.encoding import encode
        from nsdrive.vla.inference.engine import Said

        row = self.question(observation)
        started_s = time.perf_counter()
        prefix = NO_TEXT if self.config.mode == "plan" else None
        encoded = encode(self._predictor.processor, row, with_answer=False, prefix=prefix)
        encoded_s = time.perf_counter() - started_s
        if self.config.mode == "head":
            said = Said(text=render_answer("", self._predictor.waypoints([encoded])[0]))
        else:
            said = self._predictor.answer(
                [encoded],
                [row.level],
                constrained=self.config.constrained,
                max_reasoning_tokens=self.config.max_reasoning_tokens,
            ).said[0]
        self._seconds = time.perf_counter() - started_s
        if self.config.early and said.early_seconds is not None:
            self._seconds = encoded_s + said.early_seconds
        return said

    def question(self, observation: Observation) -> Row:
        """What the model is shown and asked: a sample's row, without its answer."""
        from PIL import Image

        from nsdrive.vla.data.rows import Row

        assert self._mission is not None, "the guard sees that initialize comes first"
        assert self._renderer is not None, "made with the mission"
        ego = observation.ego
        views = self._renderer.render(ego.pose, observation.objects, observation.lights, self.form.rig)
        images = [Image.open(BytesIO(encode_jpeg(view.rgb, self.config.jpeg_quality))) for view in views.values()]
        heading_for = navigation(self._mission, ego)
        history = ego_history_rows(observation.ego_history)
        now = history[-1]
        prompt = build_prompt(
            cameras=list(views),
            ego_history=history,
            command=heading_for.command,
            speed_limit_mps=heading_for.speed_limit_mps,
            level=self.form.trace_level,
        )
        return Row(
            sample_id=f"tick {observation.tick}",
            level=self.form.trace_level,
            images=tuple(images),
            prompt=prompt,
            answer="",
            ego_now=(now["vx_mps"], now["vy_mps"], now["ax_mps2"], now["ay_mps2"]),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Followed:
    """What the ego follows. until_s: how far it reaches, inf for a stop. notes: at every tick at which it is followed."""

    motion: Motion
    until_s: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Awaited:
    """An answer and when it takes effect. asked: the ego at its question, from where its waypoints are meant."""

    answer: Answer
    asked: EgoState
    takes_effect_s: float
    notes: tuple[str, ...]


def stop(ego: EgoState, why: str) -> Followed:
    """From here to a stop straight ahead."""
    motion = through(stopping(ego.speed_mps, IdmParameters().decel_max_mps2), ego)
    return Followed(motion=motion, until_s=math.inf, notes=(f"{NO_WAY}{why}",))


def _reaches(followed: Followed | None, at_s: float) -> bool:
    """Whether there is a plan of the model's own to go on with."""
    return followed is not None and not followed.notes and at_s < followed.until_s - CLOCK_S


def _why(answer: Answer) -> str:
    return f"the model's answer cannot be read, {str(answer.error).partition(':')[0]}"  # what it said is kept elsewhere


def question_form(config: VlaConfig, source: str) -> QuestionForm:
    """How the model is asked: as the config says, else as in its training, else as samples ask by default."""
    trained = read_form(source)
    if config.rig is None and trained is not None:
        rig = trained.rig
    else:
        rig = make_rig(config.rig or "3", width_px=config.image_width_px, height_px=config.image_height_px)
    return QuestionForm(
        rig=rig, trace_level=config.trace_level or (trained.trace_level if trained is not None else "detailed")
    )


@lru_cache(maxsize=1)
def load(source: str, trust_remote_code: bool, allow_slow_kernels: bool) -> Predictor:
    """The model, kept for the next scenario of this process."""
    from nsdrive.vla.inference.engine import load_engine
    from nsdrive.vla.inference.predictor import Predictor

    engine = load_engine(source, trust_remote_code=trust_remote_code, allow_slow_kernels=allow_slow_kernels)
    assert isinstance(engine, Predictor), "the engine of this process"
    return engine
