"""Settings: where they come from, which goes first, and how a wrong one is explained."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from twinwire.core.log import Retention
from twinwire.errors import BadSettings
from twinwire.settings import KIB, ChannelRule, Settings, sources


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that is set for the tests themselves counts."""
    import os

    for name in [name for name in os.environ if name.upper().startswith("TWINWIRE_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "twinwire.toml"


def complaint(file: Path | None = None, **given: Any) -> str:
    with pytest.raises(BadSettings) as caught:
        Settings.load(file, given)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_without_anything_set_the_defaults_hold() -> None:
    settings = Settings.load()
    assert settings == Settings()
    assert (settings.host, settings.port, settings.api_key) == ("127.0.0.1", 8000, None)
    assert settings.model_fields_set == set()


def test_the_caller_goes_before_the_environment_and_that_before_the_file(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text('port = 1\nhost = "one"\nbroker = "one://"')
    monkeypatch.setenv("TWINWIRE_PORT", "2")
    monkeypatch.setenv("TWINWIRE_HOST", "two")
    settings = Settings.load(file, {"port": 3})
    assert (settings.port, settings.host, settings.broker) == (3, "two", "one://")


def test_each_says_where_it_was_set(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("log_events = 5\nport = 1")
    monkeypatch.setenv("TWINWIRE_PORT", "2")
    found = sources(file, {"host": "h", "echo": True}, flags={"host": "--host"})
    assert {name: source.where for name, source in found.items()} == {
        "log_events": f"in {file}",
        "port": "TWINWIRE_PORT in the environment",
        "host": "--host",
        "echo": "given",
    }


def test_the_environment_writes_every_type(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {
        "HOST": "::1",
        "PORT": "9",
        "INSECURE": "true",
        "ECHO": "0",
        "HEARTBEAT": "2.5",
        "API_KEY": "secret",
        "ALLOW_PUBLISH": '["chat.*","news"]',
        "CHANNELS": '[{"pattern":"a.*","log_events":3}]',
    }.items():
        monkeypatch.setenv(f"TWINWIRE_{name}", text)
    settings = Settings.load()
    assert (settings.host, settings.port, settings.heartbeat) == ("::1", 9, 2.5)
    assert (settings.insecure, settings.echo) == (True, False)
    assert settings.api_key is not None
    assert settings.api_key.get_secret_value() == "secret"
    assert settings.allow_publish == ("chat.*", "news")
    assert settings.channels == (ChannelRule(pattern="a.*", log_events=3),)


def test_the_file_has_rules_for_channels(file: Path) -> None:
    file.write_text(
        'allow_subscribe = ["public.>"]\n[[channels]]\npattern = "a.*"\nlog_age = 2.5\n'
        '[[channels]]\npattern = "b"\nlog_events = 7\nlog_bytes = 8\n'
    )
    settings = Settings.load(file)
    assert settings.allow_subscribe == ("public.>",)
    rules = settings.retention_rules()
    assert [(rule.text, keep) for rule, keep in rules] == [
        ("a.*", Retention(0, 0, 2500)),
        ("b", Retention(7, 8, 0)),
    ]


def test_a_file_with_a_byte_order_mark_is_read(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbfport = 1")
    assert Settings.load(file).port == 1


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().port = 1


@pytest.mark.parametrize("name", ["prot", "ports", "PORT"])
def test_an_unknown_setting_is_named_with_its_place_and_a_better_one(name: str, file: Path) -> None:
    file.write_text(f"{name} = 1")
    assert complaint(file).startswith(f"there is no setting {name} (in {file})")
    given: dict[str, Any] = {name: 1}
    assert complaint(**given).startswith(f"there is no setting {name} (given)")


def test_a_near_miss_is_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWINWIRE_HEART_BEAT", "1")
    assert complaint() == (
        "there is no setting heart_beat (TWINWIRE_HEART_BEAT in the environment); "
        "did you mean heartbeat?"
    )


@pytest.mark.parametrize(
    ("toml", "what"),
    [
        ("port = -1", "port (in {file}) should be greater than or equal to 0"),
        ("port = 65536", "port (in {file}) should be less than or equal to 65535"),
        ('port = "x"', "port (in {file}) should be a valid integer"),
        ("port = 1.5", "port (in {file}) should be a valid integer"),
        ("port = []", "port (in {file}) should be a valid integer"),
        ("host = 5", "host (in {file}) should be a valid string"),
        ('host = ""', "host (in {file}) should not be empty"),
        ('api_key = ""', "api_key (in {file}) should not be empty"),
        ("heartbeat = 0", "heartbeat (in {file}) should be greater than 0"),
        ("heartbeat = inf", "heartbeat (in {file}) should be a finite number"),
        ("heartbeat = nan", "heartbeat (in {file}) should be a finite number"),
        ('insecure = "perhaps"', "insecure (in {file}) should be a valid boolean"),
        ('log_level = "loud"', "log_level (in {file}) should be 'critical', 'error', "),
        ('allow_publish = "a"', "allow_publish (in {file}) should be a list"),
        ('allow_publish = ["a", "b..c"]', "allow_publish.1 (in {file}): bad channel 'b..c': "),
        ("channels = [1]", "channels.0 (in {file}) should be a table"),
        ("[[channels]]\nlog_events = 1", "channels.0.pattern (in {file})"),
        ('[[channels]]\npattern = "a*b"', "channels.0.pattern (in {file}): bad channel 'a*b': "),
        ('[[channels]]\npattern = "a"\nevents = 1', "no setting channels.0.events (in {file})"),
        ("[server]\nport = 1", "there is no setting server (in {file})"),
    ],
)
def test_a_wrong_value_is_named_with_its_place_and_what_it_should_be(
    toml: str, what: str, file: Path
) -> None:
    tomllib.loads(toml)
    file.write_text(toml)
    assert what.format(file=file) in complaint(file)


def test_all_that_is_wrong_is_said_at_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("port = -1")
    monkeypatch.setenv("TWINWIRE_LOG_EVENTS", "many")
    text = complaint(file, log_bytes=1, nonsense=1)
    assert text.count(";") == 3
    for part in (f"port (in {file})", "log_events (TWINWIRE_LOG", "log_bytes (given)", "nonsense"):
        assert part in text


def test_a_list_in_the_environment_that_is_none_is_explained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TWINWIRE_ALLOW_PUBLISH", "chat.*")
    text = complaint()
    assert text.startswith("allow_publish (TWINWIRE_ALLOW_PUBLISH in the environment) should be")
    assert '["news", "prices.*"]' in text


@pytest.mark.parametrize(
    ("content", "what"),
    [(b"port =", "not TOML: "), (b"port = 1\nport = 2", "not TOML: "), (b"\xff\xfe", "not TOML: ")],
)
def test_a_file_that_is_no_toml_is_said_to_be_none(content: bytes, what: str, file: Path) -> None:
    file.write_bytes(content)
    assert complaint(file).startswith(f"{file}: {what}")


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    assert complaint(tmp_path / "none") == f"{tmp_path / 'none'}: no such file or directory"
    assert complaint(tmp_path) == f"{tmp_path}: is a directory"


def test_what_kubernetes_says_about_a_service_is_no_setting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TWINWIRE_PORT", "tcp://10.0.0.1:8000")
    monkeypatch.setenv("TWINWIRE_PORT_8000_TCP", "tcp://10.0.0.1:8000")
    monkeypatch.setenv("TWINWIRE_PORT_8000_TCP_ADDR", "10.0.0.1")
    monkeypatch.setenv("TWINWIRE_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("TWINWIRE_SERVICE_PORT_HTTP", "8000")
    assert Settings.load() == Settings()


@pytest.mark.parametrize("wrong", [{}, {"port": -1}, {"api_key": ["hunter2"]}])
def test_a_secret_is_never_shown(wrong: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWINWIRE_API_KEY", "hunter2")
    if wrong:
        assert "hunter2" not in complaint(**wrong)
    else:
        settings = Settings.load()
        for shown in (str(settings), repr(settings), repr(settings.model_dump())):
            assert "hunter2" not in shown


def test_every_setting_is_described_and_its_limit_can_be_met() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name
    assert Settings(log_bytes=KIB).log_bytes == KIB


def test_the_first_rule_that_matches_a_channel_says_whether_its_presence_is_known() -> None:
    settings = Settings(
        channels=(
            ChannelRule(pattern="rooms.closed.*"),
            ChannelRule(pattern="rooms.>", presence=True),
            ChannelRule(pattern=">", slow="close"),
        )
    )
    assert settings.keeps_presence("rooms.a")
    assert settings.keeps_presence("rooms.closed.a.b")
    assert not settings.keeps_presence("rooms.closed.a")
    assert not settings.keeps_presence("rooms.*")
    assert not settings.keeps_presence("a")
    assert settings.closes_slow("a")
    assert not settings.closes_slow("rooms.a")
    assert not Settings().keeps_presence("rooms.a")
