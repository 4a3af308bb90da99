//! Times as people write and read them: UTC, in the form of RFC 3339.

use std::time::{SystemTime, UNIX_EPOCH};

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// Milliseconds since the Unix epoch, now. A clock before 1970 counts as 1970.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// `2026-01-31 13:05:59.123`, in UTC.
pub(crate) fn format(ms: u64) -> String {
    // Stamps end in the year 4199; what is beyond is shown as the last moment that fits.
    let ms = i64::try_from(ms).unwrap_or(i64::MAX).min(253_402_300_799_999);
    let (days, rest) = (ms.div_euclid(DAY_MS), ms.rem_euclid(DAY_MS));
    let (year, month, day) = civil(days);
    let (hours, minutes) = (rest / 3_600_000, rest / 60_000 % 60);
    let (seconds, millis) = (rest / 1000 % 60, rest % 1000);
    format!("{year:04}-{month:02}-{day:02} {hours:02}:{minutes:02}:{seconds:02}.{millis:03}")
}

/// Reads `2026-01-31`, with a time of day behind it (`T` or a space between, `Z` or nothing at the end), or a span
/// that has passed since: `90s`, `15m`, `2h`, `3d`.
pub(crate) fn parse(text: &str, now_ms: u64) -> Option<u64> {
    for (unit, ms) in [("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", DAY_MS as u64)] {
        if let Some(count) = text.strip_suffix(unit).and_then(|count| count.parse::<u64>().ok()) {
            return Some(now_ms.saturating_sub(count.checked_mul(ms)?));
        }
    }
    let text = text.strip_suffix('Z').unwrap_or(text);
    let (date, time) = text.split_once(['T', ' ']).unwrap_or((text, "00:00"));
    let [year, month, day] = numbers(date, '-')?[..] else { return None };
    let (clock, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let (hour, minute, second) = match numbers(clock, ':')?[..] {
        [hour, minute] => (hour, minute, 0),
        [hour, minute, second] => (hour, minute, second),
        _ => return None,
    };
    let millis = format!("{fraction:0<3}").get(..3)?.parse::<i64>().ok()?;
    let days = days(year, month, day)?;
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    u64::try_from(days * DAY_MS + ((hour * 60 + minute) * 60 + second) * 1000 + millis).ok()
}

fn numbers(text: &str, separator: char) -> Option<Vec<i64>> {
    let digits = |part: &str| (1..=4).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
    text.split(separator).map(|part| part.parse().ok().filter(|_| digits(part))).collect()
}

/// Days since the epoch to year, month, day. Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

/// The inverse of [`civil`]; `None` if there is no such day.
fn days(year: i64, month: i64, day: i64) -> Option<i64> {
    let shifted_year = year - i64::from(month <= 2);
    let (era, year_of_era) = (shifted_year.div_euclid(400), shifted_year.rem_euclid(400));
    let shifted_month = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * 146_097 + day_of_era - 719_468;
    (civil(days) == (year, month, day)).then_some(days)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_come_back_and_known_ones_are_right() {
        assert_eq!(format(0), "1970-01-01 00:00:00.000");
        assert_eq!(format(951_827_696_789), "2000-02-29 12:34:56.789");
        for ms in (0..4_000_000_000_000).step_by(7_777_777_777) {
            assert_eq!(parse(&format(ms), 0), Some(ms));
        }
        assert_eq!(parse("2000-02-29T12:34:56.789Z", 0), Some(951_827_696_789));
        assert_eq!(parse("2000-02-29", 0), Some(951_782_400_000));
        assert_eq!(parse("2000-02-29 01:02", 0), Some(951_786_120_000));
        assert_eq!((parse("15m", 1_000_000), parse("2d", 5)), (Some(100_000), Some(0)));
        assert!(format(u64::MAX).starts_with("9999-12-31"));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "soon",
            "m",
            "-1m",
            "2001-02-29",
            "2000-13-01",
            "2000-00-01",
            "2000-1",
            "2000-01-01T24:00",
            "2000-01-01T1",
            "1969-12-31",
            "2000-01-01T00:00:00.x",
            "2000-01-01T00:00:00.é1",
            "+2000-01-01",
            "99999999999999999999d",
            "18446744073709551615d",
        ] {
            assert_eq!(parse(text, 0), None, "{text}");
        }
    }
}
