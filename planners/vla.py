"""A fine-tuned vision-language-action model in the driver's seat.

    nsdrive simulate simulate/synthetic planner=vla planner.model=out/run/model --out out/closed_loop

Every half second it is asked what its training samples asked (one function writes both questions): the cameras' images, the
ego's last two seconds, the navigation command and the speed limit. Its ten waypoints become a smooth motion
(`nsdrive.vla.waypoints`), which the ego follows until it is asked again. What it says is kept, word by word, in `Plan.said`.

In closed loop the world answers to the ego, so the images cannot be a log's own: our renderer draws them, for real logs too.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nsdrive.cameras.render import Renderer, encode_jpeg
from nsdrive.cameras.rig import make_rig
from nsdrive.vla.prompt import Answer, build_prompt, ego_history_rows, parse_answer
from nsdrive.vla.question_form import QuestionForm, read_form
from nsdrive.vla.waypoints import Motion, stopping, through
from nsdrive.world.decision import NO_WAY
from nsdrive.world.navigation import navigation
from nsdrive.world.rules import IdmParameters
from nsdrive.world.types import INTERVAL_S, EgoState, Mission, Observation, Plan
from planners.guard import guarded

if TYPE_CHECKING:
    from nsdrive.vla.data import Row
    from nsdrive.vla.infer import Predictor

LATE_S = 1e-6  # nuPlan's clock


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
    constrained: bool = True  # under the grammar, so that every answer parses
    max_reasoning_tokens: int | None = None  # None: the trace level's own budget
    scenery_seed: int = 0  # buildings, trees and weather: a mission does not tell the scenario's
    trust_remote_code: bool = False  # runs Python that comes with the checkpoint: only for one that you trust
    allow_slow_kernels: bool = False  # Qwen3.5 on CUDA without flash-linear-attention

    def __post_init__(self) -> None:
        if not INTERVAL_S <= self.replan_interval_s <= 5.0:
            raise ValueError(f"replan_interval_s must be 0.1 to 5.0 (a plan's length), got {self.replan_interval_s}")
        if self.max_reasoning_tokens is not None and self.max_reasoning_tokens < 1:
            raise ValueError(f"max_reasoning_tokens must be at least 1, got {self.max_reasoning_tokens}")


@guarded
class VlaPlanner:
    """A model that drives. It makes no decisions that could be replayed, so it cannot teach.

    Making one loads the model, once per process: FileNotFoundError or ValueError where that cannot be done, ModuleNotFoundError
    without torch. An answer that cannot be read brings the ego to a stop, and a note that says why.
    """

    name = "vla"

    def __init__(self, config: VlaConfig | None = None) -> None:
        self.config = config or VlaConfig()
        if self.config.model is None:
            raise ValueError("planner 'vla' needs a model: planner.model=out/run/model, or a hub id")
        source = model_folder(self.config.model)
        self.form = question_form(self.config, source)
        self._predictor = load(source, self.config.trust_remote_code, self.config.allow_slow_kernels)
        self._mission: Mission | None = None
        self._renderer: Renderer | None = None
        self._motion: Motion | None = None
        self._notes: tuple[str, ...] = ()

    def initialize(self, mission: Mission, ego: EgoState) -> None:
        if self._mission is None or mission.lane_map is not self._mission.lane_map:
            self._renderer = Renderer(mission.lane_map, self.config.scenery_seed)
        self._mission, self._motion, self._notes = mission, None, ()

    def plan(self, observation: Observation) -> Plan:
        """Every replan_interval_s a new motion; in between the rest of the last one, which the ego may be a little beside."""
        said = None
        ego = observation.ego
        if self._motion is None or ego.time_s - self._motion.start_s > self.config.replan_interval_s - LATE_S:
            self._motion = None  # should the question fail, the next tick asks again
            said = self.ask(observation)
            self._motion, self._notes = motion_of(parse_answer(said), ego)
        return Plan(trajectory=self._motion.from_time(ego.time_s), decision=None, said=said, notes=self._notes)

    def ask(self, observation: Observation) -> str:
        """The model's answer at this tick, verbatim."""
        from nsdrive.vla.data import encode

        row = self.question(observation)
        said = self._predictor.answer(
            [encode(self._predictor.processor, row, with_answer=False)],
            [row.level],
            constrained=self.config.constrained,
            max_reasoning_tokens=self.config.max_reasoning_tokens,
        )
        return said.texts[0]

    def question(self, observation: Observation) -> Row:
        """What the model is shown and asked: a sample's row, without its answer."""
        from PIL import Image

        from nsdrive.vla.data import Row

        assert self._mission is not None, "the guard sees that initialize comes first"
        assert self._renderer is not None, "made with the mission"
        ego = observation.ego
        views = self._renderer.render(ego.pose, observation.objects, observation.lights, self.form.rig)
        images = [Image.open(BytesIO(encode_jpeg(view.rgb, self.config.jpeg_quality))) for view in views.values()]
        heading_for = navigation(self._mission, ego)
        prompt = build_prompt(
            cameras=list(views),
            ego_history=ego_history_rows(observation.ego_history),
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
        )


def motion_of(answer: Answer, ego: EgoState) -> tuple[Motion, tuple[str, ...]]:
    """The motion that an answer means, and the notes: none, or why it is a stop."""
    if answer.waypoints_ego_m is not None:
        return through(answer.waypoints_ego_m, ego), ()
    why = str(answer.error).partition(":")[0]  # not what it said, which is kept elsewhere
    note = f"{NO_WAY}the model's answer cannot be read, {why}"
    return through(stopping(ego.speed_mps, IdmParameters().decel_max_mps2), ego), (note,)


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


def model_folder(model: str) -> str:
    """The model itself, where a run's folder is given."""
    inside = Path(model) / "model"
    is_run = inside.is_dir() and not (Path(model) / "adapter_config.json").is_file()
    return str(inside) if is_run else model


@lru_cache(maxsize=1)
def load(source: str, trust_remote_code: bool, allow_slow_kernels: bool) -> Predictor:
    """The model, kept for the next scenario of this process."""
    from nsdrive.vla.infer import Predictor
    from nsdrive.vla.model import model_type, quiet_libraries, require_fast_kernels

    quiet_libraries()
    require_fast_kernels(model_type(source, trust_remote_code=trust_remote_code), allow_slow=allow_slow_kernels)
    return Predictor.load(source, trust_remote_code=trust_remote_code)
