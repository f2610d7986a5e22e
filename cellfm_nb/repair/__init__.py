"""Repair: find singular defects of an encoder, repair them, and leave a healthy encoder alone (SINDER in 3D)."""

from cellfm_nb.repair.detect import anomaly_map, detect, trace
from cellfm_nb.repair.directions import (
    aligned,
    cumulative_directions,
    leading_direction,
    own_direction,
    published_flag,
)
from cellfm_nb.repair.engine import repair
from cellfm_nb.repair.linearise import activation_slope, cumulative, linearise
from cellfm_nb.repair.neighbours import GAUSSIAN_3D, SQUARE_2D, interior, neighbour_loss, neighbour_target
from cellfm_nb.repair.plant import compare, plant_defect
from cellfm_nb.repair.registers import outlier_tokens, register_neurons, test_time_registers
from cellfm_nb.repair.reparametrise import fold_back, reparametrise, trainable_share
from cellfm_nb.repair.spectrum import clip_spectrum, gaps
from cellfm_nb.repair.train import PUBLISHED, RELATIVE, Recipe, train_singular_values
from cellfm_nb.repair.ways import WAYS, zero_registers
from cellfm_nb.repair.write import write_repair

__all__ = ["GAUSSIAN_3D", "PUBLISHED", "RELATIVE", "SQUARE_2D", "WAYS", "Recipe", "activation_slope", "aligned",
           "anomaly_map", "clip_spectrum", "compare", "cumulative", "cumulative_directions", "detect", "fold_back",
           "gaps", "interior", "leading_direction", "linearise", "neighbour_loss", "neighbour_target",
           "outlier_tokens", "own_direction", "plant_defect", "published_flag", "register_neurons",
           "repair", "reparametrise", "test_time_registers", "trace", "train_singular_values", "trainable_share",
           "write_repair", "zero_registers"]
