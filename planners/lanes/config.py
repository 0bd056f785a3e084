"""All numbers of `planners.pdm_lanes`: its own here, the others where they are used."""

from __future__ import annotations

from dataclasses import dataclass

from planners.lanes.conflicts import ConflictParameters
from planners.lanes.mobil import MobilParameters
from planners.lanes.oncoming import OncomingParameters
from planners.lanes.passing import PassingParameters
from planners.pdm.config import PdmParameters
from planners.road_rules import RoadParameters


@dataclass(frozen=True, kw_only=True)
class PdmLanesConfig(
    PdmParameters, RoadParameters, MobilParameters, OncomingParameters, PassingParameters, ConflictParameters
):
    """Those that it shares with PDM-Closed and IDM keep their values there, but for the first eight."""

    radius_m: float = 100.0  # chosen by us: 4 s at 90 km/h; PDM-Closed's 50 m end before a faster ego's road does
    accel_max_mps2: float = 1.75  # chosen by us: 1.5 in PDM-Closed, comfortable up to 2.4 in nuPlan
    reference: bool = False  # PDM-Closed's quirks are mended
    clamp_needed_gap: bool = True  # else the ego brakes behind a lead that speeds away
    speed_fractions: tuple[float, ...] = (1.0, 0.8, 0.6, 0.4, 0.2, 0.0)  # PDM-Closed's, fastest first, and to stop
    yield_margin_s: float = 0.5  # chosen by us: with the time to clear, some 4 to 5 s in all (see `lanes.conflicts`)
    emergency_decel_mps2: float = 6.0  # chosen by us: about what dry asphalt and an attentive driver give
    emergency_speed_mps: float = 60.0  # chosen by us: it may have to brake hard at any speed
    side_fractions: tuple[float, ...] = (1.0, 0.7, 0.4)  # chosen by us: of paths other than the lane's middle

    path_s: float = 8.0  # chosen by us: paths are as long as is driven in this time at the limit
    keep_s: float = 2.5  # chosen by us: in this time the ego is back in the middle of its lane
    change_lateral_mps2: float = 0.9  # chosen by us: a lane change of 3.5 m takes 4.7 s
    pass_lateral_mps2: float = 1.2  # chosen by us: round something one steers a little more firmly
    settle_s: float = 4.0  # chosen by us: so long after a lane change another one needs a stronger reason ...
    settle_mps2: float = 1.5  # ... by this much
    lost_m: float = 5.0  # chosen by us: an ego this far from its lane's middle looks for another lane

    bend_ttc_s: float = 1.5  # chosen by us: a time to collision with someone in a bend counts only so soon
    off_road_m: float = 0.25  # chosen by us: so far a corner may leave the road, 0.3 in nuPlan's metric
    # nuPlan's driving direction: 2 m against the traffic within a second are half a fault, 6 m a whole one.
    against_mps: float = 1.8  # chosen by us: so the car's middle crosses the line to the oncoming lane at a crawl
    crawl_near_m: float = 0.12  # chosen by us: it crawls where its path is so near to that line ...
    crawl_far_m: float = 0.35  # ... or, as a second way, this near: the tracker may bring it so much further aside
    inside_m: float = 0.12  # chosen by us: a path whose middle stays this far within the lane is within it
    against_patience_s: float = 10.0  # chosen by us: who has waited so long for a way round ...
    against_impatient_mps: float = 5.5  # ... takes half a fault
    hold_back_m: float = 2.5  # chosen by us: behind what it waits to go round it keeps room to steer out, and this more
    hold_unsure_m: float = 5.0  # chosen by us: and this much where it is not sure yet that it has to go round
    hold_decel_mps2: float = 2.2  # chosen by us: for that it brakes no harder
    hold_end_m: float = 14.0  # chosen by us: so far before its lane's end the ego waits for a gap beside it
    make_room_mps2: float = 1.0  # chosen by us: for a change that the route or a blocked lane makes worth this much ...
    make_room_mps: float = 2.0  # ... it drives this much slower than whoever is in its way
    worth_waiting_s: float = 25.0  # chosen by us: what takes longer to go round is not waited for at a distance

    straight_brake_mps: float = 5.0  # as PDM-Closed: at this speed or less it brakes straight on, whatever its path
    bicycle_wider_m: float = 1.0  # chosen by us: a cyclist is this much wider than its box, for paths and scores
    moving_longer_m: float = 0.6  # chosen by us: what moves is scored as a little longer than it is, for it may brake
    moving_wider_m: float = 0.2  # chosen by us: and wider, for it may sway
    aside_per_m: float = 0.25  # chosen by us: what the lane term loses per metre beside the middle of the lane
    lane_scale_mps2: float = 3.0  # chosen by us: a lane this much worse in MOBIL's incentive is worth nothing
