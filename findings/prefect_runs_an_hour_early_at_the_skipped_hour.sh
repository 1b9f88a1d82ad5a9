#!/usr/bin/env bash
# prefect 3.8.8 (with fastapi below 0.151 and sqlalchemy below 2.1, which its server starts with).
# A cron schedule `0 2 * * *` in Europe/Berlin in the night in which 02:00 does not exist (28 March 2027): the run is planned for 01:00, an
# hour EARLY. cron daemons run such a job right after the gap (03:00). Two nightly runs are 23 hours apart, then 24.
# Output seen: 2027-03-28 01:00+01:00 (00:00 UTC), the next 2027-03-29 02:00+02:00 (00:00 UTC)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check prefect==3.8.8 'fastapi<0.151' 'sqlalchemy<2.1'
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import asyncio
from datetime import datetime
from zoneinfo import ZoneInfo

from prefect.server.schemas.schedules import CronSchedule

berlin = ZoneInfo("Europe/Berlin")
schedule = CronSchedule(cron="0 2 * * *", timezone="Europe/Berlin")
start = datetime(2027, 3, 27, 12, tzinfo=ZoneInfo("UTC"))
dates = [date.astimezone(berlin).isoformat(timespec="minutes") for date in asyncio.run(schedule.get_dates(n=2, start=start))]
print(dates)
assert dates == ["2027-03-28T01:00+01:00", "2027-03-29T02:00+02:00"], "the behaviour has changed"
PY
