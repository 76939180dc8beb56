"""Makes an environment with the packages of all dashboards, for the tests of their trackers: `python tools/setup_trackers.py FOLDER`."""

from __future__ import annotations

from environments import Environment, editable, groups, make_named

PACKAGES = ("core[report,testing,tensorboard,mlflow,wandb]",)


def install(environment: Environment) -> None:
    """The core with its trackers' packages; TensorBoard itself reads what tensorboardX writes."""
    environment.install(*editable(PACKAGES), "tensorboard>=2.19", *groups("test-plugins"))


if __name__ == "__main__":
    make_named(__doc__, install, PACKAGES, __file__)
