"""What AGL promises its users of an algorithm, checked by its own kit."""

import pytest
from agl.testing.algorithms import AlgorithmConformance

from agl_best_of_n.algorithm import BestOfN


class TestBestOfN(AlgorithmConformance):
    @pytest.fixture(autouse=True)
    def _model(self, model_folder):
        self.model_folder = model_folder

    def make_algorithm(self):
        return BestOfN(self.model_folder, steps=3, batch_size=2, group_size=4, lr=1e-2, max_tokens=4, checkpoint_every=1)
