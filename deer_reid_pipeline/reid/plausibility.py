"""Matches that cannot be true, or are unlikely to be: places, times, sex, age, shared pictures, size and share.

Pure rules over identified encounters. They never change an identity; they say which one a person should look at, and
why. What a rule cannot judge (a camera without a position, a picture without a time) is counted, not guessed. Only
machine matches of the day are ever suspected: what a person said stands.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from deer_reid_pipeline.reid.contradictions import Contradiction, Together, explain
from deer_reid_pipeline.reid.sightings import IdentifiedEncounter, distance_km, gap_between, reachable_km, size_ratio

Floats = NDArray[np.float64]

TRAVEL = "too_far_too_fast"
SEX = "sex_conflict"
LIFE_STAGE = "life_stage_conflict"
ONE_PICTURE = "two_boxes_of_one_picture"
SHARE = "implausible_share"
SIZE = "body_size_conflict"

FEWEST_MATCHES = 8
FAMILY_ERROR = 0.02
"""Probability that some individual is flagged for its share on an ordinary day."""

PRIOR_SIGHTINGS = 4.0
PRIOR_DISPERSION = 1.5
PRIOR_FREEDOM = 5.0
CLOCK_SUSPECTED_FROM = 3


@dataclass(frozen=True)
class Flag:
    """One reason to doubt an identity.

    Attributes:
        encounter: the match to look at first.
        other: the encounter that it contradicts, where there is one.
        encounters: every encounter that is meant.
        text: the reason in one sentence, for an analyst.
    """

    rule: str
    individual: Hashable
    encounter: Hashable
    other: Hashable | None
    encounters: tuple[Hashable, ...]
    text: str


@dataclass
class Judged:
    """Flags of a day, and how many comparisons each rule made and could not make."""

    flags: list[Flag] = field(default_factory=list)
    compared: Counter[str] = field(default_factory=Counter)
    not_judged: Counter[str] = field(default_factory=Counter)


def judge(sightings: Sequence[IdentifiedEncounter], earlier: Mapping[Hashable, int], individuals: int) -> Judged:
    """Apply every rule to the identified encounters of the individuals that were matched on a day.

    Args:
        sightings: all sightings of those individuals, of the day and before; `suspect` marks the day's matches.
        earlier: sightings of every individual before the day.
        individuals: individuals known in total.
    """
    judged = Judged()
    by_individual: dict[Hashable, list[IdentifiedEncounter]] = defaultdict(list)
    for sighting in sorted(sightings, key=lambda s: str(s.encounter)):
        by_individual[sighting.individual].append(sighting)
    for members in by_individual.values():
        if not any(member.suspect for member in members):
            continue
        _alone(members, judged)
        together = Together(members)
        rows = (
            (TRAVEL, together.travel, _travel_text),
            (SEX, together.sexes, _sexes_text),
            (LIFE_STAGE, together.life_stages, _life_stages_text),
            (ONE_PICTURE, together.pictures, _pictures_text),
            (SIZE, together.sizes, _sizes_text),
        )
        for rule, row, text in rows:
            for found in explain(members, row, (judged.compared, judged.not_judged), rule):
                judged.flags.append(_flag(rule, found, text))
    _judge_shares(sightings, earlier, individuals, judged)
    judged.flags = _with_clock_warning(judged.flags, {s.encounter: s for s in sightings})
    return judged


def share_probability(
    matches: int, total: int, earlier: int, earlier_total: int, individuals: int, dispersion: float
) -> float:
    """Probability that an individual gets this many or more of a day's matches, being seen as often as before.

    A binomial tail with the extra spread of a beta-binomial. The expected share is that of its earlier sightings, each
    known individual counting as seen 4 times more at the average share, so that a newcomer is not impossible. The
    share may differ from it for two reasons: the earlier sightings are a sample too, and encounters of one animal come
    in clumps.

    Args:
        matches, total: the individual's and all matches of the day.
        earlier, earlier_total: its and all sightings before.
        individuals: individuals known, at least 1.
        dispersion: variance of a day's counts over that of independent encounters, at least 1.
    """
    known = earlier_total + PRIOR_SIGHTINGS * individuals
    expected = (earlier + PRIOR_SIGHTINGS) / known
    if expected >= 1:
        return 1.0
    clumping = (dispersion - 1) / max(total - 1, 1)
    precision = 1 / min(clumping + 1 / known, 1.0)
    return float(stats.betabinom.sf(matches - 1, total, expected * precision, (1 - expected) * precision))


def day_dispersion(matches: Floats, expected: Floats) -> float:
    """How much more a day's counts spread around the expected ones than independent encounters would, at least 1.

    Pearson's statistic over its degrees of freedom (McCullagh and Nelder 1989, Generalized Linear Models, 4.5), drawn
    towards 1.5 by the weight of 5 degrees. The individual furthest above its expected count is left out, so that a
    second one that takes too many does not hide the first.

    Args:
        matches: of each individual but the one in question; float (n,).
        expected: shares of them, any positive numbers; float (n,).
    """
    if len(matches) > 2 and matches.sum() > 0:
        mean = matches.sum() * expected / expected.sum()
        highest = int(np.argmax(np.where(matches > mean, (matches - mean) ** 2 / mean, -1.0)))
        matches, expected = np.delete(matches, highest), np.delete(expected, highest)
    if len(matches) == 0 or matches.sum() == 0:
        return PRIOR_DISPERSION
    mean = matches.sum() * expected / expected.sum()
    statistic = float(((matches - mean) ** 2 / mean).sum())
    freedom = len(matches) - 1
    return max(1.0, (statistic + PRIOR_FREEDOM * PRIOR_DISPERSION) / (freedom + PRIOR_FREEDOM))


def _flag(rule: str, found: Contradiction, text: Callable[[IdentifiedEncounter, IdentifiedEncounter], str]) -> Flag:
    one, other = found.one, found.other
    words = text(one, other)
    if found.contradicted > 1:
        words += f"; it contradicts {found.contradicted} sightings of {one.name} in this way"
    return Flag(rule, one.individual, one.encounter, other.encounter, (one.encounter, other.encounter), words + ".")


def _alone(members: Sequence[IdentifiedEncounter], judged: Judged) -> None:
    """What a match contradicts by itself: the individual's known sex, or a second box of one picture."""
    for one in members:
        if not one.suspect:
            continue
        if one.sex in ("male", "female") and one.individual_sex in ("male", "female"):
            judged.compared[SEX] += 1
            if one.sex != one.individual_sex:
                text = f"A {one.sex} was matched to {one.name}, which is a {one.individual_sex}."
                judged.flags.append(Flag(SEX, one.individual, one.encounter, None, (one.encounter,), text))
        if max(Counter(picture for picture, _ in set(one.boxes)).values(), default=0) > 1:
            text = f"{one.name} stands twice in one picture of one encounter."
            judged.flags.append(Flag(ONE_PICTURE, one.individual, one.encounter, None, (one.encounter,), text))


