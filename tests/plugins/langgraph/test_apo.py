"""APO on a LangGraph graph of two of LangChain's agents."""

import pytest
from apo_checks import CHECKER, WRITER, ApoChecks
from langchain.agents import create_agent
from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph


class TestGraph(ApoChecks):
    prompt = "writer.system_prompt"

    @pytest.fixture(autouse=True)
    def _model(self, chat_model):
        self.model = chat_model

    def make(self):
        clients = {"http_client": self.model.http_client, "http_async_client": self.model.http_async_client}
        model = ChatOpenAI(model="users-model", base_url=self.home, max_retries=0, **clients)
        graph = StateGraph(MessagesState)
        graph.add_node("writer", create_agent(model, [], system_prompt=WRITER, name="writer"))
        graph.add_node("checker", create_agent(model, [], system_prompt=CHECKER, name="checker"))
        graph.add_edge(START, "writer")
        graph.add_edge("writer", "checker")
        return graph.compile()

    def input(self, task):
        return {"messages": [("user", task["word"])]}

    def written(self, output):
        return output["messages"][1].content
