"""APO on a crew of two agents."""

import crewai
import pytest
from apo_checks import CHECKER, WRITER, ApoChecks


class TestCrew(ApoChecks):
    prompt = "crew/Writer.backstory"

    @pytest.fixture(autouse=True)
    def _model(self, model):
        self.model = model

    def make(self):
        writer, checker = (
            crewai.Agent(role=role, goal="Work", backstory=text, llm=self.model(self.home))
            for role, text in (("Writer", WRITER), ("Checker", CHECKER))
        )
        write = crewai.Task(name="write", description="Write about {word}", expected_output="A line", agent=writer)
        check = crewai.Task(name="check", description="Check it", expected_output="A word", agent=checker)
        return crewai.Crew(agents=[writer, checker], tasks=[write, check])

    def input(self, task):
        return {"word": task["word"]}

    def written(self, output):
        return output.tasks_output[0].raw