def _travel_text(one: IdentifiedEncounter, other: IdentifiedEncounter) -> str:
    gap = gap_between(one, other)
    if gap is None or one.position is None or other.position is None:
        raise ValueError("only sightings with places and times can be too far apart")
    distance = distance_km(one.position, other.position)
    far = f"{distance:.0f} km" if distance >= 10 else f"{distance:.1f} km"
    reach = reachable_km(gap)
    return f"{one.name} was seen {far} apart within {_span(gap)}, where at most {reach:.1f} km are possible"


def _sexes_text(one: IdentifiedEncounter, other: IdentifiedEncounter) -> str:
    return f"{one.name}, whose sex is not known, was seen as a {one.sex} and as a {other.sex}"


def _life_stages_text(one: IdentifiedEncounter, other: IdentifiedEncounter) -> str:
    young, grown = (one, other) if one.life_stage == "juvenile" else (other, one)
    if young.start is None or grown.start is None:
        raise ValueError("only sightings with times can contradict each other's age")
    elapsed = grown.start - young.start
    if elapsed < timedelta(0):
        return f"{one.name} was seen as a fawn {_span(-elapsed)} after it was an adult"
    return f"{one.name} was seen as an adult {_span(elapsed)} after it was a fawn"


def _pictures_text(one: IdentifiedEncounter, other: IdentifiedEncounter) -> str:
    return f"{one.name} stands twice in one picture"


