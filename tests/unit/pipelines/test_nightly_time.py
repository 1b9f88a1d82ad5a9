"""The nightly run comes once a night, at the same time of day, in every place of the world: also when clocks are put forward or back."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo, available_timezones

import pytest
import yaml
from prefect.server.schemas.schedules import CronSchedule

SCHEDULES = [
    schedule
    for deployment in yaml.safe_load(Path("prefect.yaml").read_text())["deployments"]
    for schedule in deployment.get("schedules", [])
]
DAYS = [datetime(2026, 1, 1) + timedelta(days=day) for day in range(4 * 365)]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: schedule["slug"])
def test_a_schedule_names_its_time_zone(schedule: dict) -> None:
    assert schedule.get("timezone") in available_timezones() and "/" in schedule["timezone"], (
        "a place, whose clock it goes by"
    )


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: schedule["slug"])
def test_a_scheduled_time_is_never_left_out_nor_there_twice(schedule: dict) -> None:
    """A local time that a clock leaves out, or shows twice, has two offsets from UTC; of 2:00 that is so in 154 zones."""
    minute, hour, *_ = schedule["cron"].split()
    for name in available_timezones():
        zone = ZoneInfo(name)
        for day in DAYS:
            time = day.replace(hour=int(hour), minute=int(minute), tzinfo=zone)
            assert time.utcoffset() == time.replace(fold=1).utcoffset(), f"{time} in {name}"


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: schedule["slug"])
@pytest.mark.parametrize("start", [datetime(2027, 3, 25, tzinfo=UTC), datetime(2026, 10, 22, tzinfo=UTC)])
def test_prefect_starts_it_once_a_night_at_one_time_of_day(schedule: dict, start: datetime) -> None:
    rule = CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"])
    dates = [date.astimezone(ZoneInfo(schedule["timezone"])) for date in asyncio.run(rule.get_dates(n=7, start=start))]
    minute, hour, *_ = schedule["cron"].split()
    assert {(date.hour, date.minute) for date in dates} == {(int(hour), int(minute))}
    assert [date.date() for date in dates] == [dates[0].date() + timedelta(days=day) for day in range(7)]
