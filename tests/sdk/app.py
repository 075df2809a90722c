"""What the SDK tests serve with `twinwire serve --app tests.sdk.app:hub`: a hub with commands."""

from twinwire import CommandError, Hub

hub = Hub(allow_publish=["chat.>"])


@hub.command("sum")
async def add(numbers: list[int]) -> int:
    return sum(numbers)


@hub.command("fail")
async def fail(message: str) -> None:
    raise CommandError(1000, message)


@hub.command("say")
async def say(channel: str, text: str) -> str:
    return str(await hub.publish(channel, text))