def _sizes_text(one: IdentifiedEncounter, other: IdentifiedEncounter) -> str:
    ratio = size_ratio(one, other)
    return f"{one.name} stands {ratio:.1f} times as tall in one picture as in another at the same distance"


def _judge_shares(
    sightings: Iterable[IdentifiedEncounter], earlier: Mapping[Hashable, int], individuals: int, judged: Judged
) -> None:
    """Holm's correction (1979, Scand. J. Stat. 6:65-70) over the individuals that were matched on the day."""
    matches: dict[Hashable, list[IdentifiedEncounter]] = defaultdict(list)
    for sighting in sightings:
        if sighting.suspect:
            matches[sighting.individual].append(sighting)
    total, before = sum(map(len, matches.values())), sum(earlier.values())
    everyone = sorted(matches.keys() | earlier.keys(), key=str)
    known = max(individuals, len(everyone), 1)
    counts = np.array([len(matches.get(key, ())) for key in everyone], dtype=np.float64)
    shares = np.array([earlier.get(key, 0) + PRIOR_SIGHTINGS for key in everyone], dtype=np.float64)
    tested = []
    for place, key in enumerate(everyone):
        if key in matches:
            dispersion = day_dispersion(np.delete(counts, place), np.delete(shares, place))
            members = len(matches[key])
            chance = share_probability(members, total, earlier.get(key, 0), before, known, dispersion)
            tested.append((chance, str(key), key))
    judged.compared[SHARE] += len(tested)
    for place, (probability, _, key) in enumerate(sorted(tested, key=lambda item: item[:2])):
        if probability * (len(tested) - place) > FAMILY_ERROR:
            return
        taken = sorted(matches[key], key=lambda s: (s.score, str(s.encounter)))
        if len(taken) < FEWEST_MATCHES:
            continue
        expected = total * (earlier.get(key, 0) + PRIOR_SIGHTINGS) / (before + PRIOR_SIGHTINGS * known)
        text = (
            f"{taken[0].name} took {len(taken)} of the day's {total} matches, where its earlier sightings let "
            f"about {expected:.0f} be expected (probability {probability:.0e})."
        )
        judged.flags.append(Flag(SHARE, key, taken[0].encounter, None, tuple(s.encounter for s in taken), text))


def _with_clock_warning(flags: Sequence[Flag], by_encounter: Mapping[Hashable, IdentifiedEncounter]) -> list[Flag]:
    """Where several individuals cannot have travelled between the same two cameras, a clock is the likelier culprit."""

    def cameras(flag: Flag) -> frozenset[str | None]:
        return frozenset(by_encounter[key].camera for key in flag.encounters)

    pairs: dict[frozenset[str | None], set[Hashable]] = defaultdict(set)
    for flag in flags:
        if flag.rule == TRAVEL:
            pairs[cameras(flag)].add(flag.individual)
    result = []
    for flag in flags:
        many = len(pairs[cameras(flag)]) if flag.rule == TRAVEL else 0
        note = f" The same holds for {many} individuals between these two cameras: is a clock or a position wrong?"
        result.append(replace(flag, text=flag.text + note) if many >= CLOCK_SUSPECTED_FROM else flag)
    return result


def _span(gap: timedelta) -> str:
    minutes = gap.total_seconds() / 60
    if minutes < 120:
        return f"{minutes:.0f} minutes"
    return f"{minutes / 60:.0f} hours" if minutes < 72 * 60 else f"{minutes / 1440:.0f} days"
