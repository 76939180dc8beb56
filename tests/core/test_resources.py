"""Resources: language models and prompts, in immutable versions."""

import pytest

from agl.errors import ConfigError, NotFoundError
from agl.resources import LLM, PromptTemplate, Resources

OWN = LLM(endpoint="http://127.0.0.1:1/r/ro/at/v1", model="m")


def test_in_train_mode_the_sampling_parameters_hold():
    llm = LLM(endpoint="e", model="m", sampling_parameters={"temperature": 1.0, "top_p": 0.9}, eval_parameters={"temperature": 0.0})
    assert llm.parameters("train") == {"temperature": 1.0, "top_p": 0.9}


@pytest.mark.parametrize("mode", ["val", "test"])
def test_in_the_other_modes_the_eval_parameters_replace_them(mode):
    llm = LLM(endpoint="e", model="m", sampling_parameters={"temperature": 1.0, "top_p": 0.9}, eval_parameters={"temperature": 0.0})
    assert llm.parameters(mode) == {"temperature": 0.0, "top_p": 0.9}


def test_the_base_url_of_an_attempt_is_its_own():
    assert OWN.get_base_url() == OWN.get_base_url("ro", "at") == OWN.base_url


def test_a_base_url_for_another_attempt_is_refused():
    with pytest.raises(ConfigError, match="another attempt"):
        OWN.get_base_url("ro", "other")


def test_a_base_url_takes_both_ids_or_none():
    with pytest.raises(ConfigError, match="both"):
        OWN.get_base_url("ro")


def test_a_prompt_template_is_filled_in():
    assert PromptTemplate(template="Answer {question} in {language}.").format(question="why", language="Latin") == "Answer why in Latin."


def test_a_prompt_template_names_what_is_missing():
    with pytest.raises(ConfigError, match=r"needs \['question'\], given were \['language'\]"):
        PromptTemplate(template="{question} {language}").format(language="Latin")


def test_a_version_behaves_as_a_mapping():
    version = Resources(version=1, values={"main_llm": OWN, "prompt": PromptTemplate(template="x")})
    assert dict(version) == version.values
    assert ("prompt" in version, len(version), version.get("none", 3)) == (True, 2, 3)
    assert version.llms() == {"main_llm": OWN}


def test_an_unknown_resource_is_named_with_those_that_exist():
    with pytest.raises(NotFoundError, match=r"no resource named `judge`; this version has \['main_llm'\]"):
        Resources(version=1, values={"main_llm": OWN})["judge"]
