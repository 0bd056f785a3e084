"""Waypoints straight from a hidden state: trained beside the text, and a fast path that needs no waypoint tokens.

    head = TrajectoryHead(HeadShape(kind="regression", hidden=2560))
    head(hidden, ego_now)                # (B, 10, 2) waypoints in the ego frame [m]
    save_head(head, Path("RUN/model")), load_head("RUN/model")     # MODEL/trajectory_head/, a folder of its own

It reads the last hidden state of the prompt's last token, before any answer token is there, and the ego's motion as numbers;
if it has image tokens, also those of the images' tokens, at which it looks by an attention of its own (`read_head` hands it
all that). It says by how much the ego will leave the path of constant acceleration. Two kinds: "regression", one path;
"flow", flow matching as the action experts of pi0 (2410.24164) and Alpamayo-R1 (2511.00088) do it, which can say two ways
past a parked car; its `forward` integrates from the noise's mean, so that it too gives one path and the same one each time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import pad, smooth_l1_loss

from nsdrive.config import to_plain
from nsdrive.dataset import write_atomically
from nsdrive.vla.prompt import N_WAYPOINTS, WAYPOINT_INTERVAL_S

KINDS = ("regression", "flow")
FOLDER = "trajectory_head"  # of a model's folder; vLLM would load a .safetensors that lies beside the weights
WEIGHTS, SHAPE = "head.safetensors", "head.json"
NAME = "trajectory_head"  # the submodule of a model that trains with one

# Typical size of what is predicted, so that every waypoint counts alike: linear in time, after the errors of constant
# acceleration on the synthetic set (0.1 m after 0.5 s, 4 m after 5 s along the road, half of it across)
_SCALE_ALONG_M, _SCALE_ACROSS_M = 0.8, 0.4  # per second
_EGO_SCALE = (10.0, 1.0, 1.0, 1.0)  # vx, vy [m/s], ax, ay [m/s^2] of town driving
_FLOW_STEPS = 10  # Euler steps, as pi0
_FLOW_DRAWS = 8  # times of the flow trained on for each sample of a batch: they cost little beside the language model


@dataclass(frozen=True, kw_only=True)
class HeadShape:
    """What head.json holds."""

    kind: str  # one of KINDS
    hidden: int  # width of the language model
    width: int = 256  # chosen by us, as in the study behind the tiny model
    image_tokens: int = 0  # of a sample, at which the head looks itself; 0: it sees what the language model tells it

    def __post_init__(self) -> None:
        if self.image_tokens < 0:
            raise ValueError(f"The trajectory head's image tokens must not be negative, got {self.image_tokens}")
        if self.kind not in KINDS:
            raise ValueError(f"No trajectory head '{self.kind}'. Known: {', '.join(KINDS)}")
        if min(self.hidden, self.width) < 1:
            raise ValueError(f"The trajectory head's widths must be positive, got {self.hidden} and {self.width}")


class TrajectoryHead(nn.Module):
    """hidden (B, H) of the prompt's last token, ego_now (B, 4) = vx, vy, ax, ay, images -> waypoints_ego_m (B, 10, 2).

    Where ego_now is not known (nan) the path it departs from is standing still.
    """

    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
        self.shape = shape
        n_out = 2 * N_WAYPOINTS
        self.look = _Look(shape) if shape.image_tokens else None
        n_looked = _N_LOOKS * _LOOK_WIDTH if shape.image_tokens else 0
        n_flow = n_out + 2 * _N_WAVES if shape.kind == "flow" else 0
        self.norm = nn.LayerNorm(shape.hidden)
        self.layers = nn.Sequential(
            nn.Linear(shape.hidden + _N_FEATURES + n_looked + n_flow, shape.width),
            nn.SiLU(),
            nn.Linear(shape.width, shape.width),
            nn.SiLU(),
            nn.Linear(shape.width, n_out),
        )
        last: Any = self.layers[-1]
        nn.init.zeros_(last.weight)  # begin as constant acceleration
        nn.init.zeros_(last.bias)

    def forward(
        self,
        hidden: torch.Tensor,
        ego_now: torch.Tensor,
        waypoints_ego_m: torch.Tensor | None = None,
        *,
        images: torch.Tensor | None = None,
        is_image: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The waypoints; with the true ones (B, 10, 2) given instead the summed loss over the samples that have them.

        images (B, N, H) and is_image (B, N): of the images' tokens, for a head with `image_tokens`. One entry for both, because
        DeepSpeed gathers a module's weights when it is called.
        """
        ego_now = ego_now.float()
        seen = torch.cat([self.norm(hidden.to(self.norm.weight.dtype)).float(), _features(ego_now)], dim=-1)
        if self.look is not None:
            assert images is not None, "this head looks at the images: see read_head"
            assert is_image is not None
            seen = torch.cat([seen, self.look(seen, images, is_image)], dim=-1)
        start = constant_acceleration(ego_now)
        scale = _scale_m(hidden.device)
        if waypoints_ego_m is None:
            residual = self._net(seen) if self.shape.kind == "regression" else self._integrated(seen)
            return start + residual.view(-1, N_WAYPOINTS, 2) * scale
        known = torch.isfinite(waypoints_ego_m).flatten(1).all(dim=1)
        target = torch.where(known[:, None, None], (waypoints_ego_m.float() - start) / scale, 0.0).flatten(1)
        if self.shape.kind == "regression":
            loss = smooth_l1_loss(self._net(seen), target, reduction="none").mean(dim=1)
        else:
            loss = self._flow_loss(seen, target)
        return (loss * known).sum()

    def _net(self, x: torch.Tensor) -> torch.Tensor:
        first: Any = self.layers[0]
        out: torch.Tensor = self.layers(x.to(first.weight.dtype)).float()
        return out

    def _velocity(self, seen: torch.Tensor, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        waves = math.pi * t * torch.arange(1, _N_WAVES + 1, device=t.device)
        return self._net(torch.cat([seen, x, waves.sin(), waves.cos()], dim=-1))

    def _flow_loss(self, seen: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """(B,): mean squared error of the velocity from noise to target at random times (2210.02747, eq. 23)."""
        n = len(seen)
        seen, target = (x.repeat_interleave(_FLOW_DRAWS, dim=0) for x in (seen, target))
        t = torch.rand(len(seen), 1, device=seen.device)
        noise = torch.randn_like(target)
        error = self._velocity(seen, (1 - t) * noise + t * target, t) - (target - noise)
        return error.square().mean(dim=1).view(n, _FLOW_DRAWS).mean(dim=1)

    def _integrated(self, seen: torch.Tensor) -> torch.Tensor:
        x = torch.zeros(len(seen), 2 * N_WAYPOINTS, device=seen.device)
        for k in range(_FLOW_STEPS):
            t = torch.full((len(seen), 1), k / _FLOW_STEPS, device=seen.device)
            x = x + self._velocity(seen, x, t) / _FLOW_STEPS
        return x


_N_WAVES = 8  # sines and cosines that say the flow's time
_N_FEATURES = 5
_N_LOOKS, _LOOK_WIDTH = 8, 32  # of the head's own attention; chosen by us


class _Look(nn.Module):
    """Attention of the prompt's last state over the images' tokens: seen (B, S), images (B, N, H) -> (B, looks x width)."""

    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(shape.hidden)
        self.place = nn.Parameter(torch.zeros(shape.image_tokens, shape.hidden))  # which camera, and where in it
        self.query = nn.Linear(shape.hidden + _N_FEATURES, _N_LOOKS * _LOOK_WIDTH)
        self.key = nn.Linear(shape.hidden, _N_LOOKS * _LOOK_WIDTH)
        self.value = nn.Linear(shape.hidden, _N_LOOKS * _LOOK_WIDTH)

    def forward(self, seen: torch.Tensor, images: torch.Tensor, is_image: torch.Tensor) -> torch.Tensor:
        n, count = images.shape[:2]
        places = torch.arange(count, device=images.device).clamp(max=len(self.place) - 1)
        there = self.norm(images.to(self.norm.weight.dtype)) + self.place[places]
        query = self.query(seen.to(there.dtype)).view(n, _N_LOOKS, _LOOK_WIDTH)
        key, value = (layer(there).view(n, count, _N_LOOKS, _LOOK_WIDTH) for layer in (self.key, self.value))
        match = torch.einsum("bhd,bnhd->bhn", query, key).float() / _LOOK_WIDTH**0.5
        share = match.masked_fill(~is_image[:, None], -1e4).softmax(dim=-1) * is_image[:, None]
        return torch.einsum("bhn,bnhd->bhd", share, value.float()).flatten(1)


def read_head(
    head: TrajectoryHead, last_hidden: torch.Tensor, batch: Mapping[str, Any], *, learn: bool = False
) -> torch.Tensor:
    """What the head says of a batch of `collate`: waypoints (samples, 10, 2), or with learn its summed loss.

    last_hidden (rows, L, H): the language model's last hidden states of that batch, packed or padded on either side.
    """
    device = last_hidden.device
    rows, ends = batch["read_at"].to(device).unbind(dim=1)
    images, is_image = image_states(last_hidden, batch) if head.look is not None else (None, None)
    found: torch.Tensor = head(
        last_hidden[rows, ends],
        batch["ego_now"].to(device),
        batch["waypoints"].to(device) if learn else None,
        images=images,
        is_image=is_image,
    )
    return found


def image_states(
    last_hidden: torch.Tensor, batch: Mapping[str, Any], *, count: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """(samples, N, H) and (samples, N): each sample's image tokens, which lie before its prompt's last token.

    count: N, of which what is over is left out; None: as many as the sample with the most has.
    """
    is_image = batch["mm_token_type_ids"].to(last_hidden.device) == 1
    found, before = [], (-1, -1)
    for row, end in batch["read_at"].tolist():
        start = before[1] + 1 if before[0] == row else 0  # packed: the sample before it ends further on, without images
        found.append(last_hidden[row, start : end + 1][is_image[row, start : end + 1]])
        before = row, end
    if count is None:
        count = max([1, *(len(one) for one in found)])
    padded = [pad(one[:count], (0, 0, 0, count - len(one[:count]))) for one in found]
    there = [torch.arange(count, device=last_hidden.device) < len(one) for one in found]
    return torch.stack(padded), torch.stack(there)


def constant_acceleration(ego_now: torch.Tensor) -> torch.Tensor:
    """(B, 10, 2) waypoints of the acceleration and speed of now, straight ahead, standing once it stands; 0 where unknown."""
    now = torch.nan_to_num(ego_now.float())
    times_s = WAYPOINT_INTERVAL_S * torch.arange(1, N_WAYPOINTS + 1, device=now.device)
    speed, accel = now[:, :1], now[:, 2:3]
    stands_after_s = torch.where(accel < 0.0, speed.clamp(min=0.0) / (-accel).clamp(min=1e-3), torch.inf)
    moving_s = torch.minimum(times_s[None], stands_after_s)
    along = speed * moving_s + 0.5 * accel * moving_s**2
    return torch.stack([along, torch.zeros_like(along)], dim=-1)


def attach_head(model: Any, head: TrajectoryHead) -> None:
    """Make it a part of the model, so that whatever trains, shards or saves the model's weights does so with the head's."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    setattr(inner, NAME, head.to(next(inner.parameters()).device))


def head_of(model: Any) -> TrajectoryHead | None:
    """The head attached to a model, wrapped for training or not; None where there is none."""
    found = [module for module in model.modules() if isinstance(module, TrajectoryHead)]
    return found[0] if found else None


def without_head(state_dict: dict[str, Any]) -> dict[str, Any]:
    """The stock model's weights of a state dict."""
    return {key: value for key, value in state_dict.items() if NAME not in key.split(".")}


def head_weights(state_dict: dict[str, Any]) -> dict[str, Any]:
    """The head's own weights of a model's state dict."""
    mark = f"{NAME}."
    return {key.partition(mark)[2]: value for key, value in state_dict.items() if NAME in key.split(".")}


def save_head(head: TrajectoryHead, folder: str | Path, weights: dict[str, Any] | None = None) -> None:
    """Write MODEL/trajectory_head/. weights: the head's, where it holds none itself (ZeRO-3)."""
    from safetensors.torch import save_file

    out = Path(folder) / FOLDER
    out.mkdir(parents=True, exist_ok=True)
    given = head.state_dict() if weights is None else weights
    save_file({key: value.detach().cpu().contiguous() for key, value in given.items()}, out / WEIGHTS)
    write_atomically(out / SHAPE, json.dumps(to_plain(head.shape), indent=2) + "\n")


def load_head(folder: str | Path) -> TrajectoryHead | None:
    """The head in a model's folder, in eval mode on the CPU in fp32; None where there is none.

    ValueError for one that is not what `save_head` wrote: it may come from a stranger.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(folder) / FOLDER
    if not (path / SHAPE).is_file():
        return None
    try:
        written = json.loads((path / SHAPE).read_text(encoding="utf-8"))
        shape = HeadShape(
            kind=str(written["kind"]),
            hidden=int(written["hidden"]),
            width=int(written["width"]),
            image_tokens=int(written.get("image_tokens", 0)),
        )
        weights = {key: value.float() for key, value in load_file(path / WEIGHTS).items()}
        with torch.device("meta"):  # its claimed widths take no memory before they are known to be the weights'
            head = TrajectoryHead(shape)
        head.load_state_dict(weights, assign=True)
    except (KeyError, TypeError, ValueError, OSError, RuntimeError, SafetensorError) as error:
        first = str(error).strip().partition("\n")[0]
        raise ValueError(f"{path} is no trajectory head that can be read: {first}") from None
    return head.eval()


def _features(ego_now: torch.Tensor) -> torch.Tensor:
    """(B, 5): the ego's motion in sizes near 1, and whether it is known."""
    known = torch.isfinite(ego_now).all(dim=-1, keepdim=True)
    scaled = torch.nan_to_num(ego_now) / torch.tensor(_EGO_SCALE, device=ego_now.device)
    return torch.cat([scaled, known.float()], dim=-1)


def _scale_m(device: torch.device) -> torch.Tensor:
    times_s = WAYPOINT_INTERVAL_S * torch.arange(1, N_WAYPOINTS + 1, device=device)
    return times_s[:, None] * torch.tensor([_SCALE_ALONG_M, _SCALE_ACROSS_M], device=device)
