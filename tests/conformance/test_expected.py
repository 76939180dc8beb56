"""The mechanism that all kits share: named checks, failures that are expected, no overrides."""

import asyncio

import pytest

from agl.testing.expected import Conformance, ConformanceError, check, checks_of, failing, require

pytest_plugins = ["pytester"]


class Kit(Conformance):
    """A kit of two checks: `value` must be positive, and even."""

    value = 2

    def test_it_is_positive(self):
        require(self.value > 0, f"{self.value} is not positive")

    async def test_it_is_even(self):
        await asyncio.sleep(0)
        require(self.value % 2 == 0, f"{self.value} is odd")


class Odd(Kit):
    value = 3


class KnownToBeOdd(Odd):
    expected_failures = {"test_it_is_even": "three is odd"}


def test_a_kit_names_its_checks_in_the_order_they_are_written():
    assert checks_of(Odd) == ["test_it_is_positive", "test_it_is_even"]


def test_a_driver_that_keeps_the_contract_fails_no_check():
    assert failing(Kit) == {}


def test_a_driver_that_breaks_it_is_named_by_the_check():
    assert failing(Odd) == {"test_it_is_even": "ConformanceError: 3 is odd"}
    with pytest.raises(ConformanceError, match=r"1 checks fail:\n- test_it_is_even: ConformanceError: 3 is odd"):
        check(Odd)


def test_single_checks_can_be_run_and_an_unknown_name_is_an_error():
    assert failing(Odd, only=("test_it_is_positive",)) == {}
    with pytest.raises(LookupError, match=r"Odd has no check \['test_nothing'\]; it has \['test_it_is_positive'"):
        failing(Odd, only=("test_nothing",))


def test_a_failure_with_a_reason_is_expected():
    assert failing(KnownToBeOdd) == {}


def test_an_expected_failure_that_passes_is_a_failure():
    class Fixed(Odd):
        value = 4
        expected_failures = {"test_it_is_even": "three is odd"}

    assert "is expected to fail (three is odd), yet it passes" in failing(Fixed)["test_it_is_even"]


def test_a_subclass_that_expects_nothing_fails_again():
    class NotKnown(KnownToBeOdd):
        expected_failures = {}

    assert list(failing(NotKnown)) == ["test_it_is_even"]


@pytest.mark.parametrize("reason", ["", "  ", None])
def test_an_expected_failure_without_a_reason_is_refused(reason):
    with pytest.raises(TypeError, match="expects `test_it_is_even` to fail without a reason"):
        type("NoReason", (Odd,), {"expected_failures": {"test_it_is_even": reason}})


def test_an_expected_failure_of_no_check_is_refused():
    with pytest.raises(TypeError, match=r"has no check `test_it_is_red` .* it has \['test_it_is_positive'"):
        type("Wrong", (Odd,), {"expected_failures": {"test_it_is_red": "why"}})


def test_a_check_cannot_be_overridden():
    with pytest.raises(TypeError, match="overrides the check `test_it_is_even` of Kit"):
        type("Cheat", (Odd,), {"test_it_is_even": lambda self: None})


def test_pytest_counts_an_expected_failure_as_xfailed_and_a_fixed_one_as_failed(pytester):
    pytester.makepyfile(
        """
        import pytest
        from agl.testing.expected import Conformance, require

        @pytest.fixture
        def two():
            return 2

        class Kit(Conformance):
            value = 3
            def test_even(self, two):
                require(self.value % two == 0, "odd")
            def test_skipped(self):
                pytest.skip("not here")

        class TestOdd(Kit):
            expected_failures = {"test_even": "three", "test_skipped": "is not run"}

        class TestFixed(Kit):
            value = 4
            expected_failures = {"test_even": "three"}
        """
    )
    outcome = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-p", "no:asyncio", "-rxf")
    outcome.assert_outcomes(xfailed=1, failed=1, skipped=2)
    outcome.stdout.fnmatch_lines(
        ["`test_even` is expected to fail (three), yet it passes; *", "XFAIL *TestOdd::test_even - three", "FAILED *TestFixed::test_even*"]
    )
