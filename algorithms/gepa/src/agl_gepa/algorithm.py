"""GEPA: APO with the search of the `gepa` package in place of its own."""

from __future__ import annotations

from agl_apo.algorithm import APO
from agl_gepa.options import GepaSettings


class GEPA(APO):
    """Genetic-Pareto prompt evolution (Agrawal et al., arXiv 2507.19457) by the `gepa` package.

    gepa chooses parents from the front of candidates that are best on some validation task, and accepts a child that is strictly better
    on a few training tasks. AGL runs the rollouts, writes the new texts, and compares what gepa picks with the seed on fresh rollouts: the seed is returned
    unless the winner is better with the asked probability.

    Args:
        async_openai_client: as for `agl.APO`.
        options: see `agl_apo.options.SharedOptions`, `agl_apo.model.ModelOptions`, `GepaOptions` and `agl_apo.search.GuardOptions`.

    Raises:
        ConfigError: an unknown option, or a value that cannot work.
    """

    name = "gepa"
    settings_type = GepaSettings
