"""The tracker `mlflow` with a real local database, read by MLflow's client."""

import shutil

import pytest
from mlflow.tracking import MlflowClient

from agl.builtin.mlflow import MLflow
from agl.testing.trackers import Kept, TrackerConformance

# MLflow's own use of SQLAlchemy.
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")


@pytest.fixture(scope="session")
def empty(tmp_path_factory):
    """A database of MLflow without a run; to make one takes seconds."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


def read(uri, run_id, experiment="agl"):
    """What MLflow holds of a run."""
    client = MlflowClient(uri)
    (found,) = client.search_runs([client.get_experiment_by_name(experiment).experiment_id], f"tags.`agl.run` = '{run_id}'")
    metrics = {}
    for name in found.data.metrics:
        history = sorted(client.get_metric_history(found.info.run_id, name), key=lambda metric: metric.timestamp)
        metrics[name] = {metric.step: metric.value for metric in history}
    config = {**found.data.params, "seed": found.data.tags["agl.seed"], "name": found.info.run_name}
    return Kept(metrics=metrics, config=config, status=found.info.status)


class TestMLflow(TrackerConformance):
    tracker = MLflow
    package = "mlflow"
    offline = {"MLFLOW_DISABLE_TELEMETRY": "true"}

    @pytest.fixture(autouse=True)
    def _database(self, empty):
        type(self).database = empty

    def make_tracker(self, folder):
        if not (folder / "mlflow.db").exists():
            shutil.copy(self.database, folder)
        return MLflow(f"sqlite:///{folder / 'mlflow.db'}")

    def read(self, folder, run):
        return read(f"sqlite:///{folder / 'mlflow.db'}", run.run_id)


def test_a_run_is_in_a_database_of_its_own(fit, tmp_path):
    result = fit("mlflow")
    kept = read(f"sqlite:///{result.directory / 'mlflow.db'}", result.run_id)
    assert kept.metrics["reward"] == {1: 0.0, 2: 0.125, 3: 0.25, 4: 0.375}
    assert kept.metrics["val/reward"] == {0: 0.5, 4: 0.5}
    assert kept.metrics["val/reward_high"][4] == pytest.approx(0.9055, abs=1e-4)
    assert not {"note", "lost"} & set(kept.metrics)
    assert kept.config["algorithm.schedule.warmup"] == "2"
    assert (kept.config["seed"], kept.config["name"], kept.status) == ("4", result.run_id, "FINISHED")
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("agl.sqlite")) == ["home", "runs"]


def test_a_run_that_goes_on_is_the_same_run_of_mlflow(broken_and_resumed, empty, tmp_path):
    uri = f"sqlite:///{shutil.copy(empty, tmp_path)}"
    result = broken_and_resumed(f"mlflow={uri}")
    kept = read(uri, result.run_id)
    assert kept.metrics["reward"] == {1: 0.0, 2: 0.125, 3: 0.25, 4: 0.375}
    assert kept.status == "FINISHED"


def test_experiment_name_and_tags_are_given(fit, empty, tmp_path, monkeypatch):
    uri = f"sqlite:///{shutil.copy(empty, tmp_path)}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    result = fit(MLflow(experiment="sql agent", name="first try", tags={"team": "blue"}))
    assert read(uri, result.run_id, "sql agent").config["name"] == "first try"
    (found,) = MlflowClient(uri).search_runs([MlflowClient(uri).get_experiment_by_name("sql agent").experiment_id], "tags.team = 'blue'")
    assert found.data.tags["agl.run"] == result.run_id
