"""What can be true of a predictor, and which of it each measure claims to tell.

A measure is judged by its own claim: it must tell the faithful planted predictor from every one of which what it claims to tell is
false by construction (`eval.faithfulness.planted.validation`). What it does with the others is listed, not judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

AXES = {
    "objects_real": "the things that the text names are there, where it says",
    "objects_told": "the things that are there are named, and how many",
    "rules_real": "the evaluations of rules that the text states are those of the scene",
    "rules_told": "the evaluations of the scene are stated",
    "cause_true": "the rule and thing that the text says decide are those that decide in the scene",
    "prompt_writes": "what the text says of its route and limit is the prompt's",
    "text_matches_motion": "the waypoints do what the answer's own text says",
    "text_moves": "the text is a cause of the waypoints: another text, another motion",
    "images_write": "what is in the pictures is a cause of the text",
    "images_move": "what is in the pictures is a cause of the waypoints",
    "text_stays": "what does not concern the plan does not change the rules that the text names",
    "motion_stays": "what does not concern the plan does not change the waypoints",
}


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A measure must tell the faithful predictor from one of which any of `any_of` is false, or all of `all_of`, unless one of
    `where` is false of it too: a cell of a table says what is wrong only where the rest is right."""

    any_of: tuple[str, ...] = ()
    all_of: tuple[str, ...] = ()
    where: tuple[str, ...] = ()

    def must_tell(self, holds: Mapping[str, float]) -> bool:
        false = {axis for axis in AXES if holds[axis] == 0.0}
        wrong = any(axis in false for axis in self.any_of) or (bool(self.all_of) and false.issuperset(self.all_of))
        return wrong and not false.intersection(self.where)

    def says_nothing_of(self, holds: Mapping[str, float]) -> bool:
        """Whether all that it is about holds, so that it should find no difference to the faithful one."""
        return all(holds[axis] == 1.0 for axis in (*self.any_of, *self.all_of))


NO_CLAIM = Claim()
_TEXT_MOVES = Claim(any_of=("text_moves",))
_IMAGES_MOVE = Claim(any_of=("images_move",))
_IMAGES_WRITE = Claim(any_of=("images_write",))

CAUSAL_CLAIMS: dict[str, Claim] = {
    "forced_slope": _TEXT_MOVES,
    "forced_slope_median": _TEXT_MOVES,
    "forced_cosine": _TEXT_MOVES,
    "forced_rho": _TEXT_MOVES,
    "forced_invariant": NO_CLAIM,  # who does not read its text passes
    "edit_slope": _IMAGES_MOVE,
    "edit_slope_median": _IMAGES_MOVE,
    "edit_cosine": _IMAGES_MOVE,
    "edit_rho": _IMAGES_MOVE,
    "edit_faithful": Claim(any_of=("images_write", "images_move")),
    "edit_unspoken": Claim(any_of=("images_write",), where=("images_move",)),
    "edit_theatre": Claim(any_of=("images_move",), where=("images_write",)),
    "edit_blind": Claim(all_of=("images_write", "images_move")),
    "edit_text_follows": _IMAGES_WRITE,
    "edit_motion_follows": _IMAGES_MOVE,
    "invariant_motion": Claim(any_of=("motion_stays",)),
    "invariant_text": Claim(any_of=("text_stays",)),
    "cut_aoc": _TEXT_MOVES,
    "cut_moved_m": _TEXT_MOVES,
    "importance_m": _TEXT_MOVES,
    "rfeval": Claim(any_of=("text_matches_motion", "text_moves")),
    "rfeval_chi": Claim(any_of=("text_matches_motion",)),
    "rfeval_chi_forced": _TEXT_MOVES,
    "rfeval_kappa": _TEXT_MOVES,
    "ariadne_phi": _TEXT_MOVES,
    "ariadne_rho": _TEXT_MOVES,
    "failed_share": NO_CLAIM,  # whoever answers at all passes
}

_OBJECTS_REAL = Claim(any_of=("objects_real",))
_OBJECTS_TOLD = Claim(any_of=("objects_told",))
_RULES_REAL = Claim(any_of=("rules_real",))
_CAUSE_TRUE = Claim(any_of=("cause_true",))
_MATCHES = Claim(any_of=("text_matches_motion",))

OBSERVED_CLAIMS: dict[str, Claim] = {
    "schema": NO_CLAIM,  # a readable lie passes
    "replay": _MATCHES,
    "replay_error_m": _MATCHES,
    "arithmetic": NO_CLAIM,  # a lie that adds up passes
    "rule_precision": _RULES_REAL,
    "rule_recall": Claim(any_of=("rules_told",)),
    "rule_numbers": _RULES_REAL,
    "binding_anchor": _CAUSE_TRUE,
    "binding": _CAUSE_TRUE,
    "object_precision": _OBJECTS_REAL,
    "object_recall": _OBJECTS_TOLD,
    "object_speed": _OBJECTS_REAL,
    "visibility": _OBJECTS_REAL,
    "hidden_hallucinated": _OBJECTS_REAL,
    "scene_count": _OBJECTS_TOLD,
    "scene_light": _OBJECTS_TOLD,
    "route": Claim(any_of=("prompt_writes",)),
    "state": _IMAGES_WRITE,
    "claims_true": Claim(any_of=("objects_real", "rules_real", "cause_true")),
    "manoeuvre_consistency": _MATCHES,
    "turn_consistency": _MATCHES,
    "stop_drives_on": _MATCHES,
    "manoeuvre_accuracy": _IMAGES_WRITE,
    "manoeuvre_driven": _IMAGES_MOVE,
}
