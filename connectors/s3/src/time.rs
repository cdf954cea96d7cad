//! Times as servers write and read them.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;

/// `Retry-After`: seconds, or a date.
pub(crate) fn retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    let seconds = text.trim().parse::<u64>().ok();
    let seconds = seconds.or_else(|| u64::try_from(timestamp(text)?.as_second() - now.as_second()).ok());
    seconds.map(|seconds| Duration::from_secs(seconds.min(3600)))
}

/// A time as headers and documents write it.
pub(crate) fn timestamp(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    if text.is_empty() {
        return None;
    }
    text.parse().ok().or_else(|| {
        let parsed = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text);
        parsed.ok()
    })
}

/// A time in the future or past, as a server reads it.
pub(crate) fn time_in(days: u32) -> String {
    let later = SystemTime::now() + Duration::from_secs(u64::from(days) * 86_400);
    Timestamp::try_from(later).map_or_else(
        |_| String::new(),
        |time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    )
}

/// A length of time, roughly, for a person.
pub(crate) fn duration(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} seconds"),
        120..=7199 => format!("{} minutes", seconds / 60),
        7200..=172_799 => format!("{} hours", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_servers_read_them() {
        let text = time_in(1);
        assert_eq!(text.len(), "2026-11-24T03:00:00Z".len());
        let ahead = timestamp(&text).unwrap().as_second() - Timestamp::now().as_second();
        assert!((86_300..86_500).contains(&ahead), "{ahead}");
    }

    #[test]
    fn the_time_to_wait_may_be_a_date() {
        let now: Timestamp = "2026-11-24T03:00:00Z".parse().unwrap();
        assert_eq!(
            retry_after("Tue, 24 Nov 2026 03:01:00 GMT", now),
            Some(Duration::from_mins(1))
        );
        assert_eq!(retry_after("Tue, 24 Nov 2026 02:01:00 GMT", now), None);
    }
}
