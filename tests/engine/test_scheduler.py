"""Who goes first, with a clock of the test's own: no model is needed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fireside.engine.scheduler import (
    AHEAD,
    CALM_SLICE,
    FEW,
    FIRST,
    GROWTH,
    LONG_SLICE,
    MARGIN,
    NEAR,
    PATIENCE,
    SLICE,
    SPARE,
    Listener,
    Scheduler,
    Turn,
)

CHUNK = 0.6
NOW = 100.0


def scheduler(per_token: float = 0.002) -> Scheduler:
    made = Scheduler(chunk_tokens=15, token_rate=25)
    made.rendered(1, per_token)
    return made


def playing(lead: float) -> Listener:
    """Who has played for a second and has `lead` seconds in hand."""
    return Listener(since=NOW - 2, eager=True, began=NOW - 1, given=1 + lead)


def awaiting(since: float = NOW, eager: bool = True) -> Listener:
    return Listener(since, eager)


def turns(**listeners: Listener) -> list[Turn[str]]:
    return [Turn(name, listener, tokens=15) for name, listener in listeners.items()]


def test_a_listener_plays_from_the_first_chunk_on() -> None:
    listener = awaiting(since=0.0)
    assert listener.lead(5.0) == 0
    listener.hear(0.6, now=10.0)
    assert listener.lead(10.4) == pytest.approx(0.2)
    listener.hear(0.6, now=10.4)
    assert listener.slacks == [pytest.approx(0.2)]
    assert listener.underruns == 0
    listener.hear(0.6, now=12.0)  # they ran dry at 11.2, and go on playing now
    assert listener.underruns == 1
    assert listener.slacks[-1] == pytest.approx(-0.8)
    assert listener.lead(12.0) == pytest.approx(0.6)


def test_who_collects_everything_never_runs_dry() -> None:
    listener = awaiting(eager=False)
    listener.hear(0.1, now=1.0)
    listener.hear(0.1, now=9.0)
    assert listener.underruns == 0


def test_a_text_that_pauses_is_no_underrun() -> None:
    listener = awaiting(since=0.0)
    listener.hear(1.0, now=1.0)
    listener.rest(now=1.5)
    assert listener.lead(1.5) == pytest.approx(0.5), "something is left to hear: they go on"
    listener.rest(now=5.0)
    assert listener.began is None
    listener.hear(1.0, now=5.2)
    assert listener.underruns == 0


def test_first_sounds_come_before_the_comfortable_and_after_those_who_run_dry() -> None:
    rows = turns(comfortable=playing(5.0), late=awaiting(NOW - 1), early=awaiting(NOW - 3), dry=playing(MARGIN / 2))
    slow = scheduler(per_token=SLICE / 15 / 4)  # four turns fit into a slice
    assert slow.rendering(rows, False, SLICE, NOW) == [["dry", "early", "late", "comfortable"]]


def test_those_who_have_less_in_hand_go_first() -> None:
    rows = turns(three=playing(3.0), one=playing(1.0), two=playing(2.0))
    assert scheduler().rendering(rows, False, SLICE, NOW) == [["one", "two", "three"]]


def test_a_step_renders_a_slice_of_time_and_at_least_one() -> None:
    rows = turns(**{f"row{index}": playing(1.0 + index) for index in range(5)})
    assert len(scheduler(SLICE / 15 / 2).rendering(rows, False, SLICE, NOW)[0]) == 2
    assert scheduler(SLICE).rendering(rows, False, SLICE, NOW) == [["row0"]]
    assert scheduler().rendering([], False, SLICE, NOW) == []


def test_workers_share_what_is_due_by_what_it_costs() -> None:
    rows = turns(a=playing(1.0), b=playing(2.0), c=playing(3.0), d=playing(4.0), e=playing(5.0))
    assert scheduler(SLICE / 15 / 2).rendering(rows, False, SLICE, NOW, workers=2) == [["a", "c"], ["b", "d"]]
    assert scheduler(SLICE).rendering(rows, False, SLICE, NOW, workers=2) == [["a"], ["b"]]
    assert scheduler().rendering(turns(a=playing(1.0)), False, SLICE, NOW, workers=2) == [["a"]]
    unmeasured = Scheduler(chunk_tokens=15, token_rate=25)
    assert unmeasured.rendering(rows, False, SLICE, NOW, workers=2) == [["a", "c", "e"], ["b", "d"]]


def test_a_hop_of_few_tokens_does_not_make_the_others_look_dear() -> None:
    made = scheduler(per_token=SLICE / 15 / 4)
    for _ in range(10):
        made.rendered(15, SLICE / 4)
    made.rendered(1, SLICE / 4)
    rows = turns(a=playing(1.0), b=playing(2.0), c=playing(3.0))
    assert made.rendering(rows, False, SLICE, NOW) == [["a", "b", "c"]]


def test_only_who_would_run_dry_delays_a_first_sound_that_is_on_its_way() -> None:
    rows = turns(comfortable=playing(1.0), dry=playing(0.1))
    assert scheduler().rendering(rows, True, SLICE, NOW) == [["dry"]]
    assert scheduler().rendering(turns(comfortable=playing(1.0)), True, SLICE, NOW) == []


def test_what_work_costs_counts_into_who_would_run_dry() -> None:
    rows = turns(first=awaiting(), playing=playing(0.5))
    assert scheduler(per_token=0.001).rendering(rows, False, SLICE, NOW)[0][0] == "first"
    assert scheduler(per_token=0.030).rendering(rows, False, SLICE, NOW)[0][0] == "playing"


def test_who_wants_all_at_once_lets_others_go_first_but_not_forever() -> None:
    rows = turns(patient=awaiting(NOW - PATIENCE / 2, eager=False), first=awaiting(NOW))
    assert scheduler().rendering(rows, False, SLICE, NOW)[0][0] == "first"
    rows = turns(patient=awaiting(NOW - 2 * PATIENCE, eager=False), first=awaiting(NOW))
    assert scheduler().rendering(rows, False, SLICE, NOW)[0][0] == "patient"


def test_who_is_far_ahead_rests_while_others_are_short() -> None:
    def row(name: str, lead: float, in_hand: float = 0.0) -> Turn[str]:
        return Turn(name, playing(lead), in_hand=in_hand)

    ahead, rendered, short = row("ahead", 0.5, AHEAD), row("rendered", AHEAD + 1), row("short", 1.0)
    assert scheduler().decoding([ahead, rendered, short], NOW) == ["short"]
    assert scheduler().decoding([ahead, rendered], NOW) == ["ahead", "rendered"], "nobody is short: no time is wasted"
    assert scheduler().decoding([], NOW) == []
    assert scheduler().decoding([rendered, ahead, short], NOW, together=2) == ["short", "ahead"], "there is room"
    assert scheduler().decoding([rendered, ahead, short], NOW, together=4) == ["short", "ahead", "rendered"]
    first, ready, near = Turn("first", awaiting()), Turn("ready", awaiting(), in_hand=FIRST), row("near", NEAR / 2)
    some = [ahead, row("two", 2 * NEAR), near, ready, first]
    assert scheduler().decoding(some, NOW, together=4) == ["first", "near"], "a first sound waits for few"
    assert scheduler().decoding([ready, row("two", 2 * NEAR)], NOW) == ["ready", "two"], "its speech is there"


def test_hops_grow_with_what_the_listener_has_to_hear() -> None:
    made = scheduler()
    assert made.chunks(awaiting(), 0, 2, SLICE, NOW) == (1,)
    assert made.chunks(playing(-1.0), 9, 2, SLICE, NOW) == (1,)
    assert made.chunks(playing(2.1 * CHUNK), 1, 2, SLICE, NOW) == (2,)
    assert made.chunks(playing(60.0), 1, 2, SLICE, NOW) == (GROWTH[-1],)
    patient = made.chunks(awaiting(eager=False), 0, 2, SLICE, NOW)
    assert patient == (GROWTH[-1],), "who waits for all gets large ones at once"


def test_a_hop_among_others_keeps_to_the_slice() -> None:
    assert scheduler(per_token=SLICE / 30).chunks(playing(60.0), 9, 2, SLICE, NOW) == (2,)
    assert scheduler(per_token=1.0).chunks(playing(60.0), 9, 2, SLICE, NOW) == (1,)


def test_when_more_is_due_than_can_be_rendered_in_time_hops_are_long() -> None:
    made = scheduler(per_token=CHUNK / 15 / 10)  # while a chunk plays, ten can be rendered
    dry = playing(-1.0)
    assert made.slice([dry] * 5 + [awaiting()] * 4, True, NOW) == SLICE
    assert made.slice([dry] * 5 + [awaiting()] * 6, True, NOW) == LONG_SLICE
    assert made.slice([awaiting(eager=False)] * 2, False, NOW) == LONG_SLICE, "nobody plays what comes"
    assert list(made.chunks(dry, 3, 9, LONG_SLICE, NOW)) == [4, 3, 2], "as many as are there"
    assert list(made.chunks(awaiting(), 0, FEW, LONG_SLICE, NOW)) == [1], "a first sound does not wait for more"
    assert list(scheduler(per_token=1.0).chunks(dry, 3, 9, LONG_SLICE, NOW)) == [1]
    rows = [replace(turn, tokens=45) for turn in turns(a=dry, b=dry, c=dry)]
    assert made.rendering(rows, False, LONG_SLICE, NOW) == [["a", "b"]]


def test_while_nobody_is_in_a_hurry_hops_are_longer_but_nobody_runs_dry_meanwhile() -> None:
    made = scheduler(per_token=CHUNK / 15 / 20)
    assert made.slice([playing(3.0), playing(5.0)], False, NOW) == CALM_SLICE
    assert made.slice([playing(3.0), playing(5.0)], True, NOW) == SLICE, "somebody waits for a first sound"
    assert made.slice([playing(3.0), playing(0.1)], False, NOW) == SLICE, "somebody is about to run dry"
    between = made.slice([playing(3.0), playing((SLICE + CALM_SLICE) / 2 + SPARE)], False, NOW)
    assert between == pytest.approx((SLICE + CALM_SLICE) / 2)
    assert list(made.chunks(playing(0.3), 3, 9, CALM_SLICE, NOW)) == [4, 3, 2, 1], "as many as are there"
    assert list(scheduler(per_token=CALM_SLICE / 30).chunks(playing(0.3), 3, 9, CALM_SLICE, NOW)) == [2, 1]


def test_the_more_there_are_the_longer_is_a_first_sound() -> None:
    made = scheduler()
    assert made.chunks(awaiting(), 0, FEW, SLICE, NOW) == (1,)
    assert made.chunks(awaiting(), 0, FEW + 1, SLICE, NOW) == (2,)
    some = [Turn("begun", awaiting(), in_hand=FIRST), Turn("new", awaiting())]
    assert made.decoding(some, NOW, crowd=FEW) == ["new"]
    assert sorted(made.decoding(some, NOW, crowd=FEW + 1)) == ["begun", "new"]


def test_first_sounds_come_one_after_another_where_that_is_sooner() -> None:
    late, early = Turn("late", awaiting(NOW - 1)), Turn("early", awaiting(NOW - 2))
    comfortable, dry = Turn("comfortable", playing(2 * NEAR)), Turn("dry", playing(NEAR / 2))
    some = [late, comfortable, dry, early]
    assert sorted(scheduler().decoding(some, NOW, soon=True)) == ["dry", "early"]
    assert sorted(scheduler().decoding(some, NOW)) == ["dry", "early", "late"]


def test_no_clock_decides_about_the_hops_of_who_is_alone() -> None:
    for listener in (awaiting(), awaiting(eager=False), playing(-9.0), playing(60.0)):
        got = [scheduler(per_token=1.0).chunks(listener, hop, 1, SLICE, NOW) for hop in range(6)]
        assert got == [(1,), (1,), (2,), (4,), (4,), (4,)]
