"""The tree finds for every prompt what a search through all earlier calls finds."""

from hypothesis import given, settings
from hypothesis import strategies as st

from agl.calltree import TOKEN, CallTree, packed

_ids = st.lists(st.integers(0, 1), max_size=4).map(tuple)


@st.composite
def calls(draw):
    """(prompt, response, role) of calls whose prompts begin with earlier paths, whole or cut; few tokens, so that they meet by chance."""
    paths, made = [()], []
    for _ in range(draw(st.integers(0, 12))):
        path = draw(st.sampled_from(paths))
        prompt = path[: draw(st.integers(0, len(path)))] + draw(_ids) if draw(st.booleans()) else path + draw(_ids)
        made.append((prompt, draw(_ids), draw(st.sampled_from("ab"))))
        paths.append(prompt + made[-1][1])
    return made


@settings(deadline=None, derandomize=True, max_examples=200)
@given(calls())
def test_the_longest_path_that_a_prompt_begins_with_is_found_and_how_far_it_is_known(made):
    tree, known = CallTree(), []
    for prompt, response, role in made:
        place = tree.find(packed(prompt), role)
        fits = [number for number, path in enumerate(known) if prompt[: len(path)] == path]
        longest = max((len(known[number]) for number in fits), default=None)
        expected = [number for number in fits if len(known[number]) == longest]
        assert next((node.calls for node in place.node.upwards() if node.calls), []) == expected
        assert place.matched == TOKEN * max((_common(prompt, path) for path in known), default=0)
        node = tree.put(place, packed(prompt), packed(response), role)
        assert b"".join(reversed([above.edge for above in node.upwards()])) == packed(prompt + response)
        known.append(prompt + response)


def test_a_conversation_is_followed_from_where_its_role_was_last(monkeypatch):
    import agl.calltree as module

    steps = []
    follow = module._follow
    monkeypatch.setattr(module, "_follow", lambda path, node, at: steps.append(len(path) - at) or follow(path, node, at))
    tree, ids = CallTree(), [1]
    for _ in range(200):
        place = tree.find(packed(ids), "writer")
        tree.put(place, packed(ids), packed([2, 3]), "writer")
        ids += [2, 3, 4]
    assert max(steps) <= 4 * TOKEN  # not the whole history: what is new


def _common(one, other):
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
