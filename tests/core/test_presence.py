"""Who is in which channel, by several rosters that tell each other what they can."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, Raw

from twinwire.core import notices
from twinwire.core.notices import (
    Ask,
    Beat,
    Bye,
    Changes,
    Entry,
    Figures,
    Notice,
    Whole,
    pack,
    unpack,
)
from twinwire.core.presence import DEAD_AFTER, Change, Roster
from twinwire.core.protocol import Member

PERIOD = 1.0
FIGURES = Figures("name")


def member(client: str, user: str = "") -> Member:
    return Member(user, client)


def roster(node: str = "n", now: float = 0.0, *, alone: bool = False) -> Roster:
    return Roster(node, period=PERIOD, now=now, alone=alone)


def who(roster: Roster, channel: str = "a") -> set[str]:
    return set(roster.present(channel))


def said(changes: Iterable[Change]) -> list[str]:
    return [f"{'+' if c.joined else '-'}{c.member.client}@{c.channel}" for c in changes]


def exchange(*rosters: Roster, now: float = 0.0) -> list[Notice]:
    """Everybody tells and hears, until nobody has anything to tell."""
    told: list[Notice] = []
    while any(each.telling for each in rosters):
        for each in rosters:
            for notice in each.tell():
                told.append(notice)
                for other in rosters:
                    other.hear(notices_only(notice), now)
    return told


def notices_only(notice: Notice) -> notices.Presence:
    """As it comes out of the bytes that it was told as."""
    heard = unpack(pack(notice))
    assert isinstance(heard, notices.Presence)
    return heard


def pair() -> tuple[Roster, Roster]:
    one, two = roster("one"), roster("two")
    exchange(one, two)
    return one, two


# One node


def test_a_member_is_present_until_it_leaves() -> None:
    here = roster()
    here.join("a", member("c", "ada"))
    here.join("b", member("c", "ada"))
    here.join("a", member("d", "ada"))
    assert who(here) == {"c", "d"}
    assert here.present("a")["c"] == member("c", "ada")
    assert here.channels("c") == ["a", "b"]
    here.leave("a", "c")
    assert who(here) == {"d"}
    assert who(here, "b") == {"c"}
    assert who(here, "x") == set()


def test_clients_and_users_are_counted_apart() -> None:
    here = roster()
    for client, user in (("c", "ada"), ("d", "ada"), ("e", "bob"), ("f", "")):
        here.join("a", member(client, user))
    stats = here.stats("a")
    assert (stats.num_clients, stats.num_users) == (4, 3)
    assert (here.stats("x").num_clients, here.stats("x").num_users) == (0, 0)


def test_who_is_gone_has_left_every_channel_and_leaving_twice_is_leaving_once() -> None:
    here = roster()
    for channel in ("a", "b"):
        here.join(channel, member("c"))
    assert said(here.changes()) == ["+c@a", "+c@b"]
    here.gone("c")
    here.gone("c")
    here.leave("a", "c")
    here.leave("x", "c")
    assert said(here.changes()) == ["-c@a", "-c@b"]
    assert here.memory == 0
    assert here.changes() == []


def test_changes_are_what_is_other_than_when_they_were_last_asked_for() -> None:
    here = roster()
    here.join("a", member("c"))
    here.leave("a", "c")
    assert here.changes() == []
    here.join("a", member("c"))
    assert said(here.changes()) == ["+c@a"]
    here.leave("a", "c")
    here.join("a", member("c"))
    assert here.changes() == []
    assert not here.changed


def test_a_leave_tells_who_it_was() -> None:
    here = roster()
    whole = Member("ada", "c", Raw(b'{"name":"Ada"}'))
    here.join("a", whole)
    here.changes()
    here.gone("c")
    (change,) = here.changes()
    assert change == Change("a", whole, joined=False)


def test_a_node_that_is_alone_has_nothing_to_tell() -> None:
    here = roster(alone=True)
    here.join("a", member("c"))
    here.beat(FIGURES, 1.0)
    assert not here.telling
    assert here.tell() == []
    assert said(here.changes()) == ["+c@a"]


# Two nodes


def test_what_happens_at_one_node_is_known_at_the_other() -> None:
    one, two = pair()
    one.join("a", Member("ada", "c", Raw(b'{"n":1}'), Raw(b"2")))
    two.join("a", member("d"))
    exchange(one, two)
    assert who(one) == who(two) == {"c", "d"}
    assert two.present("a")["c"] == Member("ada", "c", Raw(b'{"n":1}'), Raw(b"2"))
    assert one.present("a")["d"].conn_info is UNSET
    assert sorted(said(two.changes())) == ["+c@a", "+d@a"]
    one.gone("c")
    exchange(one, two)
    assert who(two) == {"d"}
    assert said(two.changes()) == ["-c@a"]


def test_changes_are_told_together_and_what_has_come_to_nothing_brings_nothing() -> None:
    one, two = pair()
    for client in "cdef":
        one.join("a", member(client))
    one.leave("a", "d")
    (told,) = exchange(one, two)
    assert isinstance(told, Changes)
    assert [entry.client for entry in told.joined] == ["c", "e", "f"]
    assert who(two) == {"c", "e", "f"}
    assert sorted(said(two.changes())) == ["+c@a", "+e@a", "+f@a"]


def test_a_new_node_asks_everybody_and_gets_all() -> None:
    one, two = pair()
    one.join("a", member("c"))
    two.join("a", member("d"))
    exchange(one, two)
    three = roster("three")
    told = exchange(one, two, three)
    assert [type(notice) for notice in told] == [Ask, Whole, Whole]
    assert who(three) == {"c", "d"}


def test_who_has_missed_a_notice_learns_it_from_the_next_beat_and_asks() -> None:
    one, two = pair()
    one.join("a", member("c"))
    one.tell()  # nobody hears it
    assert who(two) == set()
    one.beat(FIGURES, 1.0)
    told = exchange(one, two, now=1.0)
    assert [type(notice) for notice in told] == [Beat, Ask, Whole]
    assert who(two) == {"c"}
    one.beat(FIGURES, 2.0)
    assert [type(notice) for notice in exchange(one, two, now=2.0)] == [Beat]


def test_who_has_missed_a_notice_learns_it_from_the_next_change_too() -> None:
    one, two = pair()
    one.join("a", member("c"))
    one.tell()
    one.join("a", member("d"))
    told = exchange(one, two)
    assert [type(notice) for notice in told] == [Changes, Ask, Whole]
    assert who(two) == {"c", "d"}


def test_a_leave_that_was_missed_is_in_the_whole() -> None:
    one, two = pair()
    one.join("a", member("c"))
    one.join("a", member("d"))
    exchange(one, two)
    two.changes()
    one.gone("c")
    one.tell()
    one.beat(FIGURES, 1.0)
    exchange(one, two, now=1.0)
    assert who(two) == {"d"}
    assert said(two.changes()) == ["-c@a"]


def test_who_has_missed_nothing_does_not_ask() -> None:
    one, two = pair()
    one.join("a", member("c"))
    exchange(one, two)
    one.beat(FIGURES, 1.0)
    assert [type(notice) for notice in exchange(one, two, now=1.0)] == [Beat]


def test_several_who_ask_in_a_moment_get_one_answer() -> None:
    one = roster("one")
    one.tell()
    one.join("a", member("c"))
    for node in ("two", "three"):
        one.hear(Ask(node, 1, []), 0.0)
    assert [type(notice) for notice in one.tell()] == [Whole]
    assert not one.telling


def test_what_has_changed_when_a_whole_is_asked_for_is_news_to_all_the_others_too() -> None:
    one, two = pair()
    one.join("a", member("c"))
    exchange(one, two)
    one.join("a", member("d"))
    three = roster("three")
    told = exchange(three, one, two)
    assert [type(notice) for notice in told] == [Ask, Whole, Whole]
    assert who(two) == who(three) == {"c", "d"}


def test_a_whole_that_is_lost_is_asked_for_again_at_the_next_beat_and_not_before() -> None:
    one, two = pair()
    asked = []
    for number, client in enumerate("cde"):
        one.join("a", member(client))
        one.tell()
        one.beat(FIGURES, 1.0 + number / 10)
        (beat,) = one.tell()
        two.hear(notices_only(beat), 1.0 + number / 10)
        asked += two.tell()
    assert [type(notice) for notice in asked] == [Ask]
    one.beat(FIGURES, 2.0)
    exchange(one, two, now=2.0)
    assert who(two) == set("cde")


def crowd(one: Roster, count: int) -> set[str]:
    clients = [f"client-{n}" for n in range(count)]
    for client in clients:
        one.join("a", Member("u" * 20, client, Raw(b'"' + b"x" * 100 + b'"')))
    return set(clients)


def test_many_are_told_in_notices_of_bounded_size() -> None:
    one, two = pair()
    clients = crowd(one, 3000)
    told = exchange(one, two)
    assert len(told) > 5
    assert max(len(pack(notice)) for notice in told) < 64 * 1024
    assert who(two) == clients
    three = roster("three")
    whole = [notice for notice in exchange(one, three) if isinstance(notice, Whole)]
    assert max(len(pack(notice)) for notice in whole) < 64 * 1024
    assert [notice.part for notice in whole] == list(range(len(whole)))
    assert who(three) == clients
    one.gone("client-0")
    exchange(one, two, three)
    assert who(two) == who(three) == clients - {"client-0"}


def test_a_whole_of_which_a_part_is_lost_is_none() -> None:
    one = roster("one")
    clients = crowd(one, 1000)
    one.tell()
    one.hear(Ask("two", 1, []), 0.0)
    whole = one.tell()
    assert len(whole) > 2
    for lost in range(len(whole)):
        two = roster("two")
        for notice in [*whole[:lost], *whole[lost + 1 :]]:
            two.hear(notices_only(notice), 0.0)
        assert who(two) == set()
    two = roster("two")
    for notice in whole:
        two.hear(notices_only(notice), 0.0)
    assert who(two) == clients


# Order, and the end of a node


def test_an_old_notice_brings_nobody_back() -> None:
    one, two = pair()
    one.join("a", member("c"))
    joined = one.tell()
    one.gone("c")
    left = one.tell()
    one.beat(FIGURES, 1.0)
    beat = one.tell()
    for notice in [*beat, *left, *joined]:
        two.hear(notices_only(notice), 1.0)
    assert who(two) == set()
    exchange(one, two, now=1.0)
    assert who(two) == set()
    assert two.changes() == []


def test_a_node_that_is_not_heard_for_some_beats_is_dead_and_its_members_have_left() -> None:
    one, two = pair()
    one.join("a", member("c"))
    two.join("a", member("d"))
    exchange(one, two)
    two.changes()
    for now in (1.0, 2.0, 3.0, 4.0):
        two.beat(FIGURES, now)
        assert who(two) == {"c", "d"}
    two.beat(FIGURES, 5.0)
    assert who(two) == {"d"}
    assert said(two.changes()) == ["-c@a"]
    assert two.beats() == []


def test_each_node_is_given_as_long_as_its_own_beats_are_apart() -> None:
    slow, quick = Roster("slow", period=10.0, now=0.0), roster("quick")
    slow.join("a", member("c"))
    slow.beat(FIGURES, 0.0)
    exchange(slow, quick)
    for now in range(1, 41):
        quick.beat(FIGURES, float(now))
        assert who(quick) == {"c"}
    quick.beat(FIGURES, 41.0)
    assert who(quick) == set()


def test_a_dead_node_that_is_heard_again_is_alive_with_what_it_has_then() -> None:
    one, two = pair()
    one.join("a", member("c"))
    one.join("a", member("d"))
    exchange(one, two)
    two.changes()
    two.beat(FIGURES, 1.0)
    two.beat(FIGURES, 2.0)
    two.beat(FIGURES, 3.0)
    two.beat(FIGURES, 4.0)
    two.beat(FIGURES, 5.0)
    one.gone("c")
    assert sorted(said(two.changes())) == ["-c@a", "-d@a"]
    one.beat(FIGURES, 5.5)
    exchange(one, two, now=5.5)
    assert who(two) == {"d"}
    assert said(two.changes()) == ["+d@a"]


def test_what_a_dead_node_had_told_before_its_death_brings_nobody_back() -> None:
    one, two = pair()
    one.join("a", member("c"))
    late = one.tell()
    one.beat(FIGURES, 0.5)
    for notice in one.tell():
        two.hear(notices_only(notice), 0.5)
    for now in range(1, 7):
        two.beat(FIGURES, float(now))
    for notice in late:
        two.hear(notices_only(notice), 6.5)
    assert who(two) == set()
    assert two.beats() == []


def test_a_node_that_says_goodbye_is_gone_at_once_and_for_good() -> None:
    one, two = pair()
    one.join("a", member("c"))
    one.beat(FIGURES, 0.0)
    exchange(one, two)
    assert len(two.beats()) == 1
    two.changes()
    one.join("a", member("d"))
    late = one.tell()
    two.hear(notices_only(one.bye()), 0.0)
    for notice in late:
        two.hear(notices_only(notice), 0.0)
    assert who(two) == set()
    assert said(two.changes()) == ["-c@a"]
    one.beat(FIGURES, 0.5)
    for notice in one.tell():
        two.hear(notices_only(notice), 0.5)
    assert two.beats() == []


def test_a_node_that_was_asleep_itself_takes_nobody_for_dead() -> None:
    one, two = pair()
    one.join("a", member("c"))
    exchange(one, two)
    two.beat(FIGURES, 1.0)
    two.beat(FIGURES, 60.0)
    assert who(two) == {"c"}
    for now in (61.0, 62.0, 63.0, 64.0):
        two.beat(FIGURES, now)
    assert who(two) == set()


def test_a_client_that_comes_back_at_another_node_is_there_in_whatever_order_it_is_told() -> None:
    for leave_first in (False, True):
        one, two, three = roster("one"), roster("two"), roster("three")
        exchange(one, two, three)
        one.join("a", member("c-1", "ada"))
        exchange(one, two, three)
        one.gone("c-1")
        left = one.tell()
        two.join("a", member("c-2", "ada"))
        joined = two.tell()
        for notice in [*left, *joined] if leave_first else [*joined, *left]:
            three.hear(notices_only(notice), 0.0)
        assert who(three) == {"c-2"}
        assert three.stats("a").num_users == 1


def test_nodes_that_have_ended_are_not_remembered_without_bound() -> None:
    here = roster()
    for number in range(3000):
        here.hear(Bye(f"node-{number}", 1), 0.0)
    assert len(here._gone) == 1000
    assert not here._nodes


def test_what_another_node_says_of_clients_that_it_does_not_have_changes_nothing() -> None:
    one = roster("one")
    one.join("a", member("c"))
    one.hear(Changes("two", 1, 1, [], [("a", "c"), ("x", "y")]), 0.0)
    assert who(one) == {"c"}
    one.hear(Changes("two", 2, 2, [Entry("a", "c", "imposter")], []), 0.0)
    one.hear(Bye("two", 3), 0.0)
    assert who(one) == {"c"}
    one.gone("c")
    assert who(one) == set()


# Any schedule


@dataclass
class World:
    """Nodes and what is on its way between them. Time goes by in beats."""

    lossy: random.Random
    nodes: dict[str, Roster] = field(default_factory=dict)
    clients: dict[str, set[tuple[str, str]]] = field(default_factory=dict)
    """By node, the channels and clients that are there in truth."""
    on_the_way: list[tuple[str, Notice]] = field(default_factory=list)
    cut: set[str] = field(default_factory=set)
    shown: dict[str, dict[tuple[str, str], bool]] = field(default_factory=dict)
    """By node, what it has pushed last of each client in each channel."""
    now: float = 0.0
    count: int = 0

    def start(self) -> None:
        self.count += 1
        name = f"n{self.count}"
        self.nodes[name] = Roster(name, period=PERIOD, now=self.now)
        self.clients[name] = set()
        self.shown[name] = {}

    def pick(self, number: int) -> str | None:
        names = sorted(self.nodes)
        return names[number % len(names)] if names else None

    def join(self, node: str, channel: str) -> None:
        self.count += 1
        self.put(node, channel, f"c{self.count}")

    def put(self, node: str, channel: str, client: str) -> None:
        self.nodes[node].join(channel, member(client))
        self.clients[node].add((channel, client))

    def again(self, node: str, number: int, channel: str) -> None:
        """One of the clients there joins this channel, too or again."""
        present = sorted({client for _, client in self.clients[node]})
        if present:
            self.put(node, channel, present[number % len(present)])

    def leave(self, node: str, number: int) -> None:
        present = sorted(self.clients[node])
        if present:
            channel, client = present[number % len(present)]
            self.nodes[node].leave(channel, client)
            self.clients[node].discard((channel, client))

    def gone(self, node: str, number: int) -> None:
        present = sorted(self.clients[node])
        if present:
            _, client = present[number % len(present)]
            self.nodes[node].gone(client)
            self.clients[node] = {p for p in self.clients[node] if p[1] != client}

    def die(self, node: str, *, politely: bool) -> None:
        if politely:
            self.send(node, [self.nodes[node].bye()])
        del self.nodes[node]
        del self.clients[node]
        self.cut.discard(node)

    def send(self, node: str, told: Sequence[Notice], *, lose: bool = True) -> None:
        for notice in told:
            for other in self.nodes:
                if node in self.cut or other in self.cut:
                    continue
                if not lose or self.lossy.random() < 0.7:
                    self.on_the_way.append((other, notice))

    def tell(self, node: str, *, lose: bool = True) -> None:
        self.send(node, self.nodes[node].tell(), lose=lose)

    def deliver(self, *, shuffle: bool) -> None:
        arrived, self.on_the_way = self.on_the_way, []
        if shuffle:
            self.lossy.shuffle(arrived)
            kept = self.lossy.randint(0, len(arrived))
            arrived, self.on_the_way = arrived[:kept], arrived[kept:]
        for node, notice in arrived:
            if node in self.nodes and node not in self.cut:
                self.nodes[node].hear(notices_only(notice), self.now)

    def push(self, node: str) -> None:
        """What is pushed alternates."""
        shown = self.shown[node]
        for change in self.nodes[node].changes():
            key = (change.channel, change.member.client)
            assert shown.get(key, False) is not change.joined, change
            shown[key] = change.joined

    def beat(self) -> None:
        self.now += PERIOD
        for here in self.nodes.values():
            here.beat(FIGURES, self.now)

    def truth(self) -> set[tuple[str, str]]:
        return {pair for pairs in self.clients.values() for pair in pairs}

    def settle(self) -> None:
        """Notices flow again, the old ones too; nodes that have died are found out."""
        self.cut.clear()
        for _ in range(DEAD_AFTER + 4):
            self.beat()
            for _ in range(4):
                for name in list(self.nodes):
                    self.tell(name, lose=False)
                self.deliver(shuffle=False)
        self.check()

    def check(self) -> None:
        truth = self.truth()
        for name, here in self.nodes.items():
            present = {
                (channel, client) for channel in CHANNELS for client in here.present(channel)
            }
            assert present == truth, f"at {name}"
            self.push(name)
            assert {key for key, joined in self.shown[name].items() if joined} == truth
            assert {beat.node for beat in here.beats()} == set(self.nodes) - {name}


CHANNELS = ["a", "b", "c"]
numbers = st.integers(0, 30)
channels = st.sampled_from(CHANNELS)
steps = st.one_of(
    st.tuples(st.sampled_from(["join", "join", "again"]), numbers, numbers, channels),
    st.tuples(st.sampled_from(["leave", "gone"]), numbers, numbers, channels),
    st.tuples(
        st.sampled_from(
            ["tell", "tell", "deliver", "shuffle", "push", "beat", "start", "die", "bye", "cut",
             "mend", "forget"]
        ),
        numbers, numbers, channels,
    ),
)  # fmt: skip


@given(st.lists(steps, max_size=60), st.randoms(use_true_random=False))
def test_whatever_is_lost_late_or_dead_all_nodes_come_to_know_the_truth_and_pushes_alternate(
    script: list[tuple[str, int, int, str]], chance: random.Random
) -> None:
    world = World(chance)
    for _ in range(3):
        world.start()
    for step, first, second, channel in script:
        node = world.pick(first)
        if step == "start":
            world.start()
        elif step == "deliver":
            world.deliver(shuffle=False)
        elif step == "shuffle":
            world.deliver(shuffle=True)
        elif step == "beat":
            world.beat()
        elif step == "forget":
            world.on_the_way.clear()
        elif node is None:
            continue
        elif step == "join":
            world.join(node, channel)
        elif step == "again":
            world.again(node, second, channel)
        elif step == "leave":
            world.leave(node, second)
        elif step == "gone":
            world.gone(node, second)
        elif step == "tell":
            world.tell(node)
        elif step == "push":
            world.push(node)
        elif step == "cut":
            world.cut.add(node)
        elif step == "mend":
            world.cut.discard(node)
        else:
            world.die(node, politely=step == "bye")
    world.settle()


@pytest.mark.parametrize("late", range(6))
def test_what_arrives_after_all_is_settled_changes_nothing(late: int) -> None:
    world = World(random.Random(late))
    for _ in range(3):
        world.start()
    old: list[tuple[str, Notice]] = []
    for number in range(30):
        world.join("n1", CHANNELS[number % 3])
        world.gone("n1", number)
        world.join("n2", CHANNELS[number % 3])
        for name in world.nodes:
            world.tell(name, lose=False)
        old += world.on_the_way
        if number % 7 == 0:
            world.deliver(shuffle=True)
        world.on_the_way.clear()
    world.die("n2", politely=late % 2 == 0)
    world.settle()
    world.lossy.shuffle(old)
    world.on_the_way = old
    world.deliver(shuffle=False)
    world.check()
    world.settle()
