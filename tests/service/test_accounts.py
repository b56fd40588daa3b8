"""Keys, rights, budgets and rates."""

import subprocess
import sys

import pytest

from crossbreed.errors import InputError
from crossbreed.runs.spec.serve import TokenConfig
from crossbreed.service.accounts import Account, Bucket, accounts_of
from crossbreed.service.refusals import Refusal

KEYS = {"ALICE_KEY": "a" * 24, "BOB_KEY": "b" * 24}


def token(name: str, **settings: object) -> TokenConfig:
    return TokenConfig.model_validate({"key_env": name, "rights": ["answers"], **settings})


def test_a_key_finds_its_client_and_no_other() -> None:
    accounts = accounts_of({"alice": token("ALICE_KEY"), "bob": token("BOB_KEY")}, KEYS)
    assert accounts.of("Bearer " + "a" * 24).name == "alice"
    assert accounts.of("bearer  " + "b" * 24).name == "bob"
    for header in (None, "", "Bearer", "Bearer ", "Bearer " + "a" * 23, "Basic " + "a" * 24, "Bearer \udcff", "a" * 24):
        with pytest.raises(Refusal) as refusal:
            accounts.of(header)
        assert refusal.value.status == 401
    assert "a" * 24 not in repr(accounts)


def test_keys_come_from_the_environment_and_are_secret() -> None:
    for environment, word in (({}, "nothing"), ({"ALICE_KEY": "short"}, "5 characters")):
        with pytest.raises(InputError, match=word) as error:
            accounts_of({"alice": token("ALICE_KEY")}, environment)
        assert "export ALICE_KEY=" in error.value.fix
    with pytest.raises(InputError, match="same key"):
        accounts_of({"alice": token("ALICE_KEY"), "bob": token("ALICE_KEY")}, KEYS)
    with pytest.raises(InputError, match="2 mistakes") as error:
        accounts_of({"alice": token("ALICE_KEY"), "bob": token("BOB_KEY")}, {})
    assert "export ALICE_KEY=" in str(error.value)
    assert "export BOB_KEY=" in str(error.value), "all at once"
    assert accounts_of({}, {}).of(None).name == "anyone"


def test_budgets_are_spent_by_what_was_used() -> None:
    account = Account(name="alice", rights=("answers",), merges=1, requests=2, tokens=100)
    with account.spending(80) as spent:
        assert account.tokens == 20, "set aside while it is not known"
        with pytest.raises(Refusal, match="20 left"), account.spending(21):
            pass
        spent.tokens = 30
    assert account.tokens == 70
    with pytest.raises(ZeroDivisionError), account.spending(70):
        raise ZeroDivisionError
    assert account.tokens == 70, "what failed costs nothing"
    with account.spending(10) as spent:
        spent.tokens = 100
    assert account.tokens == -30, "what was used is spent, be it more"
    with pytest.raises(Refusal, match=": 0 left"), account.spending(0):
        pass


def test_a_merge_that_the_engine_did_not_come_to_costs_nothing() -> None:
    account = Account(name="alice", rights=("answers",), merges=2)
    for code, left in (("overloaded", 2), ("engine_error", 2), ("invalid_weights", 1)):
        with pytest.raises(Refusal), account.merging():
            raise Refusal(503, "no", code=code)
        assert account.merges == left
    with account.merging():
        pass
    with pytest.raises(Refusal) as refusal, account.merging():
        pass
    assert (refusal.value.status, refusal.value.code) == (403, "budget_spent")


def test_rates_say_how_long_to_wait() -> None:
    now = [0.0]
    bucket = Bucket(60, clock=lambda: now[0])
    account = Account(name="alice", rights=(), request_rate=bucket)
    for _ in range(60):
        account.count_request()
    with pytest.raises(Refusal) as refusal:
        account.count_request()
    assert (refusal.value.status, refusal.value.retry_after_s) == (429, 1.0)
    assert int(refusal.value.response().headers["Retry-After"]) >= 1
    now[0] = 1.0
    account.count_request()
    now[0] = 61.0
    bucket.owe(60)
    assert bucket.wait_s(30) == 30.0
    now[0] = 121.0
    assert bucket.wait_s(1000) == 0.0, "more than a minute's worth waits for a full bucket, not for ever"


def test_a_rate_counts_what_was_used() -> None:
    """A request that was told to come back, or that was answered shortly, keeps nobody waiting."""
    account = Account(name="alice", rights=("answers",), token_rate=Bucket(100, clock=lambda: 0.0))
    for _ in range(5):
        with pytest.raises(Refusal, match="overloaded"), account.spending(90):
            raise Refusal(503, "overloaded", code="overloaded")
    with account.spending(90) as spent:
        spent.tokens = 20
    with account.spending(80) as spent:
        spent.tokens = 80
    with pytest.raises(Refusal, match="too many tokens a minute"), account.spending(1):
        pass


@pytest.mark.parametrize("key", ["a" * 15, "ä" * 24, "a" * 24 + "\n" + "b" * 24])
def test_what_no_client_can_send_is_no_key(key: str) -> None:
    with pytest.raises(InputError, match="ALICE_KEY"):
        accounts_of({"alice": token("ALICE_KEY")}, {"ALICE_KEY": key})


def test_the_advice_makes_a_key() -> None:
    with pytest.raises(InputError) as error:
        accounts_of({"alice": token("ALICE_KEY")}, {})
    command = error.value.fix.replace("python", sys.executable, 1)
    done = subprocess.run(["bash", "-c", f"{command}; echo $ALICE_KEY"], capture_output=True, text=True, check=True)
    key = done.stdout.strip()
    assert accounts_of({"alice": token("ALICE_KEY")}, {"ALICE_KEY": key}).of(f"Bearer {key}").name == "alice"
