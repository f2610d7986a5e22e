"""Self-supervised training of the encoder: views agree, noise goes, dimensions differ; its health is measured."""

from cellfm_nb.pretrain.crops import Crops, neighbours
from cellfm_nb.pretrain.engine import pretrain, write_pretrained
from cellfm_nb.pretrain.health import alarms, rankme
from cellfm_nb.pretrain.masks import block_mask, make_masks
from cellfm_nb.pretrain.settings import PretrainSettings
from cellfm_nb.pretrain.student_teacher import StudentTeacher
from cellfm_nb.pretrain.views import Views, make_views, shared_fraction

__all__ = [
    "Crops", "PretrainSettings", "StudentTeacher", "Views", "alarms", "block_mask", "make_masks", "make_views",
    "neighbours", "pretrain", "rankme", "shared_fraction", "write_pretrained",
]
