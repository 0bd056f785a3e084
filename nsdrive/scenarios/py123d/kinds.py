"""What py123d's labels are in nuPlan's words: every class of every data set that it reads, by the data set's own label.

Following nuPlan's descriptions: bicycles include motorcycles, pedestrians include strollers and wheelchairs, generic
objects include animals, debris and fixed poles. None: no obstacle on the road (a sign's or a light's face, a lamp, the ego
itself). A label that a later version may add follows the common label that py123d itself gives it.
"""

from __future__ import annotations

from collections.abc import Mapping

from nsdrive.scenarios.argoverse2 import sensor
from nsdrive.scenarios.py123d.files import py123d

# py123d's DefaultBoxDetectionLabel
COMMON: Mapping[str, str | None] = {
    "EGO": None,
    "VEHICLE": "vehicle",
    "TRAIN": "vehicle",
    "TWO_WHEELER": "bicycle",
    "PERSON": "pedestrian",
    "ANIMAL": "generic_object",
    "TRAFFIC_SIGN": None,
    "TRAFFIC_CONE": "traffic_cone",
    "TRAFFIC_LIGHT": None,
    "BARRIER": "barrier",
    "GENERIC_OBJECT": "generic_object",
    "OTHER": "generic_object",
}
# Where a data set's label says more than its common one: label class -> label -> kind
FINER: Mapping[str, Mapping[str, str | None]] = {
    "AV2SensorBoxDetectionLabel": sensor.KINDS,
    "NuPlanBoxDetectionLabel": {"CZONE_SIGN": "czone_sign"},
    "KITTI360BoxDetectionLabel": {"RIDER": "bicycle", "LAMP": None},
    "PandasetBoxDetectionLabel": {"CONSTRUCTION_SIGNS": "czone_sign", "PERSONAL_MOBILITY_DEVICE": "pedestrian"},
    "PhysicalAIAVBoxDetectionLabel": {"STROLLER": "pedestrian"},
    "NureasoningBoxDetectionLabel": {"OTHER_TEMPORARY_TRAFFICSIGN": "czone_sign", "VEHICLE_DOOR": "generic_object"},
}
# Data sets that box a rider and the mount under him apart: label class -> the riders, the mounts
APART: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "AV2SensorBoxDetectionLabel": (sensor.RIDERS, sensor.MOUNTS),
    "KITTI360BoxDetectionLabel": (("RIDER",), ("BICYCLE", "MOTORCYCLE")),
}


def label_names(qualified_name: object) -> dict[int, str]:
    """Number -> name of the label class that a log's boxes use, looked up by name among those that py123d brings.

    The class's module is not imported by its name: a file must not choose what is run. ValueError for any other.
    """
    py123d("parser.registry")  # registers the classes
    known = py123d("datatypes").BOX_DETECTION_LABEL_REGISTRY
    name = str(qualified_name).rpartition(".")[2]
    if name not in known:
        raise ValueError(f"its boxes are labelled by {str(qualified_name)[:80]!r}, which py123d does not bring")
    return {int(label.value): str(label.name) for label in known[name]}


def kind_of(qualified_name: object, label: str) -> str | None:
    """The kind of a label, one of OBJECT_KINDS, None where it is no obstacle."""
    name = str(qualified_name).rpartition(".")[2]
    finer = FINER.get(name, {})
    if label in finer:
        return finer[label]
    common = py123d("datatypes").BOX_DETECTION_LABEL_REGISTRY[name][label].to_default()
    return COMMON.get(common.name, "generic_object")
